"""Who may do what: every route, with every kind of key. No store is needed to be turned away."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Message

from app.core.config import Settings
from app.core.keys import digest_of, new_key
from app.main import create_app
from tests.conftest import NOW, running
from tests.support.answers import PREFIX, assert_problem

OPEN, READ, INGEST, ADMIN = "open", "read", "ingest", "admin"
HEALTH, METRICS, DOCS = "health", "metrics", "docs"

# Who may do what, written down once more. A route that isn't here is not let be.
EXPECTED = {
    ("GET", "/"): OPEN,
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/static/{version}/{path:path}"): OPEN,
    ("GET", "/films/{movie_id}"): OPEN,
    ("GET", "/viewers/{user_id}"): OPEN,
    ("GET", "/definitions"): OPEN,
    ("GET", "/health"): HEALTH,
    ("GET", "/metrics"): METRICS,
    ("GET", "/docs"): DOCS,
    ("GET", "/docs/oauth2-redirect"): DOCS,
    ("GET", "/redoc"): DOCS,
    ("GET", "/openapi.json"): DOCS,
    ("GET", "/static-offline-docs/*"): DOCS,
    ("POST", f"{PREFIX}/events"): INGEST,
    ("POST", f"{PREFIX}/events/batch"): INGEST,
    ("PUT", f"{PREFIX}/catalog/movies"): INGEST,
    ("GET", f"{PREFIX}/catalog/movies"): READ,
    ("GET", f"{PREFIX}/content/popular"): READ,
    ("GET", f"{PREFIX}/content/{{movie_id}}/stats"): READ,
    ("GET", f"{PREFIX}/content/{{movie_id}}/trends"): READ,
    ("GET", f"{PREFIX}/content/{{movie_id}}/retention"): READ,
    ("GET", f"{PREFIX}/trends"): READ,
    ("GET", f"{PREFIX}/peak-hours"): READ,
    ("GET", f"{PREFIX}/heatmap"): READ,
    ("GET", f"{PREFIX}/now"): READ,
    ("GET", f"{PREFIX}/concurrency"): READ,
    ("GET", f"{PREFIX}/overview"): READ,
    ("GET", f"{PREFIX}/watch-time"): READ,
    ("GET", f"{PREFIX}/ingestion"): READ,
    ("GET", f"{PREFIX}/user/{{user_id}}/stats"): READ,
    ("GET", f"{PREFIX}/user/{{user_id}}/movies"): READ,
    ("WEBSOCKET", f"{PREFIX}/live"): READ,
    ("GET", f"{PREFIX}/user/{{user_id}}/export"): ADMIN,
    ("DELETE", f"{PREFIX}/user/{{user_id}}"): ADMIN,
    ("GET", f"{PREFIX}/admin/audit"): ADMIN,
    ("POST", f"{PREFIX}/admin/repair"): ADMIN,
    ("POST", f"{PREFIX}/admin/backup"): ADMIN,
}

CLASSES = (INGEST, READ, ADMIN)
SETTING = {INGEST: "ingest_api_keys", READ: "read_api_keys", ADMIN: "admin_api_key"}
KEYS = {of: new_key() for of in CLASSES}
OLD_KEYS = {of: new_key() for of in CLASSES}
SOON = (NOW + timedelta(seconds=1)).isoformat()


def hashes(of: str) -> SecretStr:
    """Of a class: a key of somebody else, the one that is good, and one that has just expired."""
    return SecretStr(
        f"{digest_of(new_key()).hex()}@2999-01-01, {digest_of(KEYS[of]).hex().upper()}@{SOON},"
        f"{digest_of(OLD_KEYS[of]).hex()}@{NOW.isoformat()}"
    )


def guarded(*classes: str, **changes: Any) -> Settings:
    keys: dict[str, Any] = {SETTING[of]: hashes(of) for of in classes}
    return Settings(_env_file=None, enable_kafka=False, **keys, **changes)


@asynccontextmanager
async def unopened(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The service before its store is opened: what is let in is answered 503, or as ever."""
    app = create_app(settings, lambda: NOW)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield app, client


def doors(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of all there is."""
    for route in routes:
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/*"
        elif isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", route.path
        elif isinstance(route, Route):
            for method in (route.methods or {"GET"}) - {"HEAD"}:
                yield method, route.path


def path_of(template: str) -> str:
    of_page = template.replace("{path:path}", "style.css")
    return re.sub(r"\{\w+\}", str(uuid4()), of_page).replace("*", "swagger-ui.css")


async def connect(app: FastAPI, path: str, headers: dict[str, str], protocols: list[str]) -> int:
    """The status that a WebSocket is refused with; 101 if it is let in, or there is none."""
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in {"Host": "service", **headers}.items()
        ],
        "subprotocols": protocols,
        "extensions": {"websocket.http.response": {}},
        "server": ("service", 80),
        "scheme": "ws",
        "asgi": {"version": "3.0"},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"} if not sent else {"type": "websocket.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if sent[0]["type"] == "websocket.http.response.start":
        return int(sent[0]["status"])
    return 101


async def status(
    app: FastAPI, client: httpx.AsyncClient, door: tuple[str, str], headers: dict[str, str]
) -> int:
    method, template = door
    path = path_of(template)
    if method == "WEBSOCKET":
        return await connect(app, path, headers, [])
    answer = await client.request(method, path, headers=headers)
    if answer.status_code in (401, 403):
        assert_problem(answer, answer.status_code)
        assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    await asyncio.sleep(0)
    return answer.status_code


async def test_every_route_is_in_the_table() -> None:
    async with unopened(guarded()) as (app, _):
        assert set(doors(app.router.routes)) <= set(EXPECTED)


@pytest.mark.parametrize("pages", ["none", "health,docs", "metrics"])
async def test_every_route_takes_the_key_of_its_class_and_no_other(pages: str) -> None:
    async with unopened(guarded(*CLASSES, public_pages=pages)) as (app, client):
        real = set(doors(app.router.routes))
        for door, needed in EXPECTED.items():
            if needed in (HEALTH, METRICS, DOCS):
                needed = OPEN if needed in pages else READ
            tries: list[tuple[dict[str, str], int]] = [
                ({}, 401),
                ({"X-API-Key": ""}, 401),
                ({"X-API-Key": new_key()}, 401),
                ({"Authorization": f"Basic {KEYS[READ]}"}, 401),
                ({"Authorization": "Bearer"}, 401),
            ]
            for of in CLASSES:
                tries.append(({"X-API-Key": OLD_KEYS[of]}, 401))
                expected = 0 if of == needed else 403
                tries.append(({"X-API-Key": KEYS[of]}, expected))
                tries.append(({"Authorization": f"bearer  {KEYS[of]}"}, expected))
                # The key of the header wins, whether it is the better one or not.
                other = CLASSES[CLASSES.index(of) - 1]
                bearer = f"Bearer {KEYS[other]}"
                tries.append(({"Authorization": bearer, "X-API-Key": KEYS[of]}, expected))
            for headers, refused in tries:
                got = await status(app, client, door, headers)
                if needed == OPEN or not refused:
                    assert got not in (401, 403), (door, headers)
                    assert door not in real or got not in (404, 405), door
                else:
                    assert got == refused, (door, headers)


async def test_a_class_without_keys_is_open_and_administration_is_not() -> None:
    async with unopened(guarded(INGEST)) as (app, client):
        assert await status(app, client, ("GET", f"{PREFIX}/trends"), {}) == 503
        assert await status(app, client, ("POST", f"{PREFIX}/events"), {}) == 401
        for key in ({}, {"X-API-Key": KEYS[INGEST]}, {"X-API-Key": KEYS[ADMIN]}):
            assert await status(app, client, ("POST", f"{PREFIX}/admin/repair"), key) == 403
    async with unopened(guarded()) as (app, client):
        for door in set(doors(app.router.routes)):
            assert await status(app, client, door, {}) not in (401, 403)


async def test_a_route_that_the_table_does_not_know_is_closed() -> None:
    async with unopened(guarded(*CLASSES)) as (app, client):

        @app.get("/new")
        async def new() -> str:
            raise AssertionError

        for headers in ({}, *({"X-API-Key": key} for key in KEYS.values())):
            assert await status(app, client, ("GET", "/new"), headers) == 403
            # What isn't there at all, or not for this method, is said to be so.
            assert await status(app, client, ("GET", "/nowhere"), headers) == 404
            assert await status(app, client, ("PATCH", f"{PREFIX}/trends"), headers) == 405
            assert await status(app, client, ("POST", "/new"), headers) == 405


async def test_one_key_may_be_of_several_classes() -> None:
    both: dict[str, Any] = {
        SETTING[of]: SecretStr(digest_of(KEYS[READ]).hex()) for of in (READ, INGEST)
    }
    settings = Settings(_env_file=None, enable_kafka=False, **both)
    async with unopened(settings) as (app, client):
        for door in (("GET", f"{PREFIX}/trends"), ("POST", f"{PREFIX}/events")):
            assert await status(app, client, door, {"X-API-Key": KEYS[READ]}) == 503


async def test_a_browser_gives_its_key_as_a_protocol() -> None:
    path = f"{PREFIX}/live"
    async with unopened(guarded(READ, INGEST)) as (app, _):  # 503 is let in
        assert await connect(app, path, {}, ["analytics.v1"]) == 401
        assert await connect(app, path, {}, ["analytics.v1", f"key.{KEYS[READ]}"]) == 503
        assert await connect(app, path, {}, ["analytics.v1", f"key.{KEYS[INGEST]}"]) == 403
        assert await connect(app, path, {}, ["analytics.v1", f"key.{new_key()}"]) == 401


async def test_keys_open_the_real_thing(tmp_path: Path) -> None:
    settings = guarded(*CLASSES, clickhouse_path=tmp_path / "store")
    event = {"user_id": str(uuid4()), "movie_id": str(uuid4()), "event_type": "start"}
    async with running(settings) as (_, client):
        ingest, read = ({"X-API-Key": KEYS[of]} for of in (INGEST, READ))
        assert_problem(await client.post(f"{PREFIX}/events", json=event), 401)
        assert (
            await client.post(f"{PREFIX}/events", json=event, headers=ingest)
        ).status_code == 201
        # An answer that is kept is no less closed than one that isn't.
        for _ in range(3):
            answer = await client.get(f"{PREFIX}/trends?days=1", headers=read)
            assert answer.json()["items"][0]["starts"] == 1
            assert_problem(await client.get(f"{PREFIX}/trends?days=1"), 401)
            assert_problem(await client.get(f"{PREFIX}/trends?days=1", headers=ingest), 403)


async def test_the_description_says_what_needs_a_key() -> None:
    async with unopened(guarded(*CLASSES)) as (_, client):
        description = (await client.get("/openapi.json")).json()
    schemes = description["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["header"]["name"]) == ("bearer", "X-API-Key")
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            needed = EXPECTED[method.upper(), path]
            secured = needed in CLASSES
            assert ("security" in operation) == secured, path
            assert ({"401", "403"} <= set(operation["responses"])) == (needed != OPEN), path
            assert ("429" in operation["responses"]) == (path.startswith(f"{PREFIX}/events"))
    async with unopened(guarded()) as (_, client):
        description = (await client.get("/openapi.json")).json()
    assert not any(
        "security" in operation
        for methods in description["paths"].values()
        for operation in methods.values()
    )
