"""Several writers on one server: they take turns, whatever becomes of one of them."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.core.clickhouse_client import ClickHouseClient, Fence, Row
from app.core.config import Settings
from app.core.errors import AnalyticsError, StoreUnavailableError
from app.ingest.events import Event, Events
from app.ingest.lease import SharedLease, Turn
from app.ingest.rebuild import rebuild
from app.ingest.removal import begin_removal, carry_out
from app.ingest.rollups import load_rollups, repair_rollup
from app.ingest.tombstones import Tombstones
from tests.conftest import NOW, PASSWORD, drop_database, opened
from tests.integration.test_writer import AN_HOUR_AGO, DAY, event, refusing, started, write
from tests.support.consistency import assert_rollups_match
from tests.support.native_server import native_server
from tests.support.wire import wire_to


@pytest.fixture
def engine() -> str:
    return "server"


@asynccontextmanager
async def stores(settings: Settings, count: int) -> AsyncIterator[list[ClickHouseClient]]:
    """Of so many processes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(settings)) for _ in range(count)]


async def insert(
    store: ClickHouseClient, number: int, events: Sequence[Event], fence: Fence | None = None
) -> None:
    """As the writer does, whoever has the turn."""
    block = Events.of(events).block(number)
    await store.stage(block, fence=fence)
    await store.insert_staged("viewing_events", block, fence=fence)


async def lease_tables(store: ClickHouseClient) -> list[str]:
    """There may be none for an instant, while it is renamed."""
    while True:
        rows = await store.execute(
            "SELECT name FROM system.tables"
            " WHERE database = currentDatabase() AND name LIKE 'write_lease%'"
        )
        if rows:
            return [row["name"] for row in rows]


async def is_free(store: ClickHouseClient) -> bool:
    [name] = await lease_tables(store)
    *_, number, complete = name.split("_")
    return number == complete


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def look_up_for(store: ClickHouseClient, seconds: int, turn: Turn) -> None:
    sql = f"SELECT sleepEachRow(1) FROM numbers({seconds}) SETTINGS max_block_size = 1"
    await store.execute(sql, ahead=True, fence=turn.fence)


async def insert_for(store: ClickHouseClient, seconds: int, turn: Turn) -> None:
    sql = (
        "INSERT INTO viewing_events (event_time) SELECT toDateTime('2020-01-01 00:00:00')"
        f" FROM numbers({seconds}) WHERE sleepEachRow(1) = 0 SETTINGS max_block_size = 1"
    )
    await store.execute(sql, ahead=True, fence=turn.fence)


async def test_the_same_events_by_many_writers_are_stored_once(settings: Settings) -> None:
    dice = random.Random(4)
    events = [event(n, at=AN_HOUR_AGO - n % 60 * DAY) for n in range(400)]
    async with stores(settings, 4) as several, AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(started(store)) for store in several]

        async def send(turn: int) -> int:
            mine = dice.sample(events, len(events))
            stored = 0
            for start in range(0, len(mine), 50):
                stored += sum(await write(writers[turn], mine[start : start + 50]))
            return stored

        assert sum(await asyncio.gather(*(send(turn) for turn in range(4)))) == len(events)
        rows = await several[0].execute(
            "SELECT count() AS n, uniqExact(id) AS ids FROM viewing_events"
        )
        assert rows == [{"n": 400, "ids": 400}]
        await assert_rollups_match(several[0])


async def test_turns_are_numbered_from_the_first_start_on(settings: Settings) -> None:
    async with stores(settings, 8) as several:
        leases = [SharedLease(store) for store in several]

        async def take_turns(lease: SharedLease) -> list[int]:
            numbers = []
            for _ in range(5):
                turn = await lease.take()
                numbers.append(turn.number)
                await lease.give_back()
            return numbers

        taken = await asyncio.gather(*(take_turns(lease) for lease in leases))
        assert sorted(number for numbers in taken for number in numbers) == list(range(1, 41))
        assert await lease_tables(several[0]) == ["write_lease_40_40"]


async def test_what_is_written_after_the_turn_was_taken_away_is_refused(settings: Settings) -> None:
    async with stores(settings, 2) as (one, other):
        asleep, awake = SharedLease(one), SharedLease(other)
        lost = await asleep.take()
        began = time.monotonic()
        turn = await awake.take()
        assert time.monotonic() - began < 5
        assert turn.number > lost.number
        with pytest.raises(StoreUnavailableError):
            await insert(one, lost.number, [event(1)], lost.fence)
        await insert(other, turn.number, [event(2)], turn.fence)
        await awake.give_back()
        await asleep.give_back()  # it doesn't know yet
        assert (await asleep.take()).number > turn.number
        assert await one.execute("SELECT id FROM viewing_events") == [{"id": str(UUID(int=2))}]


async def test_a_turn_is_not_taken_away_while_its_statement_runs(settings: Settings) -> None:
    async with stores(settings, 2) as (one, other):
        turn = await SharedLease(one).take()
        slow = asyncio.create_task(insert_for(one, 5, turn))
        next_turn = asyncio.create_task(SharedLease(other).take())
        await asyncio.wait([slow, next_turn], return_when=asyncio.FIRST_COMPLETED)
        assert slow.done()
        await slow
        await next_turn


async def test_what_another_writer_left_torn_is_repaired(settings: Settings) -> None:
    """By one that has nothing to write, too."""
    months = [AN_HOUR_AGO, AN_HOUR_AGO - 40 * DAY]
    async with stores(settings, 2) as (one, other), started(other):
        left = SharedLease(one)
        turn = await left.take()
        events = [event(n, at=at) for n in range(5) for at in months]
        async with refusing(one, "traffic"):
            with pytest.raises(AnalyticsError):
                await insert(one, turn.number, events, turn.fence)
        with pytest.raises(AssertionError):
            await assert_rollups_match(one)
        await until(lambda: is_free(one))
        await assert_rollups_match(one)
        [counted] = await one.execute("SELECT count() AS n FROM viewing_events")
        assert counted["n"] > 0, "nothing was torn"


async def test_what_still_runs_of_a_dead_writer_is_killed(settings: Settings) -> None:
    async with stores(settings, 2) as (one, other):
        lease = SharedLease(one)
        turn = await lease.take()
        slow = asyncio.create_task(insert_for(one, 60, turn))
        running = "SELECT count() AS n FROM system.processes WHERE query LIKE '%numbers(60)%'"

        async def runs() -> bool:
            return bool((await other.execute(running))[0]["n"] == 2)  # with this one

        await until(runs)
        # Its own process knows that it has failed, and need not wait for it.
        async with asyncio.timeout(10):
            same = SharedLease(other)
            same._left = lease._left
            await same.take()
        with pytest.raises(AnalyticsError):
            await slow
        assert await one.execute("SELECT count() AS n FROM viewing_events") == [{"n": 0}]


async def test_rows_with_greater_numbers_than_the_lease_are_put_in_order(
    settings: Settings,
) -> None:
    """After a move from another server, or when the server lost power and the name with it."""
    async with stores(settings, 1) as (store,):
        async with started(store) as writer:
            await write(writer, [event(1)])
        async with refusing(store, "user_stats"):
            with pytest.raises(AnalyticsError):
                await insert(store, 7_000, [event(n) for n in range(2, 9)])
        with pytest.raises(AssertionError):
            await assert_rollups_match(store)
        async with started(store) as writer:
            await assert_rollups_match(store)
            await write(writer, [event(100)])
        [last] = await store.execute("SELECT max(batch_id) AS n FROM viewing_events")
        assert last["n"] > 7_000
        await assert_rollups_match(store)


async def test_what_is_repaired_after_the_turn_was_taken_away_is_refused(
    settings: Settings,
) -> None:
    async with stores(settings, 2) as (one, other):
        lost = await SharedLease(one).take()
        await SharedLease(other).take()
        for rollup in await load_rollups(one):
            with pytest.raises(StoreUnavailableError, match="has taken the turn"):
                await repair_rollup(one, rollup, 0, lost.number, lost.fence)


class Frozen:
    """A process that stops before it empties its first partition, and goes on late."""

    def __init__(self, store: ClickHouseClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stopped = asyncio.Event()
        self.goes_on = asyncio.Event()
        execute = store.execute

        async def late(sql: str, *args: Any, **kwargs: Any) -> list[Row]:
            if re.match(r"ALTER TABLE \S+ (?:DROP|MOVE) PARTITION", sql):
                self.stopped.set()
            if self.stopped.is_set():
                await self.goes_on.wait()
            return await execute(sql, *args, **kwargs)

        monkeypatch.setattr(store, "execute", late)


async def test_an_erasure_that_goes_on_late_takes_nothing_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = AN_HOUR_AGO - 60 * DAY
    async with stores(settings, 2) as (one, other), started(other) as awake:
        user = UUID(int=7)
        # Alone in the month.
        await write(awake, [event(1, at=long_ago, user_id=user), event(2)])
        frozen = Frozen(one, monkeypatch)
        lease = SharedLease(one)
        turn = await lease.take()
        removal = await begin_removal(
            one, Tombstones(one), user, anonymise=False,
            oldest=NOW - timedelta(days=365), fence=turn.fence,
        )  # fmt: skip
        erasing = asyncio.create_task(carry_out(one, removal, turn.number, turn.fence))
        await frozen.stopped.wait()
        await write(awake, [event(3, at=long_ago)])
        frozen.goes_on.set()
        with pytest.raises(AnalyticsError):
            await erasing
        ids = await other.execute("SELECT id FROM viewing_events ORDER BY id")
        assert [UUID(row["id"]).int for row in ids] == [2, 3]
        await assert_rollups_match(other)


async def test_a_repair_that_goes_on_late_takes_nothing_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = AN_HOUR_AGO - 60 * DAY
    day = datetime.fromtimestamp(long_ago, UTC).date()
    async with stores(settings, 2) as (one, other):
        async with started(one) as asleep, started(other) as awake:
            await write(awake, [event(1, at=long_ago), event(2)])
            # Rollups have what isn't there.
            await other.execute(f"ALTER TABLE viewing_events DROP PARTITION {day:%Y%m}")
            frozen = Frozen(one, monkeypatch)
            repairing = asyncio.create_task(
                rebuild(
                    one, await load_rollups(other), [day],
                    in_turn=asleep.in_turn, first_kept=day - timedelta(days=9),
                )
            )  # fmt: skip
            await frozen.stopped.wait()
            await write(awake, [event(3, at=long_ago)])
            frozen.goes_on.set()
            with pytest.raises(AnalyticsError):
                await repairing
        # Of the rollups, the first.
        counts = await other.execute("SELECT sum(events) AS events FROM popular_content")
        assert counts == [{"events": 2}]


async def test_a_turn_is_not_taken_away_while_its_look_up_runs(settings: Settings) -> None:
    async with stores(settings, 2) as (one, other):
        turn = await SharedLease(one).take()
        slow = asyncio.create_task(look_up_for(one, 4, turn))
        taken = asyncio.create_task(SharedLease(other).take())
        await asyncio.wait([slow, taken], return_when=asyncio.FIRST_COMPLETED)
        assert slow.done()
        await slow
        await taken


async def test_who_is_farther_from_the_server_has_turns_too(
    settings: Settings, clickhouse_server: dict[str, Any]
) -> None:
    host, port = settings.clickhouse_host or "", settings.clickhouse_port
    with wire_to(host, port, delay=0.01) as wire:
        away = settings.model_copy(
            update={"clickhouse_host": "127.0.0.1", "clickhouse_port": wire.port}
        )
        async with opened(settings) as near, opened(away) as far:
            turns = {near: 0, far: 0}

            async def take_turns(store: ClickHouseClient) -> None:
                lease = SharedLease(store)
                while sum(turns.values()) < 60:
                    await lease.take()
                    await asyncio.sleep(0.01)  # something is written
                    await lease.give_back()
                    turns[store] += 1

            await asyncio.gather(take_turns(near), take_turns(far))
            assert min(turns.values()) >= 2, turns


async def test_who_waits_in_vain_gives_up(settings: Settings) -> None:
    async with stores(settings, 2) as (one, other):
        turn = await SharedLease(one).take()
        slow = asyncio.create_task(look_up_for(one, 12, turn))
        with pytest.raises(StoreUnavailableError, match="without a pause"):
            await SharedLease(other).take()
        await slow


async def test_a_server_that_lost_power_and_the_name_with_it(tmp_path: Path) -> None:
    """To a writer that was there before and knows of nothing: the rows outlive the name."""
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(_env_file=None, **server.settings)
        async with stores(settings, 2) as (store, other), started(store) as writer:
            await write(writer, [event(1)])
            [lease] = await lease_tables(store)
            number = int(lease.split("_")[-1]) + 1
            async with refusing(other, "user_stats"):
                with pytest.raises(AnalyticsError):
                    await insert(other, number, [event(n) for n in range(2, 9)])
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await write(writer, [event(100)])
            await assert_rollups_match(store)
            last = "SELECT max(batch_id) AS n FROM viewing_events"
            assert await store.execute(last) == [{"n": number + 1}]


async def test_a_database_that_was_dropped_is_made_again(settings: Settings) -> None:
    for _ in range(2):
        async with opened(settings) as store, started(store) as writer:
            assert await write(writer, [event(1)]) == [True]
        await drop_database(settings)
