"""The HTTP interface: receipts, limits, and one shape for every error."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from app.core.config import Settings
from app.main import create_app
from app.schemas.events import RejectionReason
from tests.conftest import NOW, running
from tests.support.answers import PREFIX, assert_problem

USER = "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4"
EVENTS = f"{PREFIX}/events"
BATCH = f"{PREFIX}/events/batch"
QUERIES = (
    f"{PREFIX}/content/popular",
    f"{PREFIX}/user/{USER}/stats",
    f"{PREFIX}/trends",
    f"{PREFIX}/peak-hours",
)


def event(**fields: Any) -> dict[str, Any]:
    return {"user_id": USER, "movie_id": str(uuid4()), "event_type": "start", **fields}


REJECTED: dict[RejectionReason, dict[str, Any]] = {
    RejectionReason.INVALID_FIELD: event(user_id="secret"),
    RejectionReason.TYPE_MISMATCH: event(action="stream_stop"),
    RejectionReason.IN_FUTURE: event(timestamp=(NOW + timedelta(minutes=6)).isoformat()),
    RejectionReason.TOO_OLD: event(timestamp=(NOW - timedelta(days=366)).isoformat()),
    RejectionReason.METADATA_TOO_LARGE: event(metadata={"text": "x" * 16384}),
}


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with running(settings) as opened:
        yield opened


async def starts(client: httpx.AsyncClient) -> int:
    answer = await client.get(f"{PREFIX}/trends?days=365")
    return sum(day["starts"] for day in answer.json()["items"])


async def test_an_event_is_stored_once_and_seen_at_once(client: httpx.AsyncClient) -> None:
    sent = event(event_id=str(uuid4()), timestamp=NOW.isoformat())
    first = await client.post(EVENTS, json=sent)
    assert (first.status_code, first.json()) == (201, {"id": sent["event_id"], "status": "stored"})
    assert await starts(client) == 1
    again = await client.post(EVENTS, json=sent)
    assert (again.status_code, again.json()) == (
        200,
        {"id": sent["event_id"], "status": "duplicate"},
    )
    assert await starts(client) == 1


async def test_an_event_without_id_gets_the_same_one_each_time(client: httpx.AsyncClient) -> None:
    sent = event(timestamp=NOW.isoformat())
    ids = {(await client.post(EVENTS, json=sent)).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    assert await starts(client) == 1


async def test_an_undated_event_repeats_one_of_the_last_day(client: httpx.AsyncClient) -> None:
    event_id = str(uuid4())
    hours_ago = (NOW - timedelta(hours=23)).isoformat()
    await client.post(EVENTS, json=event(event_id=event_id, timestamp=hours_ago))
    assert (await client.post(EVENTS, json=event(event_id=event_id))).status_code == 200
    assert await starts(client) == 1


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain;charset=UTF-8"])
async def test_an_event_is_read_whatever_its_body_is_called(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await client.post(EVENTS, content=json.dumps(event()), headers=headers)
    assert answer.status_code == 201


@pytest.mark.parametrize("form", ["array", "object", "lines"])
async def test_a_batch_is_counted_and_its_bad_events_named(
    client: httpx.AsyncClient, form: str
) -> None:
    good = event(timestamp=NOW.isoformat())
    events: list[Any] = [good, *REJECTED.values(), event(), good, [], "text", None]
    if form == "array":
        answer = await client.post(BATCH, json=events)
    elif form == "object":
        answer = await client.post(BATCH, json={"events": events, "sender": "tv"})
    else:
        text = "\n\n".join(map(json.dumps, events)) + "\r\n"
        headers = {"content-type": "Application/X-NDJSON; charset=utf-8"}
        answer = await client.post(BATCH, content=text, headers=headers)
    receipt = answer.json()
    assert answer.status_code == 200
    rejections = receipt.pop("rejections")
    assert receipt == {"received": 11, "stored": 2, "duplicates": 1, "rejected": 8}
    assert [(one["index"], one["reason"]) for one in rejections] == [
        *((index, reason.value) for index, reason in enumerate(REJECTED, start=1)),
        *((index, "invalid_field") for index in (8, 9, 10)),
    ]
    assert all(one["detail"] and "secret" not in one["detail"] for one in rejections)
    assert await starts(client) == 2


async def test_a_line_that_is_not_json_is_a_rejection(client: httpx.AsyncClient) -> None:
    lines = [b'{"user_id"', json.dumps(event()).encode(), b"\xff", b""]
    answer = await client.post(
        BATCH, content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    receipt = answer.json()
    assert (receipt["received"], receipt["stored"], receipt["rejected"]) == (3, 1, 2)
    assert [one["reason"] for one in receipt["rejections"]] == ["not_json", "not_json"]


async def test_half_a_character_spoils_one_event_only(client: httpx.AsyncClient) -> None:
    cut = json.dumps(event(metadata={"title": "\ud83d"}))
    answer = await client.post(BATCH, content=f"[{cut}, {json.dumps(event())}]")
    assert (answer.json()["stored"], answer.json()["rejected"]) == (1, 1)


async def test_an_empty_batch_is_one(client: httpx.AsyncClient) -> None:
    for body in ("[]", '{"events": []}'):
        answer = await client.post(BATCH, content=body)
        assert answer.json()["received"] == 0


@pytest.mark.parametrize("reason", REJECTED)
async def test_a_rejected_event_says_why(
    client: httpx.AsyncClient, reason: RejectionReason
) -> None:
    answer = await client.post(EVENTS, json=REJECTED[reason])
    body = assert_problem(answer, 422, reason.value)
    assert "secret" not in answer.text
    assert body["errors"][0]["loc"][0] == "body"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1,]", b"\xef\xbb\xbf{}", b"NaN"])
@pytest.mark.parametrize("path", [EVENTS, BATCH])
async def test_what_is_not_json_is_a_bad_request(
    client: httpx.AsyncClient, path: str, content: bytes
) -> None:
    assert_problem(await client.post(path, content=content), 400, "not_json")


@pytest.mark.parametrize("content", ["5", '"text"', "{}", '{"events": 5}', "null"])
async def test_json_that_is_no_batch_is_unprocessable(
    client: httpx.AsyncClient, content: str
) -> None:
    assert_problem(await client.post(BATCH, content=content), 422)


async def test_too_many_events_are_too_large(client: httpx.AsyncClient) -> None:
    full = [event() for _ in range(10_000)]
    assert_problem(await client.post(BATCH, json=[*full, event()]), 413)
    assert await starts(client) == 0
    assert (await client.post(BATCH, json=full)).json()["stored"] == 10_000


@pytest.mark.parametrize("path", [EVENTS, BATCH])
@pytest.mark.parametrize("declared", [True, False])
async def test_too_many_bytes_are_too_large(
    client: httpx.AsyncClient, path: str, declared: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 1024 * 1024

    content: Any = b" " * (16 * 1024 * 1024 + 1) if declared else chunks()
    assert_problem(await client.post(path, content=content), 413)


@pytest.mark.parametrize("path", QUERIES)
@pytest.mark.parametrize(
    "query",
    ["days=0", "days=366", "days=x", "days=", "days=1.5", "tz=", "tz=Mars/Phobos", "tz=localtime"],
)
async def test_bad_parameters_are_unprocessable(
    client: httpx.AsyncClient, path: str, query: str
) -> None:
    body = assert_problem(await client.get(f"{path}?{query}"), 422)
    assert body["errors"][0]["loc"] == ["query", query.partition("=")[0]]
    assert "Mars" not in json.dumps(body["errors"]) + body["detail"]


@pytest.mark.parametrize("path", ["content/popular?limit=0", "content/popular?limit=101"])
async def test_bad_limits_are_unprocessable(client: httpx.AsyncClient, path: str) -> None:
    assert_problem(await client.get(f"{PREFIX}/{path}"), 422)


async def test_a_bad_user_id_is_unprocessable(client: httpx.AsyncClient) -> None:
    body = assert_problem(await client.get(f"{PREFIX}/user/zoé/stats"), 422)
    assert "z" not in body["errors"][0]["msg"]


async def test_every_route_refuses_other_methods_in_the_same_shape(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    paths = {re.sub(r"\{\w+\}", USER, path) for path in app.openapi()["paths"]}
    assert len(paths) == 14
    for path in paths:
        answer = await client.request("PATCH", path)
        assert_problem(answer, 405)
        assert answer.headers["allow"]
    assert_problem(await client.get("/nowhere"), 404)
    assert_problem(await client.get(f"{PREFIX}/nowhere"), 404)


async def test_a_fault_of_ours_names_no_internals(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    await app.state.store.execute("RENAME TABLE traffic TO elsewhere")
    body = assert_problem(await client.get(f"{PREFIX}/trends"), 500)
    assert "traffic" not in json.dumps(body)

    @app.get("/broken")
    async def broken() -> None:
        raise KeyError("traffic")

    body = assert_problem(await client.get("/broken"), 500)
    assert "traffic" not in json.dumps(body)


async def test_without_its_store_the_service_asks_to_try_again(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    assert (await client.get("/readyz")).status_code == 200
    await app.state.store.close()
    for path in QUERIES:
        assert_problem(await client.get(path), 503)
    assert_problem(await client.post(EVENTS, json=event()), 503)
    assert_problem(await client.post(BATCH, json=[event()]), 503)
    health = await client.get("/health")
    assert (health.status_code, health.json()) == (
        503,
        {"status": "unhealthy", "clickhouse": "unhealthy", "kafka": "disabled"},
    )
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/livez")).status_code == 200


async def test_until_it_has_started_the_service_asks_to_try_again(settings: Settings) -> None:
    transport = httpx.ASGITransport(app=create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for path in QUERIES:
            assert_problem(await client.get(path), 503)
        assert_problem(await client.post(EVENTS, json=event()), 503)
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        health = await client.get("/health")
        assert (health.status_code, health.json()["clickhouse"]) == (503, "unhealthy")


async def test_a_full_buffer_asks_to_try_again(settings: Settings) -> None:
    patient = {
        "write_batch_events": 1_000_000,
        "write_batch_age_ms": 60_000,
        "write_buffer_events": 10_000,
    }
    async with running(settings.model_copy(update=patient)) as (_, client):
        sent = [[event() for _ in range(10_000)] for _ in range(2)]
        posts = [asyncio.create_task(client.post(BATCH, json=events)) for events in sent]
        answered, waiting = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        assert_problem(answered.pop().result(), 503)
        assert len(waiting) == 1
    assert (await waiting.pop()).json()["stored"] == 10_000


async def test_health_says_what_is_wanted(settings: Settings) -> None:
    async with running(settings) as (_, client):
        assert (await client.get("/health")).json() == {
            "status": "healthy",
            "clickhouse": "healthy",
            "kafka": "disabled",
        }
    nobody = {"enable_kafka": True, "kafka_bootstrap_servers": "127.0.0.1:1"}
    async with running(settings.model_copy(update=nobody)) as (_, client):
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "degraded", "clickhouse": "healthy", "kafka": "unreachable"},
        )


async def test_a_request_keeps_its_id(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nowhere", headers={"x-request-id": "mine-17"})
    assert assert_problem(answer, 404)["request_id"] == "mine-17"
    for bad in ("a b", "x" * 200, "<script>"):
        answer = await client.get("/nowhere", headers={"x-request-id": bad})
        assert re.fullmatch("[0-9a-f]{16}", assert_problem(answer, 404)["request_id"])


async def test_everything_is_described_with_an_example(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()
    for path, methods in description["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (path, parameter)
                assert parameter["schema"].get("examples") or parameter.get("example"), parameter
            if "requestBody" in operation:
                for content in operation["requestBody"]["content"].values():
                    assert content["example"]
            for status, answer in operation["responses"].items():
                assert answer["description"]
                if int(status) >= 400 and path.startswith(PREFIX):
                    assert "application/problem+json" in answer["content"], (path, status)
                    assert answer["content"]["application/problem+json"]["example"]
            documented = set(operation["responses"])
            if path.startswith(PREFIX):
                assert {"500", "503"} <= documented
            if "requestBody" in operation or "parameters" in operation:
                assert "422" in documented
            if "requestBody" in operation:
                assert {"400", "413"} <= documented
    schemas = description["components"]["schemas"]
    for name in ("ViewingEvent", "EventReceipt", "PopularFilm", "UserStats", "TrendDay"):
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("description") or schema.get("title"), (name, field)
            assert "examples" in schema or "$ref" in schema, (name, field)
    references = set(re.findall(r"#/components/schemas/([\w.-]+)", json.dumps(description)))
    assert references <= set(schemas)


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_docs_need_nothing_from_elsewhere(client: httpx.AsyncClient, page: str) -> None:
    answer = await client.get(page)
    assert answer.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert loaded
    for asset in loaded:
        assert asset.startswith("/"), asset
        assert (await client.get(asset)).status_code == 200, asset


@pytest.mark.parametrize("path", QUERIES)
async def test_an_answer_in_words_that_were_used_before_is_the_same(
    service: tuple[FastAPI, httpx.AsyncClient], path: str
) -> None:
    _, client = service
    path = f"{path}?days=7&tz=Asia/Kolkata"
    first = await client.get(path)
    again = await client.get(path)
    assert again.content == first.content
    for name in ("content-type", "content-length"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    sent = event(user_id=USER, timestamp=NOW.isoformat())
    assert (await client.post(EVENTS, json=sent)).status_code == 201
    assert (await client.get(path)).content != first.content
    assert (await client.post(path, json={})).status_code == 405


async def test_words_that_were_wrong_once_are_wrong_again(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert_problem(await client.get(f"{PREFIX}/trends?days=0"), 422)


async def test_at_midnight_an_answer_is_of_the_new_day(settings: Settings) -> None:
    now = NOW.replace(hour=23, minute=59, second=59)
    async with running(settings, lambda: now) as (_, client):
        path = f"{PREFIX}/trends?days=1"
        days = []
        for _ in range(2):
            days += [(await client.get(path)).json()["period_end"] for _ in range(3)]
            now += timedelta(seconds=1)
        assert days == [str(NOW.date())] * 3 + [str(NOW.date() + timedelta(days=1))] * 3
