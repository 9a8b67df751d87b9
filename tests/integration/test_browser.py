"""What browsers are told, and what pages of other sites may have them do."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.config import Settings
from tests.conftest import running
from tests.integration.test_access import connect, unopened
from tests.support.answers import PREFIX, assert_problem

EVENTS = f"{PREFIX}/events"
TV = "https://tv.example"
ASKING = {
    "Origin": TV,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type, x-api-key",
}


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, enable_kafka=False, **changes)


def directives(answer: httpx.Response) -> dict[str, str]:
    every = answer.headers["content-security-policy"].split("; ")
    return {one.partition(" ")[0]: one.partition(" ")[2] for one in every}


async def test_every_answer_makes_browsers_strict() -> None:
    async with unopened(settings()) as (app, client):

        @app.get("/broken")
        async def broken() -> None:
            raise KeyError

        paths = {"/livez": 200, "/nowhere": 404, f"{PREFIX}/trends": 503, "/broken": 500}
        for path, status in paths.items():
            answer = await client.get(path)
            assert answer.status_code == status
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert directives(answer)["default-src"] == "'self'"
            assert directives(answer)["frame-ancestors"] == "'none'"
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert ("cache-control" in answer.headers) == path.startswith(PREFIX)
            assert "access-control-allow-origin" not in answer.headers
        assert_problem(await client.get("/broken"), 500)
        for path in ("/docs", "/redoc"):
            assert "'unsafe-inline'" in directives(await client.get(path))["script-src"]


async def test_no_site_may_ask_by_default() -> None:
    async with unopened(settings()) as (_, client):
        assert_problem(await client.options(EVENTS, headers=ASKING), 405)
        answer = await client.get("/livez", headers={"Origin": TV})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_sites_that_are_named_may_ask() -> None:
    async with unopened(settings(cors_origins=f"http://localhost:3000, {TV}")) as (app, client):

        @app.get("/broken")
        async def broken() -> None:
            raise KeyError

        allowed = await client.options(EVENTS, headers=ASKING)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == TV
        assert "x-api-key" in allowed.headers["access-control-allow-headers"].lower()
        for path in (f"{PREFIX}/trends", "/broken"):  # its errors can be read too
            answer = await client.get(path, headers={"Origin": TV})
            assert answer.headers["access-control-allow-origin"] == TV
            assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        foreign = {**ASKING, "Origin": "https://other.example"}
        refused = await client.options(EVENTS, headers=foreign)
        assert_problem(refused, 400)
        assert "access-control-allow-origin" not in refused.headers
        answer = await client.get("/livez", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in answer.headers
    async with unopened(settings(cors_origins="*")) as (_, client):
        allowed = await client.options(EVENTS, headers=ASKING)
        assert allowed.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", [None, TV])
async def test_what_a_beacon_sends_is_taken(tmp_path: Path, origin: str | None) -> None:
    headers = {"Content-Type": "text/plain;charset=UTF-8"}
    if origin is not None:
        headers |= {"Origin": origin, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "cross-site"}
    events = [
        {"user_id": str(uuid4()), "movie_id": str(uuid4()), "event_type": "start"} for _ in range(3)
    ]
    async with running(settings(clickhouse_path=tmp_path / "store")) as (_, client):
        one = await client.post(EVENTS, content=json.dumps(events[0]), headers=headers)
        assert one.status_code == 201
        for body in ([events[1]], {"events": [events[2]]}):
            many = await client.post(f"{EVENTS}/batch", content=json.dumps(body), headers=headers)
            assert many.json()["stored"] == 1


async def test_pages_of_other_sites_neither_administer_nor_look_on() -> None:
    repair, live = f"{PREFIX}/admin/repair", f"{PREFIX}/live"
    async with unopened(settings(cors_origins=TV)) as (app, client):
        assert_problem(await client.post(repair, headers={"Origin": "https://other.example"}), 403)
        assert await connect(app, live, {"Origin": "https://other.example"}, []) == 403
        for headers in ({}, {"Origin": TV}, {"Origin": "https://service"}):
            assert (await client.post(repair, headers=headers)).status_code != 403
            assert await connect(app, live, headers, []) == 503  # let in


async def test_a_site_whose_name_leads_here_is_refused() -> None:
    live = f"{PREFIX}/live"
    for_any, for_some = settings(), settings(allowed_hosts="films.example, Service")
    async with unopened(for_some) as (app, client):
        # As the browser of somebody on a page of that site sends it: its own origin.
        foreign = {"Host": "evil.example:8006", "Origin": "http://evil.example:8006"}
        assert_problem(await client.get(f"{PREFIX}/trends", headers=foreign), 421)
        assert_problem(await client.post(f"{PREFIX}/admin/repair", headers=foreign), 421)
        assert await connect(app, live, foreign, []) == 421
        for host in ("", "evil.example", "films.example.evil.example", "1.2.3.4.evil.example"):
            assert_problem(await client.get("/livez", headers={"Host": host}), 421)
        for host in (
            "films.example", "FILMS.example:443", "service", "localhost:8006", "127.0.0.1",
            "10.1.2.3:8006", "[::1]:8006", "[::1]",
        ):  # fmt: skip
            assert (await client.get("/livez", headers={"Host": host})).status_code == 200
    async with unopened(for_any) as (_, client):
        assert (await client.get("/livez", headers=foreign)).status_code == 200
