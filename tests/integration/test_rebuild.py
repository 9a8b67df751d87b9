"""Rollups that are made anew for some days: what they hold, and what is seen meanwhile."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from app.core.clickhouse_client import ClickHouseClient
from app.ingest.rebuild import rebuild
from app.ingest.rollups import load_rollups
from tests.conftest import NOW
from tests.integration.test_writer import AN_HOUR_AGO, DAY, event, started, write
from tests.support.consistency import assert_rollups_match


def day_of(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


async def left_behind(store: ClickHouseClient) -> list[str]:
    rows = await store.execute(
        "SELECT name FROM system.tables WHERE database = currentDatabase()"
        " AND match(name, '^(rebuilding|swapping)_')"
    )
    return [row["name"] for row in rows]


EVERY_DAY = [NOW.date() - timedelta(days=back) for back in range(366)]


async def test_days_are_what_the_events_say(store: ClickHouseClient) -> None:
    at = [AN_HOUR_AGO - n * DAY for n in range(0, 80, 3)]
    async with started(store) as writer:
        for n, when in enumerate(at):
            await write(writer, [event(100 * n + m, at=when - m) for m in range(9)])
        lost = at[7]
        gone = [f"toDate(event_time) = '{day_of(lost)}'", f"user_id = '{UUID(int=1)}'"]
        await write(writer, [event(9999, at=at[20], user_id=UUID(int=1))])
        await store.execute(
            f"ALTER TABLE viewing_events DELETE WHERE {' OR '.join(gone)} SETTINGS mutations_sync=2"
        )
        [emptied] = await store.execute(
            "SELECT toYYYYMM(min(event_date)) AS month FROM popular_content"
        )
        for rollup in ("popular_content", "user_stats", "traffic"):
            await store.execute(f"ALTER TABLE {rollup} DROP PARTITION {emptied['month']}")
        rollups = await load_rollups(store)

        async def flush_meanwhile() -> None:
            for n in range(40):
                await write(writer, [event(20_000 + n, at=at[n % len(at)])])
                await asyncio.sleep(0.02)

        writing = asyncio.create_task(flush_meanwhile())
        await rebuild(store, rollups, EVERY_DAY, in_turn=writer.in_turn, first_kept=EVERY_DAY[-1])
        await writing
        await assert_rollups_match(store)
        await write(writer, [event(30_000)])
        await assert_rollups_match(store)
    assert await left_behind(store) == []
