"""The figures of the running service are those of the contract, for any events in any order."""

import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from tests.conftest import NOW, drop_database, own_database, running
from tests.support.answers import PREFIX, assert_answers, split
from tests.support.oracle import Truth
from tests.support.viewing import MOVIES, USERS, ZONES, event_lists

TABLES = ("viewing_events", "popular_content", "user_stats", "traffic", "audience", "movies")

several_examples = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    # One service serves all examples; each begins by emptying its tables.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[tuple[ClickHouseClient, httpx.AsyncClient]]:
    async with running(settings) as (app, client):
        yield app.state.store, client


async def empty(store: ClickHouseClient) -> None:
    for table in TABLES:
        await store.execute(f"TRUNCATE TABLE {table}")


async def call(client: httpx.AsyncClient, movies: list[str]) -> list[dict[str, Any]]:
    """Give films titles, one more than these at least; so what was kept is dropped, too."""
    films = [{"movie_id": movie, "title": f"Film {movie}"} for movie in (*movies, str(UUID(int=5)))]
    answer = await client.put(f"{PREFIX}/catalog/movies", json=films)
    assert answer.json()["stored"] == len(films)
    return films


async def send(client: httpx.AsyncClient, batch: list[dict[str, Any]], form: str) -> dict[str, Any]:
    if form == "lines":
        answer = await client.post(
            f"{PREFIX}/events/batch",
            content="\n".join(map(json.dumps, batch)),
            headers={"content-type": "application/x-ndjson"},
        )
    elif form == "object":
        answer = await client.post(f"{PREFIX}/events/batch", json={"events": batch})
    else:
        answer = await client.post(f"{PREFIX}/events/batch", json=batch)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    assert receipt["rejected"] == 0, receipt
    assert receipt["received"] == len(batch) == receipt["stored"] + receipt["duplicates"]
    return receipt


@several_examples
@given(
    events=event_lists(),
    titled=st.lists(st.sampled_from(MOVIES), unique=True),
    days=st.sampled_from([1, 2, 7, 8, 30, 31, 365]),
    tz=st.sampled_from(ZONES),
    seed=st.integers(0, 2**32),
)
async def test_any_order_split_and_repeat_gives_the_true_answers(
    service: tuple[ClickHouseClient, httpx.AsyncClient],
    events: list[dict[str, Any]],
    titled: list[str],
    days: int,
    tz: str,
    seed: int,
) -> None:
    dice = random.Random(seed)
    store, client = service
    await empty(store)
    repeated = events + dice.choices(events, k=len(events) // 2) if events else []
    dice.shuffle(repeated)
    stored = 0
    for batch in split(repeated, dice, most=15):
        receipt = await send(client, batch, dice.choice(["array", "object", "lines"]))
        stored += receipt["stored"]
    truth = Truth(repeated, NOW, await call(client, titled))
    assert stored == len(truth.events)
    await assert_answers(client, truth, USERS, days, tz)


@several_examples
@given(
    events=event_lists(),
    days=st.sampled_from([1, 7, 30, 365]),
    tz=st.sampled_from(ZONES),
)
async def test_sums_over_films_days_and_hours_agree(
    service: tuple[ClickHouseClient, httpx.AsyncClient],
    events: list[dict[str, Any]],
    days: int,
    tz: str,
) -> None:
    store, client = service
    await empty(store)
    await send(client, events, "array")
    answers = {}
    for path in ("content/popular", "trends", "peak-hours"):
        answer = await client.get(f"{PREFIX}/{path}", params={"days": days, "tz": tz, "limit": 100})
        answers[path] = answer.json()["items"]
    starts = sum(day["starts"] for day in answers["trends"])
    assert sum(film["total_views"] for film in answers["content/popular"]) == starts
    # A zone that is UTC under another name is answered from the events, UTC from the rollups.
    for path in ("content/popular?limit=100&", *(f"user/{user}/stats?" for user in USERS)):
        utc, raw = [
            (await client.get(f"{PREFIX}/{path}days={days}&tz={name}")).json() | {"timezone": ""}
            for name in ("UTC", "Etc/GMT")
        ]
        assert utc == raw


async def test_the_same_events_on_both_engines_give_identical_bytes(
    tmp_path: Path, clickhouse_server: dict[str, Any]
) -> None:
    dice = random.Random(7)
    events = [
        {
            "user_id": dice.choice(USERS),
            "movie_id": f"00000000-0000-0000-0000-{dice.randrange(30):012}",
            "event_type": dice.choice(["start", "progress", "finish"]),
            "timestamp": (NOW - timedelta(seconds=dice.randrange(40 * 86400))).isoformat(),
            "position_seconds": dice.randrange(5000),
        }
        for _ in range(3000)
    ]
    seen = []
    embedded = Settings(_env_file=None, clickhouse_path=tmp_path / "store", enable_kafka=False)
    server = own_database(clickhouse_server)
    for place in (embedded, server):
        dice.shuffle(events)
        async with running(place) as (_, client):
            for batch in split(events, dice, most=1000):
                await send(client, batch, "array")
            seen.append(
                [
                    (await client.get(f"{PREFIX}/{path}&days=30")).content
                    for tz in ("UTC", "Asia/Kathmandu")
                    for path in (
                        f"content/popular?limit=100&tz={tz}",
                        f"trends?tz={tz}",
                        f"peak-hours?tz={tz}",
                        f"user/{USERS[0]}/stats?tz={tz}",
                    )
                ]
            )
            await assert_answers(client, Truth(events, NOW), USERS, 30, "Asia/Kathmandu")
    assert seen[0] == seen[1]
    await drop_database(server)
