"""Lists as CSV: the rows of the JSON answer, read back by a reader of CSV."""

import csv
import io
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.config import Settings
from tests.conftest import NOW, running
from tests.integration.test_figures import send
from tests.support.answers import PREFIX, assert_problem
from tests.support.viewing import MOVIES, USERS

TITLES = ["=1+1", 'A "comma", and\r\na line', "Ünlü", "plain", "'x'\ty"]


@pytest.fixture
def engine() -> str:
    return "embedded"


@pytest.fixture
async def service(settings: Settings) -> Any:
    async with running(settings) as opened:
        yield opened


async def rows(client: httpx.AsyncClient, path: str, **headers: str) -> list[dict[str, str]]:
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    text = answer.content.decode()
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def cell(value: Any) -> str:
    if value is None:
        return ""
    return "|".join(value) if isinstance(value, list) else str(value)


async def test_every_list_has_the_same_rows_as_csv(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    films = [
        {"movie_id": movie, "title": title, "genres": ["Film-Noir", "a|b"][: number % 3]}
        for number, (movie, title) in enumerate(zip(MOVIES, TITLES, strict=True))
    ]
    await client.put(f"{PREFIX}/catalog/movies", json=films[1:] + [
        {"movie_id": f"00000000-0000-0000-0000-{number:012}", "title": f"Film {number}"}
        for number in range(700)
    ])  # fmt: skip
    events = [
        {"user_id": user, "movie_id": movie, "event_type": kind, "position_seconds": position,
         "timestamp": (NOW - timedelta(seconds=100 - position)).isoformat()}
        for user in USERS for movie in MOVIES for kind, position in (("start", 0), ("progress", 60))
    ]  # fmt: skip
    await send(client, events, "array")
    lists = set()
    for path, route in app.openapi()["paths"].items():
        parameters = {one["name"] for one in route.get("get", {}).get("parameters", [])}
        if "format" not in parameters or path.endswith("/export"):  # which is no list
            continue
        lists.add(path.removeprefix(PREFIX))
        path = re.sub(r"\{user_id\}", USERS[0], re.sub(r"\{movie_id\}", MOVIES[1], path))
        path += "?limit=1000" if path.endswith("/movies") and "limit" in parameters else "?"
        for _ in range(2):
            answer = (
                await client.get(f"{path}&format=json", headers={"accept": "text/csv"})
            ).json()
            items = answer["movies" if path.endswith("/now?") else "items"]
            expected = [{name: cell(value) for name, value in one.items()} for one in items]
            assert expected
            assert await rows(client, f"{path}&format=csv") == expected, path
        # In words that have a kept answer, in JSON, `Accept` is listened to all the same.
        assert (await client.get(path)).json() == answer
        assert (await client.get(path, headers={"accept": "*/*"})).json() == answer
        both = {"accept": "application/json, text/csv;q=0.5"}
        assert (await client.get(path, headers=both)).json() == answer
        assert await rows(client, path, accept="Text/CSV") == expected
    assert lists == {
        "/content/popular", "/trends", "/peak-hours", "/heatmap", "/now", "/concurrency",
        "/user/{user_id}/movies", "/content/{movie_id}/trends", "/content/{movie_id}/retention",
        "/catalog/movies",
    }  # fmt: skip
    # The catalogue as a whole, a bit of it, and what is left after a page.
    catalog = f"{PREFIX}/catalog/movies?format=csv"
    everything = await rows(client, catalog)
    assert len(everything) == 704
    assert (await rows(client, f"{catalog}&limit=3")) == everything[:3]
    page = (await client.get(f"{PREFIX}/catalog/movies?limit=3")).json()
    assert (await rows(client, f"{catalog}&cursor={page['next_cursor']}")) == everything[3:]
    assert [one["title"] for one in await rows(client, f"{catalog}&q=a%20line")] == [TITLES[1]]


async def test_a_list_without_rows_has_a_header_and_errors_are_problems(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get(f"{PREFIX}/content/popular?format=csv")
    assert answer.text == "movie_id,title,total_views,unique_viewers,completion_rate\r\n"
    csv_wanted = {"accept": "text/csv"}
    assert_problem(await client.get(f"{PREFIX}/trends?days=0", headers=csv_wanted), 422)
    assert_problem(await client.get(f"{PREFIX}/trends?format=tsv", headers=csv_wanted), 422)


async def test_without_the_store_there_is_a_problem_and_no_table(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    await app.state.store.close()
    film, user = f"content/{MOVIES[0]}", f"user/{USERS[0]}"
    for path in (
        "content/popular", "trends", "peak-hours", "heatmap", "now", "concurrency", "overview",
        "watch-time", f"{film}/stats", f"{film}/trends", f"{film}/retention", f"{user}/movies",
        "catalog/movies",
    ):  # fmt: skip
        for form in ("csv", "json"):
            assert_problem(await client.get(f"{PREFIX}/{path}?format={form}"), 503)
    film_sent = {"movie_id": MOVIES[0], "title": "x"}
    assert_problem(await client.put(f"{PREFIX}/catalog/movies", json=[film_sent]), 503)
