"""Audit and repair over HTTP: damage of every kind is found, and mended; nothing else is said."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from tests.conftest import running
from tests.support.answers import PREFIX
from tests.support.consistency import assert_rollups_match
from tests.support.kills import MOVIES, USERS, make_batch
from tests.support.repair import left_behind

ADMIN = f"{PREFIX}/admin"
BATCHES = [make_batch(random.Random(number), 120) for number in range(4)]
EVENTS = [one for batch in BATCHES for one in batch]
NOBODY = "00000000-0000-0000-0000-00000000dead"
STATE = "reinterpretAsUUID(cityHash64(toUUID('{}')))"

# How a rollup may differ, what is done to it, and where the audit has to say so.
DAMAGE = {
    "a row is missing": (
        "ALTER TABLE user_stats DELETE WHERE (user_id, event_date) IN"
        " (SELECT user_id, event_date FROM user_stats ORDER BY event_date, user_id LIMIT 1)"
        " SETTINGS mutations_sync = 2",
        ("user_stats", "rows", 1, 0),
    ),
    "a row is doubled": (
        "INSERT INTO popular_content SELECT * FROM popular_content"
        " ORDER BY event_date, movie_id LIMIT 1",
        ("popular_content", "rows that differ", 0, 1),
    ),
    "a count is another": (
        "INSERT INTO traffic SELECT min(quarter), 3, 0, 3 FROM traffic",
        ("traffic", "starts", 0, 3),
    ),
    "counts that add up to the same": (
        "INSERT INTO popular_content (event_date, movie_id, starts, events)"
        f" SELECT min(event_date), '{MOVIES[0]}', 1, 1 FROM popular_content UNION ALL"
        f" SELECT min(event_date), '{MOVIES[1]}', -1, -1 FROM popular_content",
        ("popular_content", "rows that differ", 0, 2),
    ),
    "a state lacks its ids": (
        "INSERT INTO user_stats SELECT event_date, user_id, starts, finishes, events,"
        f" uniqStateIf({STATE.format(NOBODY)}, 0) FROM user_stats WHERE user_id = '{USERS[7]}'"
        " GROUP BY ALL LIMIT 1",
        ("user_stats", "movies", 1, 0),
    ),
    "a state has an id too many": (
        "INSERT INTO audience (minutes, days, begin, users) SELECT 1440, 1, min(begin),"
        " uniqCombined64State(17)(1) FROM audience WHERE days = 1",
        ("audience", "users", 0, 1),
    ),
    "a state of many days has an id too many": (
        "INSERT INTO audience (minutes, days, begin, movies) SELECT 60, 16, max(begin),"
        " uniqCombined64State(17)(1) FROM audience WHERE minutes = 60 AND days = 16",
        ("audience", "movies", 0, 1),
    ),
    "a place is taken too many": (
        "INSERT INTO audience (minutes, days, begin, user_places) SELECT 15, 1, max(begin),"
        " groupBitmapState(toUInt32(3)) FROM audience WHERE minutes = 15 AND days = 1",
        ("audience", "user_places", 0, 1),
    ),
    "a key that no event has": (
        "INSERT INTO user_stats (event_date, user_id, events)"
        f" SELECT min(event_date), '{NOBODY}', 1 FROM user_stats",
        ("user_stats", "rows", 0, 1),
    ),
    "a day that no event has": (
        f"INSERT INTO popular_content (event_date, movie_id, events) VALUES"
        f" ('2099-01-01', '{MOVIES[3]}', 5)",
        ("popular_content", "events", 0, 5),
    ),
    "a number of days that no row has": (
        "INSERT INTO audience (minutes, days, begin) SELECT 60, 2, max(begin) FROM audience"
        " WHERE days = 1",
        ("audience", "rows", 0, 1),
    ),
    "months are gone": (
        "ALTER TABLE popular_content DROP PARTITION ID '{month}'",
        ("popular_content", "rows that differ", 0, 1),
    ),
    "all is gone": ("TRUNCATE TABLE audience", ("audience", "rows that differ", 0, 1)),
}


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[tuple[ClickHouseClient, httpx.AsyncClient]]:
    async with running(settings, lambda: datetime.now(UTC)) as (app, client):
        for batch in BATCHES:
            answer = await client.post(f"{PREFIX}/events/batch", json=batch)
            assert answer.json()["stored"] == len(batch)
        yield app.state.store, client


async def audit(client: httpx.AsyncClient, query: str = "") -> dict[str, Any]:
    answer = await client.get(f"{ADMIN}/audit{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def repair(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post(f"{ADMIN}/repair")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_every_damage_is_found_and_mended(
    service: tuple[ClickHouseClient, httpx.AsyncClient],
) -> None:
    store, client = service
    clean = await audit(client)
    assert clean["differences"] == []
    assert clean["rollups"] == ["audience", "popular_content", "traffic", "user_stats"]
    assert clean["days"] == 365
    for damage, (statement, (rollup, what, expected, found)) in DAMAGE.items():
        [row] = await store.execute("SELECT min(_partition_id) AS month FROM popular_content")
        await store.execute(statement.replace("{month}", row["month"]))
        said = (await audit(client))["differences"]
        assert {one["rollup"] for one in said} == {rollup}, damage
        named = [one for one in said if one["what"] == what]
        assert named, (damage, said)
        assert all((one["found"] - one["expected"] > 0) == (found > expected) for one in named), (
            damage,
            said,
        )
    mended = await repair(client)
    assert {(one["rollup"]) for one in mended["repaired"]} == set(clean["rollups"])
    assert mended["differences"] == []
    await assert_rollups_match(store)
    assert (await audit(client))["differences"] == []
    assert await left_behind(store) == []
