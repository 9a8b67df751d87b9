"""The catalogue: what is taken, what is found, and the titles that answers have from it."""

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.core.config import Settings
from app.services import movies as movies_module
from tests.conftest import NOW, own_database, running
from tests.support.answers import PREFIX, assert_answers, assert_problem
from tests.support.oracle import Truth
from tests.support.viewing import MOVIES, USERS

CATALOG = f"{PREFIX}/catalog/movies"
NOTHING: dict[str, Any] = {"duration_seconds": None, "genres": [], "released": None}


def film(number: int, title: str, **fields: Any) -> dict[str, Any]:
    return {"movie_id": str(UUID(int=number)), "title": title, **fields}


async def put(client: httpx.AsyncClient, films: list[dict[str, Any]]) -> None:
    answer = await client.put(CATALOG, json=films)
    assert (answer.status_code, answer.json()["stored"]) == (200, len(films)), answer.text


async def found(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(CATALOG, params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_films_are_stored_replaced_and_found(client: httpx.AsyncClient) -> None:
    heat = film(1, 'Heat, "the" film\n(1995)\t\\', duration_seconds=10200.9, genres=["Crime"])
    wrong = [
        {"movie_id": "secret", "title": "x"}, {"title": "x"}, film(3, ""), film(3, "x" * 501),
        film(3, "x", duration_seconds=0), film(3, "x", duration_seconds="long"),
        film(3, "x", genres=["a", ""]), film(3, "x", genres=None), film(3, "x", released=19.5),
        5, None, [],
    ]  # fmt: skip
    answer = await client.put(CATALOG, json=[heat, *wrong, film(2, "Ünlü"), film(2, "Ütopya")])
    assert answer.status_code == 200
    receipt = answer.json()
    rejections = receipt.pop("rejections")
    assert receipt == {"received": 15, "stored": 3, "rejected": 12}
    assert [one["index"] for one in rejections] == list(range(1, 13))
    assert {one["reason"] for one in rejections} == {"invalid_field"}
    assert [one["detail"].split()[0] for one in rejections[:-3]] == [
        "movie_id", "movie_id", "title", "title", "duration_seconds", "duration_seconds",
        "genres", "genres", "released",
    ]  # fmt: skip
    assert "secret" not in answer.text
    known = {**NOTHING, **heat, "duration_seconds": 10200}
    assert await found(client) == [known, {**film(2, "Ütopya"), **NOTHING}]
    assert await found(client, q="FILM\n(1995)\t\\") == [known]
    assert await found(client, q="ütOP") == [{**film(2, "Ütopya"), **NOTHING}]
    assert await found(client, q="%") == await found(client, q="\0") == []
    # Sent again, a film is what was sent last, in all fields.
    lines = "\n".join(map(json.dumps, [film(1, "Heat", released=1995), {}])) + "\n{\n\n"
    answer = await client.put(
        CATALOG, content=lines, headers={"content-type": "application/x-ndjson"}
    )
    reasons = [(one["index"], one["reason"]) for one in answer.json()["rejections"]]
    assert reasons == [(1, "invalid_field"), (2, "not_json")]
    heat = {**NOTHING, **film(1, "Heat", released=1995)}
    assert await found(client, q="heat") == [heat]


async def test_pages_hold_every_film_once_by_title(client: httpx.AsyncClient) -> None:
    dice = random.Random(5)
    titles = [dice.choice(["A", "a", "b", "B b", "ä", "Ä", "c'", "\\"]) for _ in range(40)]
    films = [film(number * 7919 % 1000, title) for number, title in enumerate(titles)]
    await put(client, films)
    pages = []
    query: dict[str, Any] = {"limit": 7}
    while True:
        page = (await client.get(CATALOG, params=query)).json()
        assert page["total_items"] == 40
        pages += page["items"]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 7
        query["cursor"] = page["next_cursor"]
    expected = sorted(films, key=lambda one: (one["title"].lower().encode(), one["movie_id"]))
    assert pages == [{**one, **NOTHING} for one in expected]
    first = (await client.get(CATALOG, params={"q": "B", "limit": 1})).json()
    assert first["total_items"] == sum("b" in title.lower() for title in titles)


async def test_bad_parameters_are_unprocessable(client: httpx.AsyncClient) -> None:
    for query in (
        "cursor=x", "cursor=", "cursor=WyJhIl0", "cursor=é", "limit=0", "limit=1001",
        f"q={'x' * 201}",
    ):  # fmt: skip
        body = assert_problem(await client.get(f"{CATALOG}?{query}"), 422)
        assert body["errors"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_bodies_that_are_no_films(client: httpx.AsyncClient) -> None:
    for content in ("", "{", "[1,]", '{"a": [}'):
        assert_problem(await client.put(CATALOG, content=content), 400, "not_json")
    for content in ("{}", '{"events": []}', "5", "null", json.dumps(film(1, "x"))):
        assert_problem(await client.put(CATALOG, content=content), 422)
    too_many = [film(number, "x") for number in range(10_001)]
    assert_problem(await client.put(CATALOG, json=too_many), 413)
    assert (await client.put(CATALOG, content="[]")).json()["received"] == 0
    assert await found(client) == []
    await put(client, too_many[:-1])
    assert (await client.get(CATALOG)).json()["total_items"] == 10_000


async def test_answers_have_the_titles_that_the_catalogue_has_now(
    client: httpx.AsyncClient,
) -> None:
    events = [
        {
            "user_id": USERS[0],
            "movie_id": movie,
            "event_type": kind,
            "timestamp": (NOW - timedelta(seconds=60 - seconds)).isoformat(),
            "position_seconds": seconds,
        }
        for movie in MOVIES[:3]
        for kind, seconds in (("start", 0), ("progress", 30))
    ]
    films: list[dict[str, Any]] = []
    await client.post(f"{PREFIX}/events/batch", json=events)
    for title in (None, "One", "Two"):
        if title is not None:
            films = [{"movie_id": movie, "title": f"{title} {movie}"} for movie in MOVIES[1:]]
            await put(client, films)
        for _ in range(3):  # computed, kept, and given by its words
            await assert_answers(client, Truth(events, NOW, films), USERS[:2], 7, "UTC")


async def test_what_is_under_way_ends_after_two_minutes(settings: Settings) -> None:
    now = NOW
    movie = str(uuid4())

    def sent(user: str, kind: str, ago: int, **fields: Any) -> dict[str, Any]:
        moment = (NOW - timedelta(seconds=ago)).isoformat()
        return {"user_id": user, "movie_id": movie, "event_type": kind, "timestamp": moment,
                **fields}  # fmt: skip

    events = [
        sent(USERS[0], "progress", 120),
        sent(USERS[0], "start", 119, session_id=str(uuid4())),
        sent(USERS[1], "progress", 10, position_seconds=5),
        sent(USERS[1], "finish", 10, position_seconds=5),
        sent(USERS[2], "start", -300),  # a clock that is ahead
        sent(USERS[3], "finish", 121),
        sent(USERS[3], "progress", 121),
    ]
    async with running(settings, lambda: now) as (_, client):
        await client.post(f"{PREFIX}/events/batch", json=events)
        for seconds, sessions in ((0, 3), (1, 2), (2, 1), (420, 1), (421, 0)):
            now = NOW + timedelta(seconds=seconds)
            for _ in range(2):
                answer = (await client.get(f"{PREFIX}/now")).json()
                assert answer == Truth(events, now).watched_now()
                assert answer["sessions"] == sessions


async def test_a_new_title_is_seen_by_other_instances_within_seconds(
    clickhouse_server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movies_module, "_KNOWN_SECONDS", 0.0)
    settings = own_database(clickhouse_server)
    async with running(settings) as (_, one), running(settings) as (_, other):
        sent = {"user_id": USERS[0], "movie_id": MOVIES[0], "event_type": "start"}
        await one.post(f"{PREFIX}/events", json=sent)
        for title in ("First", "Second"):
            await put(one, [{"movie_id": MOVIES[0], "title": title}])
            for client in (one, other):
                answer = await client.get(f"{PREFIX}/content/popular")
                assert answer.json()["items"][0]["title"] == title


async def test_a_film_is_still_there_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, clickhouse_path=tmp_path / "store", enable_kafka=False)
    for title in ("First", "Second"):  # the clock stands still
        async with running(settings) as (_, client):
            await put(client, [film(1, title)])
    async with running(settings) as (app, client):
        assert await found(client) == [{**film(1, "Second"), **NOTHING}]
        await app.state.store.execute("OPTIMIZE TABLE movies FINAL")
        assert await found(client) == [{**film(1, "Second"), **NOTHING}]
