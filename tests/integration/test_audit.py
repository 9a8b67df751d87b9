"""Audit and repair over HTTP: damage of every kind is found, and mended; nothing else is said."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from tests.conftest import NOW, running
from tests.support.answers import PREFIX, assert_problem, questions
from tests.support.consistency import assert_rollups_match
from tests.support.kills import MOVIES, USERS, make_batch
from tests.support.oracle import Truth
from tests.support.repair import left_behind

ADMIN = f"{PREFIX}/admin"
BATCHES = [make_batch(random.Random(number), 120) for number in range(4)]
EVENTS = [one for batch in BATCHES for one in batch]
NOBODY = "00000000-0000-0000-0000-00000000dead"

# How a rollup may differ, what is done to it, and where the audit has to say so.
DAMAGE = {
    "a row is missing": (
        "DELETE FROM user_stats WHERE (user_id, event_date) IN"
        " (SELECT user_id, event_date FROM user_stats ORDER BY event_date, user_id LIMIT 1)",
        ("user_stats", "rows", False),
    ),
    "a row is doubled": (
        "INSERT INTO popular_content SELECT * FROM popular_content"
        " ORDER BY event_date, movie_id LIMIT 1",
        ("popular_content", "rows that differ", True),
    ),
    "a count is another": (
        "INSERT INTO traffic SELECT min(quarter), 3, 0, 3 FROM traffic",
        ("traffic", "starts", True),
    ),
    "counts that add up to the same": (
        "INSERT INTO popular_content (event_date, movie_id, starts, events)"
        f" SELECT min(event_date), '{MOVIES[0]}', 1, 1 FROM popular_content UNION ALL"
        f" SELECT min(event_date), '{MOVIES[1]}', -1, -1 FROM popular_content",
        ("popular_content", "rows that differ", True),
    ),
    "a state lacks its ids": (
        "CREATE TABLE spare ENGINE = Memory AS SELECT event_date, user_id, sum(starts) AS starts,"
        " sum(finishes) AS finishes, sum(events) AS events,"
        " uniqStateIf(user_id, 0) AS movies"
        " FROM user_stats GROUP BY ALL ORDER BY event_date DESC, user_id LIMIT 1;"
        "DELETE FROM user_stats WHERE (event_date, user_id) IN"
        " (SELECT event_date, user_id FROM spare);"
        "INSERT INTO user_stats SELECT * FROM spare;"
        "DROP TABLE spare",
        ("user_stats", "movies", False),
    ),
    "a state has an id too many": (
        "INSERT INTO audience (minutes, days, begin, users) SELECT 1440, 1, min(begin),"
        " uniqCombined64State(17)(toUInt64(1)) FROM audience WHERE days = 1",
        ("audience", "users", True),
    ),
    "a state of many days has an id too many": (
        "INSERT INTO audience (minutes, days, begin, movies) SELECT 60, 16, max(begin),"
        " uniqCombined64State(17)(toUInt64(1)) FROM audience WHERE minutes = 60 AND days = 16",
        ("audience", "movies", True),
    ),
    "a place is taken too many": (
        "INSERT INTO audience (minutes, days, begin, user_places) SELECT 15, 1, max(begin),"
        " groupBitmapState(toUInt32(3)) FROM audience WHERE minutes = 15 AND days = 1",
        ("audience", "user_places", True),
    ),
    "a key that no event has": (
        "INSERT INTO user_stats (event_date, user_id, events)"
        f" SELECT min(event_date) + 3, '{NOBODY}', 1 FROM user_stats",
        ("user_stats", "rows", True),
    ),
    "a day that no event has": (
        f"INSERT INTO popular_content (event_date, movie_id, events) VALUES"
        f" ('2099-01-01', '{MOVIES[3]}', 5)",
        ("popular_content", "events", True),
    ),
    "a number of days that no row has": (
        "INSERT INTO audience (minutes, days, begin) SELECT 60, 2, max(begin) FROM audience"
        " WHERE days = 1",
        ("audience", "rows", True),
    ),
    "months are gone": (
        "ALTER TABLE popular_content DROP PARTITION ID '{month}'",
        ("popular_content", "rows that differ", True),
    ),
    "all is gone": ("TRUNCATE TABLE audience", ("audience", "rows that differ", True)),
}


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[tuple[ClickHouseClient, httpx.AsyncClient]]:
    async with running(settings) as (app, client):
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
    before: list[dict[str, Any]] = []
    for damage, (statement, (rollup, what, more)) in DAMAGE.items():
        [row] = await store.execute("SELECT min(_partition_id) AS month FROM popular_content")
        for one in statement.replace("{month}", row["month"]).split(";"):
            await store.execute(one)
        said = (await audit(client))["differences"]
        new = [one for one in said if one not in before]
        assert {one["rollup"] for one in new} == {rollup}, damage
        named = [one for one in new if one["what"] == what]
        assert named, (damage, new)
        assert any((one["found"] > one["expected"]) == more for one in named), (damage, new)
        before = said
    mended = await repair(client)
    assert {(one["rollup"]) for one in mended["repaired"]} == set(clean["rollups"])
    assert mended["differences"] == []
    await assert_rollups_match(store)
    assert (await audit(client))["differences"] == []
    assert await left_behind(store) == []


async def test_a_day_without_any_row_is_made_anew_and_its_month_stays(
    service: tuple[ClickHouseClient, httpx.AsyncClient],
) -> None:
    store, client = service
    [row] = await store.execute(
        "SELECT max(event_date) AS day FROM popular_content GROUP BY toYYYYMM(event_date)"
        " HAVING uniqExact(event_date) > 1 LIMIT 1"
    )
    await store.execute(
        f"ALTER TABLE popular_content DELETE WHERE event_date = '{row['day']}'"
        " SETTINGS mutations_sync = 1"
    )
    assert {one["day"] for one in (await audit(client))["differences"]} == {row["day"]}
    assert (await repair(client))["differences"] == []
    await assert_rollups_match(store)


# What no answer shows, in rows of every month; traffic has nothing that isn't shown.
UNSEEN = (
    "INSERT INTO popular_content (event_date, movie_id, events)"
    " SELECT event_date, movie_id, 1 FROM popular_content GROUP BY ALL",
    "INSERT INTO user_stats (event_date, user_id, events)"
    " SELECT event_date, user_id, 1 FROM user_stats GROUP BY ALL",
    "INSERT INTO audience (minutes, days, begin) SELECT 60, 2, begin FROM audience WHERE days = 1",
)


async def test_no_answer_misses_what_is_being_rebuilt(
    service: tuple[ClickHouseClient, httpx.AsyncClient],
) -> None:
    store, client = service
    for statement in UNSEEN:
        await store.execute(statement)
    truth = Truth(EVENTS, NOW)
    asked = [one for tz in ("UTC", "Asia/Kathmandu") for one in questions(truth, USERS[:2], 90, tz)]
    repairing = asyncio.create_task(repair(client))
    for number, (path, expected) in enumerate(itertools.cycle(asked)):
        answer = await client.get(path)
        assert answer.json() == expected, (path, number)
        await asyncio.sleep(0)  # an answer that is kept takes no time
        if repairing.done() and number >= len(asked):
            break
    mended = await repairing
    assert {one["rollup"] for one in mended["repaired"]} == {
        "audience", "popular_content", "user_stats",
    }  # fmt: skip
    assert mended["differences"] == []
    await assert_rollups_match(store)


async def test_events_that_arrive_meanwhile_are_no_difference(
    service: tuple[ClickHouseClient, httpx.AsyncClient],
) -> None:
    store, client = service
    sending = True

    async def send() -> int:
        sent = 0
        while sending:
            batch = make_batch(random.Random(100 + sent), 20, days=3)
            answer = await client.post(f"{PREFIX}/events/batch", json=batch)
            assert answer.status_code == 200, answer.text
            sent += 1
        return sent

    senders = [asyncio.create_task(send()) for _ in range(2)]
    for _ in range(3):
        said = await audit(client, "?days=3")
        assert said["days"] == 3
        assert said["differences"] == []
    await store.execute(UNSEEN[0])
    assert (await repair(client))["differences"] == []
    sending = False
    assert sum(await asyncio.gather(*senders)) > 3
    await assert_rollups_match(store)


async def test_one_at_a_time(service: tuple[ClickHouseClient, httpx.AsyncClient]) -> None:
    _, client = service
    first = asyncio.create_task(client.get(f"{ADMIN}/audit"))
    await asyncio.sleep(0)
    while not first.done():
        second = await client.post(f"{ADMIN}/repair")
        if second.status_code == 409:
            break
    assert_problem(second, 409)
    assert (await first).status_code == 200
    assert (await audit(client))["differences"] == []
