"""/metrics: every figure is held against what was done to the service."""

import asyncio
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import WebSocket

from app.core.config import Settings
from app.main import VERSION, create_app
from app.schemas.events import RejectionReason
from tests.conftest import NOW, drop_database, own_database, running
from tests.support.answers import PREFIX, assert_problem
from tests.support.brokers import Kafka, Message
from tests.support.ingestion import caught_up
from tests.support.process import ROOT
from tests.support.scrapes import scrape
from tests.support.wire import wire_to

USER = "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4"
BATCH = f"{PREFIX}/events/batch"


@pytest.fixture
def engine() -> str:
    """One is enough, but where the store is silent: metrics know nothing of the engine."""
    return "embedded"


@pytest.fixture
def server_settings(clickhouse_server: dict[str, Any]) -> Iterator[Settings]:
    ours = own_database(clickhouse_server)
    yield ours
    asyncio.run(drop_database(ours))


def event(**fields: Any) -> dict[str, Any]:
    return {
        "user_id": USER,
        "movie_id": str(uuid4()),
        "event_type": "start",
        "timestamp": NOW.isoformat(),
        **fields,
    }


async def test_requests_are_counted_by_route_method_and_status(
    settings: Settings, promtool: str
) -> None:
    done: Counter[tuple[str, str, str]] = Counter()
    async with running(settings) as (app, client):

        async def ask(method: str, path: str, route: str, status: int, **more: Any) -> None:
            answer = await client.request(method, path, **more)
            assert answer.status_code == status
            known = method if method in ("GET", "POST", "PATCH", "DELETE") else "other"
            done[known, route, str(status)] += 1

        @app.get("/broken")
        async def broken() -> None:
            raise KeyError(USER)

        user = f"{PREFIX}/user/{{user_id}}/stats"
        for _ in range(3):  # the second and third are answers that are kept
            await ask("GET", f"{PREFIX}/trends?days=3", f"{PREFIX}/trends", 200)
        for tz in ("UTC", "Europe/Berlin"):
            await ask("GET", f"{PREFIX}/user/{USER}/stats?tz={tz}", user, 200)
        await ask("GET", f"{PREFIX}/user/zoe/stats", user, 422)
        await ask("GET", f"{PREFIX}/user/{USER}/nothing", "unmatched", 404)
        await ask("BREW", f"{PREFIX}/{USER}", "unmatched", 404)
        await ask("BREW", f"{PREFIX}/trends", f"{PREFIX}/trends", 405)
        await ask("PATCH", f"{PREFIX}/trends", f"{PREFIX}/trends", 405)
        await ask("POST", f"{PREFIX}/events", f"{PREFIX}/events", 400, content=b"{")
        await ask("POST", f"{PREFIX}/events", f"{PREFIX}/events", 201, json=event())
        await ask("POST", BATCH, BATCH, 200, json=[event(), event()])
        await ask("GET", "/broken", "/broken", 500)
        await ask("GET", "/docs", "/docs", 200)
        page = (await client.get("/docs")).text
        done["GET", "/docs", "200"] += 1
        asset = re.findall(r'src="(/[^"]+)"', page)[0]
        folder = "/" + asset.split("/")[1]
        await ask("GET", asset, folder, 200)

        first = await scrape(client)
        assert first.requests() == dict(done)
        durations = first.values("analytics_http_request_duration_seconds_count")
        assert sum(durations.values()) == done.total()
        assert USER not in first.text
        # The scrape itself is in the next one.
        assert (await scrape(client)).requests() == {**done, ("GET", "/metrics", "200"): 1}
        assert first.value("process_open_fds") > 0
        [build] = first.values("analytics_build_info")
        assert dict(build)["version"] == VERSION
        assert dict(build)["engine"] == "embedded"

        checked = await asyncio.to_thread(
            subprocess.run,
            [promtool, "check", "metrics"],
            input=first.text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

        openmetrics = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await client.get("/metrics", headers=openmetrics)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


def documented() -> dict[str, tuple[str, set[str]]]:
    """The README's table of metrics: name to type and labels."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Metrics and logs\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| `(analytics_\w+)` \| (\w+) \|([^|]*)\|", section[1], re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


async def test_the_readme_has_every_metric_with_its_type_and_labels(settings: Settings) -> None:
    app = create_app(settings)
    measures = app.state.measures
    measures.request("/", "GET", 200, 0.1)
    measures.kafka("group", True, [("topic", 0, 0)])
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        text = (await scrape(client)).text
    there = {}
    for name, kind in re.findall(r"^# TYPE (analytics_\w+) (\w+)$", text, re.MULTILINE):
        # A brace's first label has a comma or the brace before it.
        samples = re.findall(rf"^{name}(?:_bucket)?(\{{.*\}}) ", text, re.MULTILINE)
        labels = {label for one in samples for label in re.findall(r'[{,](\w+)="', one)}
        there[name] = (kind, labels - {"le"})
    assert documented() == there


async def test_events_are_counted_by_door_outcome_and_reason(settings: Settings) -> None:
    async with running(settings) as (app, client):
        good = [event() for _ in range(5)]
        bad = [event(user_id="zoe"), event(timestamp=(NOW - timedelta(days=366)).isoformat()), 5]
        await client.post(BATCH, json=[*good, good[0], *bad])
        await client.post(BATCH, json=good[:3])
        await client.post(f"{PREFIX}/events", json=event())
        await client.post(f"{PREFIX}/events", content=b"{")
        seen = await scrape(client)
        events = "analytics_events_total"
        assert seen.value(events, door="http", outcome="stored") == 6
        assert seen.value(events, door="http", outcome="duplicate") == 4
        assert seen.value(events, door="http", outcome="rejected") == 4
        rejected = {
            str(of["reason"]): count
            for labels, count in seen.values("analytics_events_rejected_total").items()
            for of in [dict(labels)]
            if of["door"] == "http"
        }
        expected = {"invalid_field": 2.0, "too_old": 1.0, "not_json": 1.0}
        assert rejected == {reason.value: expected.get(reason, 0.0) for reason in RejectionReason}
        assert seen.value(events, door="kafka", outcome="stored") == 0
        # Batches that were written, one after another: 5 events and a repeat, 3 repeats, 1 event.
        assert seen.value("analytics_batch_events_count") == 3
        assert seen.value("analytics_batch_events_sum") == 10
        assert seen.value("analytics_insert_duration_seconds_count") == 3
        assert seen.value("analytics_insert_duration_seconds_sum") > 0
        assert seen.value("analytics_insert_failures_total") == 0

        await app.state.store.execute("RENAME TABLE viewing_events TO elsewhere")
        assert_problem(await client.post(BATCH, json=[event()]), 500)
        failed = await scrape(client)
        assert failed.value("analytics_insert_failures_total") == 1
        assert failed.value("analytics_batch_events_count") == 3
        assert failed.value(events, door="http", outcome="stored") == 6
        await app.state.store.execute("RENAME TABLE elsewhere TO viewing_events")

    # Another app in the same process has counts of its own.
    other = create_app(settings.model_copy(update={"write_buffer_events": 12_345}))
    transport = httpx.ASGITransport(app=other)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        seen = await scrape(client)
    assert seen.requests() == {}
    assert seen.value("analytics_events_total", door="http", outcome="stored") == 0
    assert seen.value("analytics_store_up") == 0, "nothing is open before the start"
    assert seen.value("analytics_buffer_limit_events") == 12_345


async def test_a_websocket_is_counted_when_it_is_let_in_or_not(settings: Settings) -> None:
    app = create_app(settings)

    @app.websocket("/listen/{who}")
    async def listen(socket: WebSocket, who: str) -> None:
        if who == "friend":
            await socket.accept()
        await socket.close()

    async def connect(path: str) -> list[str]:
        """The types of the messages that come."""
        scope = {
            "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": [], "subprotocols": [], "scheme": "ws",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
        }  # fmt: skip
        came = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            came.append(message["type"])

        await app(scope, receive, send)
        return came

    assert await connect("/listen/friend") == ["websocket.accept", "websocket.close"]
    assert await connect("/listen/foe") == ["websocket.close"]
    assert await connect(f"/{USER}") == ["websocket.close"]
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await scrape(client)).requests() == {
            ("GET", "/listen/{who}", "101"): 1,
            ("GET", "/listen/{who}", "403"): 1,
            ("GET", "unmatched", "403"): 1,
        }


async def test_what_waits_to_be_written_is_told(settings: Settings) -> None:
    patient = {"write_batch_events": 1_000_000, "write_batch_age_ms": 60_000}
    async with running(settings.model_copy(update=patient)) as (_, client):
        before = await scrape(client)
        posts = [
            asyncio.create_task(client.post(BATCH, json=[event() for _ in range(count)]))
            for count in (20, 30)
        ]
        deadline = time.monotonic() + 20
        while (await scrape(client)).value("analytics_buffer_events") < 50:
            assert time.monotonic() < deadline
    assert before.value("analytics_buffer_events") == 0
    assert before.value("analytics_buffer_limit_events") == 50_000
    assert [(await one).json()["stored"] for one in posts] == [20, 30]


async def test_a_silent_store_holds_no_scrape_up(
    server_settings: Settings, clickhouse_server: dict[str, Any]
) -> None:
    host, port = clickhouse_server["clickhouse_host"], clickhouse_server.get("clickhouse_port")
    with wire_to(host, int(port or 9000)) as wire:
        changes = {
            "clickhouse_host": "127.0.0.1",
            "clickhouse_port": wire.port,
            "clickhouse_query_timeout": 1.0,
        }
        async with running(server_settings.model_copy(update=changes)) as (_, client):

            async def scraped_when(up: int) -> None:
                deadline = time.monotonic() + 20
                while (await scrape(client)).value("analytics_store_up") != up:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)

            await scraped_when(1)
            wire.stall()
            await scraped_when(0)  # what was known before is told for a while
            await asyncio.sleep(2.1)  # and so is this
            began = time.monotonic()
            seen = await asyncio.gather(*(scrape(client) for _ in range(5)))
            took = time.monotonic() - began
            assert took < 3, "2 seconds, and something for a busy machine"
            assert [one.value("analytics_store_up") for one in seen] == [0] * 5
            began = time.monotonic()
            await scrape(client)
            assert time.monotonic() - began < took / 2, "it was asked just now"
            wire.flow()
            await scraped_when(1)


def of_kafka(kafka: Kafka, settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(
        update={
            "enable_kafka": True,
            "kafka_bootstrap_servers": kafka.servers,
            "kafka_topic_prefix": kafka.prefix,
            "kafka_consumer_group": kafka.group,
            "kafka_session_timeout_ms": kafka.session_ms,
            "kafka_batch_age_ms": 20,
            **changes,
        }
    )


async def test_what_kafka_brings_and_what_waits_there_is_told(
    kafka: Kafka, settings: Settings
) -> None:
    lag, events = "analytics_kafka_lag_messages", "analytics_events_total"
    async with running(of_kafka(kafka, settings)) as (app, client):
        messages = [
            Message("stream.start", json.dumps(event(event_type="start")).encode())
            for _ in range(4)
        ]
        kafka.send([*messages, messages[0], Message("stream.stop", b"{")])
        await caught_up(client, 6)
        seen = await scrape(client)
        assert seen.value("analytics_kafka_up", group=kafka.group) == 1
        by_topic = Counter[str]()
        for labels, waiting in seen.values(lag).items():
            by_topic[dict(labels)["topic"]] += int(waiting)
        topics = ("stream.start", "stream.progress", "stream.stop")
        assert dict(by_topic) == {kafka.prefix + topic: 0 for topic in topics}
        outcomes = {"stored": 4, "duplicate": 1, "rejected": 1}
        for outcome, count in outcomes.items():
            assert seen.value(events, door="kafka", outcome=outcome) == count
        assert seen.value("analytics_events_rejected_total", door="kafka", reason="not_json") == 1

        await app.state.store.close()
        kafka.send(messages[:3])
        deadline = time.monotonic() + 30
        while sum((await scrape(client)).values(lag).values()) != 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_of_brokers_that_are_away_nothing_is_made_up(settings: Settings) -> None:
    async with running(settings) as (_, client):
        seen = await scrape(client)
        assert seen.values("analytics_kafka_up") == {}
        assert seen.values("analytics_kafka_lag_messages") == {}
    nobody = {"enable_kafka": True, "kafka_bootstrap_servers": "127.0.0.1:1"}
    async with running(settings.model_copy(update=nobody)) as (_, client):
        seen = await scrape(client)
        assert seen.value("analytics_kafka_up", group=settings.kafka_consumer_group) == 0
        assert seen.values("analytics_kafka_lag_messages") == {}
