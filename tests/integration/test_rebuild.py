"""Rollups that are made anew for some days: what they hold, and what is seen meanwhile."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta

import pytest

from app.core.clickhouse_client import ClickHouseClient
from app.ingest.rebuild import rebuild
from app.ingest.rollups import load_rollups
from tests.conftest import NOW
from tests.integration.test_writer import AN_HOUR_AGO, DAY, event, started, write
from tests.support.consistency import assert_rollups_match
from tests.support.repair import left_behind


def day_of(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


EVERY_DAY = [NOW.date() - timedelta(days=back) for back in range(366)]


async def test_days_are_what_the_events_say(store: ClickHouseClient) -> None:
    at = [AN_HOUR_AGO - n * DAY for n in range(0, 80, 3)]
    async with started(store) as writer:
        for n, when in enumerate(at):
            await write(writer, [event(100 * n + m, at=when - m) for m in range(9)])
        # A month without events, though the rollups have it, and the other way round.
        gone, emptied = sorted({day_of(when).strftime("%Y%m") for when in at})[:2]
        await store.execute(f"ALTER TABLE viewing_events DROP PARTITION {gone}")
        for rollup in ("popular_content", "user_stats", "traffic"):
            await store.execute(f"ALTER TABLE {rollup} DROP PARTITION {emptied}")
        await store.execute("ALTER TABLE audience DROP PARTITION tuple()")
        with pytest.raises(AssertionError):
            await assert_rollups_match(store)
        rollups = await load_rollups(store)

        async def flush_meanwhile() -> None:
            for n in range(40):
                await write(writer, [event(20_000 + n, at=at[n % 9])])
                await asyncio.sleep(0.02)

        writing = asyncio.create_task(flush_meanwhile())
        await rebuild(store, rollups, EVERY_DAY, in_turn=writer.in_turn, first_kept=EVERY_DAY[-1])
        await writing
        await assert_rollups_match(store)
        # Of one day, while events of other months come.
        doubled = "INSERT INTO {0} SELECT * FROM {0} WHERE toDate({1}) = today()"
        await store.execute(doubled.format("popular_content", "event_date"))
        one_day = asyncio.create_task(
            rebuild(store, rollups, [NOW.date()], in_turn=writer.in_turn, first_kept=EVERY_DAY[-1])
        )
        sent = 0
        while not one_day.done():
            await write(writer, [event(40_000 + sent, at=AN_HOUR_AGO - sent % 90 * DAY)])
            sent += 7
        await one_day
        assert sent > 7 * 3
        await assert_rollups_match(store)
        await write(writer, [event(30_000)])
        await assert_rollups_match(store)
    assert await left_behind(store) == []


async def test_a_swap_that_was_decided_is_carried_out_before_anything_else(
    store: ClickHouseClient,
) -> None:
    days = [AN_HOUR_AGO - n * DAY for n in (0, 40)]
    async with started(store) as writer:
        # In the second turn: the start had the first.
        await write(writer, [event(10 * n + m, at=at) for n, at in enumerate(days) for m in (1, 2)])
    partitions = [f"{day_of(at):%Y%m}" for at in days]
    # As a process leaves it that dies in the middle: old rows and new ones are there.
    swaps = {"popular_content": partitions, "user_stats": [*partitions, "209901"]}
    for rollup, decided in swaps.items():
        for name in (f"swapping_3_{rollup}", f"swapping_3_{rollup}_emptied"):
            await store.execute(f"CREATE TABLE {name} AS {rollup}")
        await store.execute(f"INSERT INTO swapping_3_{rollup} SELECT * FROM {rollup}")
        await store.execute(
            f"ALTER TABLE swapping_3_{rollup} MODIFY COMMENT '{json.dumps(decided)}'"
        )
        await store.execute(f"INSERT INTO {rollup} SELECT * FROM {rollup}")
    # A month of which nothing is to be left.
    await store.execute(
        "INSERT INTO user_stats (event_date, user_id, events)"
        " SELECT '2099-01-05', user_id, 1 FROM user_stats"
    )
    # One that was not decided, one that was carried out long ago, and a draft.
    for table, comment in (
        ("swapping_3_traffic", ""),
        ("swapping_2_traffic", '["202001"]'),
        ("rebuilding_1_traffic", ""),
    ):
        await store.execute(f"CREATE TABLE {table} AS traffic COMMENT '{comment}'")
        await store.execute(f"INSERT INTO {table} SELECT min(quarter), 9, 9, 9 FROM traffic")
    with pytest.raises(AssertionError):
        await assert_rollups_match(store)
    async with started(store) as writer:
        await assert_rollups_match(store)
        await write(writer, [event(100, at=at) for at in days])
        await assert_rollups_match(store)
        today = [NOW.date()]
        rollups = await load_rollups(store)
        await rebuild(store, rollups, today, in_turn=writer.in_turn, first_kept=EVERY_DAY[-1])
    assert await left_behind(store) == []
