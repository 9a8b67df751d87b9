"""The one way in: group commit, repeats, and what is left by an insert that was cut short."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.clickhouse_client import ClickHouseClient, load_query
from app.core.errors import AnalyticsError, StoreUnavailableError, WriteBufferFullError
from app.ingest.events import Event, Events
from app.ingest.lease import lease_for
from app.ingest.writer import Writer
from app.schemas.events import EventType
from tests.conftest import NOW
from tests.support.consistency import assert_rollups_match

DAY = 24 * 60 * 60
AN_HOUR_AGO = int(NOW.timestamp()) - 3600


def event(event_id: int | None = None, at: int = AN_HOUR_AGO, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "id": uuid4() if event_id is None else UUID(int=event_id),
        "user_id": uuid4(),
        "movie_id": UUID(int=9),
        "event_type": EventType.START,
        "event_time": at,
        "position_seconds": 0,
        "session_id": None,
        "metadata": "{}",
        "repeats_any_of_day": False,
    }
    return Event(**{**values, **fields})


@asynccontextmanager
async def started(store: ClickHouseClient, **limits: Any) -> AsyncIterator[Writer]:
    defaults = {"batch_events": 1000, "batch_age": 0.0, "buffer_events": 10_000}
    writer = Writer(store, lease_for(store), **{**defaults, **limits}, clock=lambda: NOW)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


async def write(writer: Writer, events: Iterable[Event], *, limited: bool = True) -> list[bool]:
    outcomes: list[bool] = (await writer.write(Events.of(events), limited=limited)).tolist()
    return outcomes


async def batch_sizes(store: ClickHouseClient) -> list[int]:
    rows = await store.execute(
        "SELECT count() AS n FROM viewing_events GROUP BY batch_id ORDER BY batch_id"
    )
    return [row["n"] for row in rows]


async def test_what_arrives_together_is_one_insert(store: ClickHouseClient) -> None:
    async with started(store, batch_events=64, batch_age=3600) as writer:
        outcomes = await asyncio.gather(*(write(writer, [event()]) for _ in range(64)))
    assert outcomes == [[True]] * 64
    assert await batch_sizes(store) == [64]


async def test_what_arrives_during_a_flush_is_the_next(store: ClickHouseClient) -> None:
    async with started(store) as writer:
        first = asyncio.create_task(write(writer, [event() for _ in range(3)]))
        for _ in range(5):  # its turn, then the writer's, which waits for the engine
            await asyncio.sleep(0)
        others = [asyncio.create_task(write(writer, [event()])) for _ in range(5)]
        await asyncio.gather(first, *others)
    assert await batch_sizes(store) == [3, 5]


async def test_an_incomplete_batch_is_written_when_it_is_old(store: ClickHouseClient) -> None:
    async with started(store, batch_age=0.01) as writer:
        assert await write(writer, [event()]) == [True]


async def test_closing_writes_what_waits(store: ClickHouseClient) -> None:
    async with started(store, batch_age=3600) as writer:
        waiting = asyncio.create_task(write(writer, [event(), event()]))
        await asyncio.sleep(0)
    assert await waiting == [True, True]
    assert await batch_sizes(store) == [2]
    with pytest.raises(StoreUnavailableError, match="stopping"):
        await write(writer, [event()])


async def test_a_full_buffer_refuses_and_keeps_its_promises(store: ClickHouseClient) -> None:
    async with started(store, batch_age=3600, buffer_events=10) as writer:
        waiting = asyncio.create_task(write(writer, [event() for _ in range(9)]))
        await asyncio.sleep(0)
        with pytest.raises(WriteBufferFullError):
            await write(writer, [event(), event()])
        fits = asyncio.create_task(write(writer, [event()]))
        await asyncio.sleep(0)
    assert await waiting == [True] * 9
    assert await fits == [True]
    assert await batch_sizes(store) == [10]


async def test_who_is_not_limited_takes_no_room_of_others(store: ClickHouseClient) -> None:
    async with started(store, batch_age=3600, buffer_events=10) as writer:
        large = asyncio.create_task(write(writer, [event() for _ in range(30)], limited=False))
        await asyncio.sleep(0)
        fits = asyncio.create_task(write(writer, [event() for _ in range(10)]))
        await asyncio.sleep(0)
        with pytest.raises(WriteBufferFullError):
            await write(writer, [event()])
    assert await large == [True] * 30
    assert await fits == [True] * 10


async def test_there_is_room_again_after_a_flush(store: ClickHouseClient) -> None:
    async with started(store, buffer_events=10) as writer:
        for _ in range(3):
            assert await write(writer, [event() for _ in range(10)]) == [True] * 10


async def test_a_caller_that_goes_away_loses_nothing(store: ClickHouseClient) -> None:
    async with started(store, batch_age=3600) as writer:
        gone = asyncio.create_task(write(writer, [event(1)]))
        stays = asyncio.create_task(write(writer, [event(2)]))
        await asyncio.sleep(0)
        gone.cancel()
    assert await stays == [True]
    assert await batch_sizes(store) == [2]


async def test_merges_of_parts_lose_nothing(store: ClickHouseClient) -> None:
    async with started(store) as writer:
        for _ in range(4):
            await write(writer, [event(movie_id=UUID(int=n)) for n in range(5)])
    for rollup in ("popular_content", "user_stats", "traffic", "audience"):
        await store.execute(f"OPTIMIZE TABLE {rollup} FINAL")
    await assert_rollups_match(store)


async def test_repeats_are_told_by_id_and_second(store: ClickHouseClient) -> None:
    async with started(store) as writer:
        assert await write(writer, [event(1), event(2), event(1)]) == [True, True, False]
        assert await write(writer, [event(1), event(3)]) == [False, True]
        # A producer repeats an event, it does not re-date it: another time is another event.
        assert await write(writer, [event(1, at=AN_HOUR_AGO + 1)]) == [True]
        assert await write(writer, [event(1, at=AN_HOUR_AGO - 200 * DAY)]) == [True]
        assert await write(writer, [event(1, at=AN_HOUR_AGO - 200 * DAY)]) == [False]
    async with started(store) as restarted:
        assert await write(restarted, [event(2), event(1)]) == [False, False]


async def test_repeats_in_one_flush_of_many_callers(store: ClickHouseClient) -> None:
    async with started(store, batch_events=32, batch_age=3600) as writer:
        outcomes = await asyncio.gather(*(write(writer, [event(1)]) for _ in range(32)))
    assert sorted(outcomes) == [[False]] * 31 + [[True]]


async def test_an_undated_event_repeats_any_of_the_last_day(store: ClickHouseClient) -> None:
    now = int(NOW.timestamp())

    def undated(event_id: int) -> Event:
        return event(event_id, at=now, repeats_any_of_day=True)

    async with started(store) as writer:
        await write(writer, [event(1, at=now - DAY + 60), event(2, at=now - DAY - 60)])
        assert await write(writer, [undated(1), undated(2), undated(3)]) == [False, True, True]
        assert await write(writer, [undated(3), undated(2)]) == [False, False]
        assert await write(writer, [event(4, at=now - 60), undated(4)]) == [True, False]


@asynccontextmanager
async def refusing(
    store: ClickHouseClient, rollup: str, suffix: str = "_mv"
) -> AsyncIterator[None]:
    """Inserts get as far as this rollup, and fail there."""
    [view] = await store.execute(
        "SELECT as_select FROM system.tables"
        " WHERE database = currentDatabase() AND name = {name:String}",
        {"name": f"{rollup}{suffix}"},
    )
    # By what all of them group by, one way or another.
    failing = re.sub(r"\bevent_time\b", "(event_time + throwIf(1))", view["as_select"], count=1)
    await store.execute(f"ALTER TABLE {rollup}{suffix} MODIFY QUERY {failing}")
    try:
        yield
    finally:
        await store.execute(f"ALTER TABLE {rollup}{suffix} MODIFY QUERY {view['as_select']}")


@pytest.mark.parametrize("rollup", ["popular_content", "user_stats", "traffic", "audience"])
async def test_an_insert_that_fails_half_way_is_repaired_before_the_next(
    store: ClickHouseClient, rollup: str
) -> None:
    months = [AN_HOUR_AGO, AN_HOUR_AGO - 40 * DAY]
    async with started(store) as writer:
        await write(writer, [event(n, at=at) for n in range(5) for at in months])
        torn = [event(n, at=at) for n in range(3, 9) for at in months]
        async with refusing(store, rollup):
            with pytest.raises(AnalyticsError):
                await write(writer, torn)
        assert sum(await batch_sizes(store)) > 10, "nothing was torn"
        with pytest.raises(AssertionError):
            await assert_rollups_match(store)
        await write(writer, torn)
        await write(writer, [event(100)])
    assert sum(await batch_sizes(store)) == 9 * 2 + 1
    await assert_rollups_match(store)


async def test_a_torn_batch_is_repaired_without_another_write(store: ClickHouseClient) -> None:
    async with started(store) as writer:
        async with refusing(store, "traffic"):
            with pytest.raises(AnalyticsError):
                await write(writer, [event()])
        while not await store.execute("SELECT 1 FROM traffic"):
            pass
    await assert_rollups_match(store)


async def test_the_start_repairs_what_a_dead_process_left(store: ClickHouseClient) -> None:
    async with started(store) as writer:
        await write(writer, [event(n, at=AN_HOUR_AGO - n * DAY) for n in range(50)])
        views = ("popular_content_mv", "user_stats_mv", "traffic_mv", "audience_mv")
        for view in views:
            await store.execute(f"DETACH TABLE {view}")
        await write(writer, [event(n, at=AN_HOUR_AGO - n * DAY) for n in range(40, 90)])
        for view in views:
            await store.execute(f"ATTACH TABLE {view}")
    with pytest.raises(AssertionError):
        await assert_rollups_match(store)
    async with started(store):
        await assert_rollups_match(store)
    async with started(store):
        await assert_rollups_match(store)


@pytest.mark.parametrize("rollups", [("audience",), ("traffic", "user_stats", "popular_content")])
async def test_a_rollup_that_is_new_to_a_store_is_filled(
    store: ClickHouseClient, rollups: tuple[str, ...]
) -> None:
    async with started(store) as writer:
        for start in range(0, 60, 10):
            await write(
                writer, [event(n, at=AN_HOUR_AGO - n * DAY) for n in range(start, start + 10)]
            )
    for rollup in rollups:
        await store.execute(f"DROP TABLE {rollup}_mv")
        await store.execute(f"DROP TABLE {rollup}")
    await store.ensure_tables()
    with pytest.raises(AssertionError):
        await assert_rollups_match(store)
    async with refusing(store, rollups[-1]):
        # It fails half-way, and what is stored meanwhile is not the start's.
        writer = Writer(
            store, lease_for(store), batch_events=1, batch_age=0.0, buffer_events=10_000,
            clock=lambda: NOW,
        )  # fmt: skip
        with pytest.raises(AnalyticsError):
            await writer.start()
    await store.ensure_tables()
    async with started(store) as writer:
        await assert_rollups_match(store)
        await write(writer, [event(100)])
    await assert_rollups_match(store)
    assert await store.execute(load_query("unfilled_rollups")) == []
