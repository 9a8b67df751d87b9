"""How long events and rollups are kept, by setting, and what comes of changing it."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from tests.conftest import NOW, opened, running
from tests.support.answers import PREFIX, assert_problem

USER = str(UUID(int=1))


def event(days_ago: float) -> dict[str, Any]:
    return {
        "user_id": USER,
        "movie_id": str(UUID(int=2 << 64)),
        "event_type": "start",
        "timestamp": (NOW - timedelta(days=days_ago)).isoformat(),
    }


async def starts(client: httpx.AsyncClient, tz: str = "UTC") -> int:
    answer = await client.get(f"{PREFIX}/trends?days=365&tz={tz}")
    return sum(day["starts"] for day in answer.json()["items"])


async def lifetimes(store: ClickHouseClient) -> dict[str, int]:
    """Days after which each table's rows go."""
    rows = await store.execute(
        "SELECT name, toUInt32(extract(engine_full, 'toIntervalDay\\\\(.*?([0-9]+)\\\\)')) AS days"
        " FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
        " AND engine_full LIKE '%toIntervalDay(%'"
    )
    return {row["name"]: row["days"] for row in rows}


async def send(client: httpx.AsyncClient, *days_ago: float) -> dict[str, Any]:
    answer = await client.post(f"{PREFIX}/events/batch", json=[event(one) for one in days_ago])
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def test_events_may_be_kept_less_long_than_figures(settings: Settings) -> None:
    async with running(settings) as (app, client):
        assert (await send(client, 100, 40, 20, 1))["stored"] == 4
        assert await lifetimes(app.state.store) == {
            "viewing_events": 365, "rejected_events": 90, "popular_content": 366,
            "user_stats": 366, "traffic": 366, "audience": 366,
        }  # fmt: skip
    shorter = settings.model_copy(update={"event_retention_days": 30, "rollup_retention_days": 200})
    async with running(shorter) as (app, client):
        assert await lifetimes(app.state.store) == {
            "viewing_events": 30, "rejected_events": 90, "popular_content": 201,
            "user_stats": 201, "traffic": 201, "audience": 201,
        }  # fmt: skip
        store = app.state.store
        async with asyncio.timeout(120):  # the old ones are removed in the background
            while await store.execute("SELECT 1 FROM viewing_events LIMIT 1 OFFSET 2"):
                pass
        # Figures of days without events are as they were, and what is sent again is refused.
        assert [await starts(client, tz) for tz in ("UTC", "Asia/Kathmandu")] == [4, 4]
        assert_problem(await client.post(f"{PREFIX}/events", json=event(40)), 422, "too_old")
        receipt = await send(client, 100, 40, 31, 29, 20, 1)
        assert (receipt["stored"], receipt["duplicates"], receipt["rejected"]) == (1, 2, 3)
        said = (await client.get(f"{PREFIX}/admin/audit")).json()
        assert said["days"] == 30
        assert said["differences"] == []
        # A repair leaves alone what it can't know: days without events, and blocks of them.
        await store.execute("INSERT INTO traffic SELECT min(quarter), 5, 5, 5 FROM traffic")
        await store.execute("INSERT INTO traffic SELECT max(quarter), 7, 0, 7 FROM traffic")
        assert await starts(client) == 5 + 5 + 7
        mended = (await client.post(f"{PREFIX}/admin/repair")).json()
        assert {one["what"] for one in mended["repaired"]} == {
            "rows that differ", "starts", "events",
        }  # fmt: skip
        assert mended["differences"] == []
        assert await starts(client) == 5 + 5
        users = [
            day["unique_users"]
            for day in (await client.get(f"{PREFIX}/trends?days=365")).json()["items"]
        ]
        assert sum(users) == 5
    async with running(settings) as (app, client):
        # What was removed may have been counted; it can't come again.
        receipt = await send(client, 100, 40, 31, 29, 20, 1)
        assert (receipt["stored"], receipt["duplicates"], receipt["rejected"]) == (0, 3, 3)
        assert await starts(client) == 5 + 5
        assert (await client.get(f"{PREFIX}/admin/audit")).json()["days"] == 30
    async with running(settings, lambda: NOW + timedelta(days=10)) as (_, client):
        # It is remembered, and passes.
        receipt = await send(client, 40, 31, 29.5, 29, 19, -9)
        assert (receipt["stored"], receipt["duplicates"], receipt["rejected"]) == (3, 1, 2)


async def test_a_store_that_has_it_is_not_altered(settings: Settings) -> None:
    async with running(settings):
        pass
    async with opened(settings) as store:
        before = await store.execute(
            "SELECT name, metadata_modification_time AS at FROM system.tables"
            " WHERE database = currentDatabase() AND name NOT LIKE 'write_lease%' ORDER BY name"
        )
    await asyncio.sleep(1.1)  # the engine's clock of that has whole seconds
    async with running(settings) as (app, _):
        after = await app.state.store.execute(
            "SELECT name, metadata_modification_time AS at FROM system.tables"
            " WHERE database = currentDatabase() AND name NOT LIKE 'write_lease%' ORDER BY name"
        )
    assert before == after
