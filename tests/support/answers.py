"""Asks a service everything it answers, and holds that against the truth."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from tests.support.oracle import Json, Truth

PREFIX = "/api/v1/analytics"


def questions(truth: Truth, users: Iterable[str], days: int, tz: str) -> Iterable[tuple[str, Json]]:
    """The paths to ask, each with the true answer."""
    window = f"days={days}&tz={quote(tz)}"
    yield f"{PREFIX}/content/popular?{window}&limit=100", truth.popular(days, tz, 100)
    yield f"{PREFIX}/content/popular?{window}&limit=2", truth.popular(days, tz, 2)
    yield f"{PREFIX}/trends?{window}", truth.trends(days, tz)
    yield f"{PREFIX}/peak-hours?{window}", truth.peak_hours(days, tz)
    for user in users:
        yield f"{PREFIX}/user/{user}/stats?{window}", truth.user_stats(user, days, tz)


COMPARABLE = 182


def more_questions(
    truth: Truth, users: Iterable[str], movies: Iterable[str], days: int, tz: str, step: int
) -> Iterable[tuple[str, Json]]:
    """The paths of all other answers, each with the true answer while the clock stands still."""
    window = f"days={days}&tz={quote(tz)}"
    both = days <= COMPARABLE
    compared = f"{window}&compare=previous" if both else window
    yield f"{PREFIX}/overview?{compared}", truth.overview(days, tz, both)
    yield f"{PREFIX}/watch-time?{compared}", truth.watch_time(days, tz, both)
    yield f"{PREFIX}/heatmap?{window}", truth.heatmap(days, tz)
    if both:
        yield f"{PREFIX}/trends?{compared}", truth.trends(days, tz, both)
        yield f"{PREFIX}/content/popular?{compared}&limit=3", truth.popular(days, tz, 3, both)
    yield f"{PREFIX}/now", truth.watched_now()
    for hours, bucket in ((1, 1), (3, 15), (2, 60)):
        path = f"{PREFIX}/concurrency?hours={hours}&bucket_minutes={bucket}"
        yield path, truth.concurrency(hours, bucket)
    for user in users:
        yield f"{PREFIX}/user/{user}/movies?{window}", truth.user_movies(user, days, tz)
    for movie in movies:
        film = f"{PREFIX}/content/{movie}"
        yield f"{film}/stats?{compared}", truth.film_stats(movie, days, tz, both)
        yield f"{film}/trends?{window}", truth.film_trends(movie, days, tz)
        retention = truth.film_retention(movie, days, tz, step)
        yield f"{film}/retention?{window}&step={step}", retention


async def assert_answers(
    client: httpx.AsyncClient, truth: Truth, users: Sequence[str], days: int, tz: str
) -> None:
    await assert_each(client, questions(truth, users, days, tz))


async def assert_each(client: httpx.AsyncClient, asked: Iterable[tuple[str, Json]]) -> None:
    for path, expected in asked:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected, path
        await asyncio.sleep(0)  # a kept answer never waits


def assert_problem(answer: httpx.Response, status: int, reason: str | None = None) -> Json:
    """The one shape of every error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Json = answer.json()
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["instance"] == answer.request.url.path
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["title"]
    assert body["detail"]
    assert set(body) <= {
        "type", "title", "status", "detail", "instance", "request_id", "errors", "reason",
    }  # fmt: skip
    if status == 422:
        assert body["errors"]
        for error in body["errors"]:
            assert set(error) == {"loc", "msg", "type"}
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0
    assert body.get("reason") == reason
    return body


def split(events: Sequence[Any], dice: random.Random, most: int) -> list[list[Any]]:
    """The events in order, in batches of 1 to `most`."""
    batches = []
    start = 0
    while start < len(events):
        end = start + dice.randint(1, most)
        batches.append(list(events[start:end]))
        start = end
    return batches
