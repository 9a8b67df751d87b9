"""Asks a service everything it answers, and holds that against the truth."""

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
    yield f"{PREFIX}/now", truth.watched_now()
    for user in users:
        yield f"{PREFIX}/user/{user}/stats?{window}", truth.user_stats(user, days, tz)


async def assert_answers(
    client: httpx.AsyncClient, truth: Truth, users: Sequence[str], days: int, tz: str
) -> None:
    for path, expected in questions(truth, users, days, tz):
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected, path


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
