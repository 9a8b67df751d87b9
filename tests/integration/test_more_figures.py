"""The figures of films, weeks and sessions are what plain Python makes of the same events."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.core.config import Settings
from tests.conftest import NOW, running
from tests.integration.test_figures import empty, send
from tests.support.answers import PREFIX, assert_each, assert_problem, more_questions
from tests.support.oracle import Truth
from tests.support.viewing import MOVIES, SESSIONS, USERS, ZONES, event_lists

FILMS: list[dict[str, Any]] = [
    {"movie_id": MOVIES[0], "title": "Half a minute", "duration_seconds": 31},
    {"movie_id": MOVIES[1], "title": "Five minutes", "duration_seconds": 300},
    {"movie_id": MOVIES[2], "title": "Of unknown length", "duration_seconds": None},
]


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with running(settings) as opened:
        yield opened


@st.composite
def sittings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A few films watched forwards, backwards and again, in the last hours and days."""
    events: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        user, movie = draw(st.sampled_from(USERS)), draw(st.sampled_from(MOVIES[:4]))
        moment = NOW - timedelta(seconds=draw(st.sampled_from([90, 4000, 100_000, 1_000_000])))
        session, position = draw(st.sampled_from(SESSIONS)), 0
        for kind in ("start", "progress", "progress", "progress", "finish"):
            event = {"user_id": user, "movie_id": movie, "event_type": kind, "session_id": session,
                     "timestamp": moment.isoformat(), "position_seconds": position}  # fmt: skip
            events.append(event)
            moment += timedelta(seconds=draw(st.integers(0, 40)))
            position = max(0, position + draw(st.integers(-30, 40)))
    return [event for event in events if event["timestamp"] <= NOW.isoformat()]


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=event_lists(),
    watched=sittings(),
    days=st.sampled_from([1, 2, 7, 31, 182, 183, 365]),
    tz=st.sampled_from(ZONES),
    step=st.sampled_from([1, 7, 10, 60]),
    seed=st.integers(0, 2**32),
)
async def test_every_answer_is_the_truth(
    service: tuple[FastAPI, httpx.AsyncClient],
    events: list[dict[str, Any]],
    watched: list[dict[str, Any]],
    days: int,
    tz: str,
    step: int,
    seed: int,
) -> None:
    app, client = service
    await empty(app.state.store)
    # Positions that the truth can count the seconds of.
    small = [{**one, "position_seconds": int(one.get("position_seconds", 0)) % 60}
             for one in events]  # fmt: skip
    everything = [*small, *watched]
    random.Random(seed).shuffle(everything)
    await send(client, everything, "array")
    assert (await client.put(f"{PREFIX}/catalog/movies", json=FILMS)).json()["stored"] == 3
    truth = Truth(everything, NOW, FILMS)
    await assert_each(client, more_questions(truth, USERS[:2], MOVIES[:3], days, tz, step))


async def test_parameters_that_have_no_answer_are_unprocessable(
    client: httpx.AsyncClient,
) -> None:
    await client.put(f"{PREFIX}/catalog/movies", json=[{**FILMS[0], "duration_seconds": 100_001}])
    film = f"content/{MOVIES[0]}"
    for path in (
        *(f"{name}?days=183&compare=previous" for name in (
            "trends", "overview", "watch-time", "content/popular", f"{film}/stats")),
        "overview?compare=next", "trends?compare=previous&format=csv", "trends?format=xml",
        "overview?days=366", "heatmap?tz=Mars", f"{film}/stats?days=0", f"{film}/trends?tz=x",
        f"{film}/retention?step=0", f"{film}/retention?step=86401", f"{film}/retention?step=50",
        "concurrency?hours=0", "concurrency?hours=721", "concurrency?bucket_minutes=2",
        f"user/{USERS[0]}/movies?days=x", "user/nobody/movies", "content/nothing/stats",
    ):  # fmt: skip
        body = assert_problem(await client.get(f"{PREFIX}/{path}"), 422)
        assert body["errors"][0]["loc"][0] in ("query", "path"), path
    assert body["errors"]
    body = (await client.get(f"{PREFIX}/{film}/retention?step=50")).json()
    assert "at least 51" in body["detail"]
    assert body["errors"][0]["loc"] == ["query", "step"]
    answer = await client.get(f"{PREFIX}/{film}/retention?step=51")
    assert answer.json()["total_items"] == 1961
    assert answer.json()["items"][-1]["to_seconds"] == 100_001


async def test_a_position_far_away_makes_no_endless_answer(client: httpx.AsyncClient) -> None:
    events = [
        {"user_id": USERS[0], "movie_id": MOVIES[3], "event_type": "progress",
         "timestamp": (NOW - timedelta(days=ago)).isoformat(), "position_seconds": position}
        for ago, position in ((300, 0), (200, 4_000_000_000), (1, 0), (0, 4_294_967_295))
    ]  # fmt: skip
    await send(client, events, "array")
    path = f"{PREFIX}/content/{MOVIES[3]}/retention?days=365"
    items = (await client.get(path)).json()["items"]
    assert len(items) == 2000
    assert {(item["viewers"], item["rewatchers"]) for item in items} == {(1, 0), (1, 1)}
    assert [item["rewatchers"] for item in items].index(0) == 86_400 // 60


async def test_many_viewers_are_counted_within_a_hundredth(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    many, minute = 40_000, int(NOW.timestamp()) // 60 * 60 - 300
    await app.state.store.execute(
        "INSERT INTO viewing_events SELECT generateUUIDv4(number),"
        " reinterpretAsUUID(sipHash128(intDiv(number, 2))), {movie:UUID},"
        " if(number % 2 = 0, 'start', 'progress'), {minute:UInt32} + number % 2 * 60,"
        " number % 2 * 60, NULL, '{}', 1 FROM numbers({events:UInt64})",
        {"movie": MOVIES[0], "minute": minute, "events": 2 * many},
    )

    async def get(path: str) -> Any:
        answer = await client.get(f"{PREFIX}/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    about = pytest.approx(many, rel=0.01)
    for tz in ("UTC", "Asia/Kolkata"):  # all on one day of the two, wherever midnight is
        overview = await get(f"overview?days=2&tz={tz}")
        assert overview["unique_viewers"] == about
        assert (overview["total_views"], overview["events_count"]) == (many, 2 * many)
        assert overview["unique_movies"] == 1
        hours = (await get(f"heatmap?days=2&tz={tz}"))["items"]
        assert max(hour["unique_users"] for hour in hours) == about
        assert sum(hour["events_count"] for hour in hours) == 2 * many
    assert (await get("watch-time?days=2"))["total_watch_time_seconds"] == 60 * many
    film = await get(f"content/{MOVIES[0]}/stats?days=2")
    assert (film["unique_viewers"], film["mean_watch_time_seconds"]) == (about, 60.0)
    [step] = (await get(f"content/{MOVIES[0]}/retention?days=2"))["items"]
    assert (step["viewers"], step["share"], step["rewatchers"]) == (about, 100.0, 0)
    busy = [one["sessions"] for one in (await get("concurrency?hours=1"))["items"]]
    assert [one for one in busy if one] == [about, about]
