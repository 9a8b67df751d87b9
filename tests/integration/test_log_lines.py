"""The log: a line for each request, named as in its answer, and nothing of whose viewing it is."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.clickhouse_client import load_query
from app.core.config import Settings
from app.core.errors import StoreError
from app.core.logging import configure_logging
from tests.conftest import NOW, running
from tests.support.answers import PREFIX, assert_problem

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

Logged = Callable[[], str]


@pytest.fixture
def logged_as(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], Logged]]:
    """Sets logging up for a format, as an entry point does; then gives what was logged since."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def configure(form: Any) -> Logged:
        configure_logging("INFO", form)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # of the test itself
        return lambda: capsys.readouterr().err

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("httpx").setLevel(logging.NOTSET)


def event(**fields: Any) -> dict[str, Any]:
    return {
        "user_id": str(uuid4()),
        "movie_id": str(uuid4()),
        "event_type": "start",
        "timestamp": NOW.isoformat(),
        **fields,
    }


@pytest.mark.parametrize("engine", ["embedded"])
async def test_each_request_is_one_line_with_the_names_of_its_answer(
    settings: Settings, logged_as: Callable[[str], Logged]
) -> None:
    logged = logged_as("json")
    async with running(settings) as (_, client):
        logged()
        user = uuid4()
        answers = [
            await client.get(f"{PREFIX}/trends?days=3"),
            await client.get(f"{PREFIX}/trends?days=3"),
            await client.get(f"{PREFIX}/user/{user}/stats", headers={"x-request-id": "mine-1"}),
            await client.get(f"{PREFIX}/user/{user}/stats", headers={"x-request-id": "not mine"}),
            await client.post(f"{PREFIX}/events", json=event()),
            await client.get(f"{PREFIX}/nowhere", headers={"traceparent": TRACEPARENT}),
        ]
        lines = [json.loads(line) for line in logged().splitlines()]
        assert [line["request_id"] for line in lines] == [
            answer.headers["x-request-id"] for answer in answers
        ]
        assert lines[2]["request_id"] == "mine-1"
        assert answers[-1].json()["request_id"] == lines[-1]["request_id"]
        stats = f"{PREFIX}/user/{{user_id}}/stats"
        assert [(line["method"], line["route"], line["status"]) for line in lines] == [
            ("GET", f"{PREFIX}/trends", 200),
            ("GET", f"{PREFIX}/trends", 200),
            ("GET", stats, 200),
            ("GET", stats, 200),
            ("POST", f"{PREFIX}/events", 201),
            ("GET", "unmatched", 404),
        ]
        assert lines[-1]["trace_id"] == TRACE
        assert all("trace_id" not in line for line in lines[:-1])
        for line in lines:
            assert line["level"] == "INFO"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["time"])
            assert 0 < line["duration_ms"] < 60_000

        logged = logged_as("console")
        answer = await client.get(f"{PREFIX}/trends", headers={"traceparent": TRACEPARENT})
        assert re.fullmatch(
            rf"[\d-]{{10}}T[\d:]{{8}}\.\d{{3}}Z INFO app\.api\.observe"
            rf" \[{answer.headers['x-request-id']} trace {TRACE}\]: answered method=GET"
            rf" route={PREFIX}/trends status=200 duration_ms=[\d.]+\n",
            logged(),
        )

    async with running(settings.model_copy(update={"log_requests": False})) as (_, client):
        logged()
        await client.get(f"{PREFIX}/trends")
        assert logged() == ""


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_line_says_who_was_asked_about(
    settings: Settings, logged_as: Callable[[str], Logged], form: str
) -> None:
    user, word = str(uuid4()), "open-sesame"
    secrets = (user, user.upper(), user.replace("-", ""), user[:13], user[9:18], word)
    stats = f"{PREFIX}/user/{user}/stats"
    logged = logged_as(form)
    async with running(settings) as (app, client):

        @app.get("/broken/{user_id}")
        async def broken(user_id: str) -> None:
            raise KeyError(user_id)

        async def ask(method: str, path: str, status: int, **more: Any) -> str:
            """What is logged."""
            logged()
            answer = await client.request(method, path, **more)
            assert answer.status_code == status, answer.text
            text = logged()
            assert answer.headers["x-request-id"] in text
            assert not [secret for secret in secrets if secret in text]
            return text

        await ask("GET", stats, 200)
        await ask("GET", f"{stats}?days={user}", 422)
        await ask("GET", f"{PREFIX}/user/{user}{word}/stats?tz={word}", 422)
        await ask("GET", f"{PREFIX}/user/{user}/nothing", 404)
        await ask("GET", f"/{word}", 404, headers={"authorization": word, "referer": user})
        await ask("POST", f"{PREFIX}/events", 201, json=event(user_id=user))
        await ask("POST", f"{PREFIX}/events", 422, json=event(user_id=user, movie_id=word))
        text = await ask("GET", f"/broken/{user}", 500)
        assert "KeyError" in text
        assert "test_log_lines.py" in text
        await ask("GET", f"/broken/{word}", 500)

        # The engine quotes the query, with whom it asks for.
        store = app.state.store
        await store.execute("RENAME TABLE user_stats_mv TO elsewhere")
        await store.execute("CREATE TABLE user_stats_mv (user_id UUID) ENGINE = Memory")
        about = {"user_id": user, "first_day": NOW.date(), "last_day": NOW.date()}
        with pytest.raises(StoreError, match=user):
            await store.execute(load_query("user_counts"), about)
        text = await ask("GET", f"{stats}?days=2", 500)
        assert "UNKNOWN_IDENTIFIER" in text, "what is wrong is still said"
        assert "analytics_service.py" in text, "and where"
        await store.execute("DROP TABLE user_stats_mv")
        await store.execute("RENAME TABLE elsewhere TO user_stats_mv")

        await store.close()
        assert "store" in await ask("GET", f"{stats}?days=4", 503)
        await ask("POST", f"{PREFIX}/events", 503, json=event(user_id=user))


@pytest.mark.parametrize("engine", ["embedded"])
async def test_a_fault_is_logged_once_and_with_its_stack_on_one_line(
    settings: Settings, logged_as: Callable[[str], Logged]
) -> None:
    logged = logged_as("json")
    async with running(settings) as (app, _):

        @app.get("/broken")
        async def broken() -> None:
            raise KeyError

        # Whoever runs the app, as uvicorn does, would log once more what gets as far as that.
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            logged()
            answer = await client.get("/broken", headers={"traceparent": TRACEPARENT})
        request_id = assert_problem(answer, 500)["request_id"]
        fault, line = [json.loads(one) for one in logged().splitlines()]
        assert (fault["level"], fault["error"]) == ("ERROR", "KeyError")
        assert fault["stack"].startswith("Traceback (most recent call last):\n")
        assert fault["stack"].endswith("\nKeyError")
        assert (line["route"], line["status"]) == ("/broken", 500)
        for one in (fault, line):
            assert (one["request_id"], one["trace_id"]) == (request_id, TRACE)
