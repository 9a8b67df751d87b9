"""The Kafka door: each message once, whole, and the same figures as by HTTP."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from tests.conftest import NOW, running
from tests.support.answers import PREFIX, assert_answers, split
from tests.support.brokers import Kafka, Message
from tests.support.consistency import assert_rollups_match
from tests.support.ingestion import caught_up, ingestion, rejected_rows, report_when
from tests.support.oracle import Truth, understand
from tests.support.viewing import USERS, ZONES, event_lists

TOPICS = {"start": "stream.start", "progress": "stream.progress", "finish": "stream.stop"}
ACTIONS = {"start": "stream_start", "progress": "stream_progress", "finish": "stream_stop"}
TABLES = (
    "viewing_events", "popular_content", "user_stats", "traffic", "audience", "rejected_events",
)  # fmt: skip
USER = USERS[0]


def event(**fields: Any) -> dict[str, Any]:
    return {
        "user_id": USER,
        "movie_id": str(uuid4()),
        "action": "stream_start",
        "timestamp": (NOW - timedelta(hours=1)).isoformat(),
        **fields,
    }


def message(sent: dict[str, Any]) -> Message:
    """An event in the topic that it belongs to, keyed by its user."""
    kind = understand(sent).kind
    return Message(TOPICS[kind], json.dumps(sent).encode(), sent["user_id"].encode())


@pytest.fixture
def engine() -> str:
    """One is enough: messages come in by the same writer as all else."""
    return "embedded"


def settings_for(kafka: Kafka, settings: Settings, **changes: Any) -> Settings:
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


@asynccontextmanager
async def reading(
    kafka: Kafka,
    settings: Settings,
    clock: Callable[[], datetime] = lambda: NOW,
    **changes: Any,
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The service in this process, reading from Kafka."""
    async with running(settings_for(kafka, settings, **changes), clock) as opened:
        yield opened


@pytest.fixture
async def service(
    kafka: Kafka, settings: Settings
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with reading(kafka, settings) as opened:
        yield opened


async def send_by_http(client: httpx.AsyncClient, batch: list[dict[str, Any]]) -> None:
    answer = await client.post(f"{PREFIX}/events/batch", json=batch)
    assert answer.status_code == 200
    assert answer.json()["rejected"] == 0


@hypothesis_settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=event_lists(),
    days=st.sampled_from([1, 7, 31, 365]),
    tz=st.sampled_from(ZONES),
    seed=st.integers(0, 2**32),
)
async def test_any_mixture_of_both_doors_gives_the_true_answers(
    kafka: Kafka,
    service: tuple[FastAPI, httpx.AsyncClient],
    events: list[dict[str, Any]],
    days: int,
    tz: str,
    seed: int,
) -> None:
    """By Kafka, by HTTP or by both, in any order and however often."""
    app, client = service
    for table in TABLES:
        await app.state.store.execute(f"TRUNCATE TABLE {table}")
    before = await ingestion(client)
    dice = random.Random(seed)
    repeated = events + dice.choices(events, k=len(events) // 2) if events else []
    dice.shuffle(repeated)
    by_kafka = [one for one in repeated if dice.random() < 0.6]
    by_http = [one for one in repeated if one not in by_kafka or dice.random() < 0.3]
    await asyncio.to_thread(kafka.send, map(message, by_kafka))
    for batch in split(by_http, dice, most=15):
        await send_by_http(client, batch)
    there = sum(one["end_offset"] for one in before["kafka"]["partitions"])
    report = await caught_up(client, there + len(by_kafka))
    truth = Truth(repeated, NOW)
    await assert_answers(client, truth, USERS, days, tz)

    def new(door: str, count: str) -> int:
        difference: int = report[door][count] - before[door][count]
        return difference

    assert new("kafka", "received") == len(by_kafka)
    assert new("http", "received") == len(by_http)
    assert new("kafka", "stored") + new("http", "stored") == len(truth.events)
    assert new("kafka", "rejected") == new("http", "rejected") == 0


async def test_what_waited_before_the_start_is_read_from_the_beginning(
    kafka: Kafka, settings: Settings
) -> None:
    """With batches that are full at once, and many more messages than one of them holds."""
    sent = [event(position_seconds=n) for n in range(1000)]
    kafka.send(map(message, sent))
    async with reading(kafka, settings, kafka_batch_events=10) as (app, client):
        report = await caught_up(client, len(sent))
        assert report["kafka"]["stored"] == len(sent)
        await assert_answers(client, Truth(sent, NOW), [USER], 7, "UTC")
        await assert_rollups_match(app.state.store)
    assert kafka.committed("stream.start") == len(sent)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_messages_are_read(
    kafka: Kafka, service: tuple[FastAPI, httpx.AsyncClient], codec: str
) -> None:
    sent = [event(position_seconds=n) for n in range(100)]
    kafka.send(map(message, sent), **{"compression.type": codec})
    report = await caught_up(service[1], len(sent))
    assert report["kafka"]["stored"] == len(sent)


def as_json(**fields: Any) -> bytes:
    return json.dumps(event(**fields)).encode()


BAD = {
    "not json": ("stream.start", b"{'user_id': 1}", "not_json"),
    "cut off": ("stream.start", as_json()[:-1], "not_json"),
    "two in one": ("stream.start", as_json() + as_json(), "not_json"),
    "not UTF-8": ("stream.start", b'{"user_id": "\xff\xfe\x00"}', "not_json"),
    "UTF-16": ("stream.start", as_json().decode().encode("utf-16"), "not_json"),
    "bytes": ("stream.start", bytes(range(256)), "not_json"),
    "empty": ("stream.progress", b"", "not_json"),
    "tombstone": ("stream.stop", None, "not_json"),
    "an array": ("stream.start", b"[" + as_json() + b"]", "invalid_field"),
    "a number": ("stream.start", b"5", "invalid_field"),
    "a wrong type": ("stream.start", as_json(position_seconds="5"), "invalid_field"),
    "no user": ("stream.start", json.dumps({"movie_id": USER}).encode(), "invalid_field"),
    "no time": (
        "stream.start",
        json.dumps({"user_id": USER, "movie_id": USER}).encode(),
        "invalid_field",
    ),
    "the action of another topic": ("stream.stop", as_json(), "type_mismatch"),
    "the type of another topic": (
        "stream.progress",
        as_json(action="stream_progress", event_type="start"),
        "type_mismatch",
    ),
    "in the future": (
        "stream.start",
        as_json(timestamp=(NOW + timedelta(minutes=6)).isoformat()),
        "in_future",
    ),
    "too old": (
        "stream.start",
        as_json(timestamp=(NOW - timedelta(days=366)).isoformat()),
        "too_old",
    ),
    "much metadata": ("stream.start", as_json(metadata={"x": "y" * 16_384}), "metadata_too_large"),
    "5 MB": ("stream.progress", random.Random(5).randbytes(5_000_000), "not_json"),
}


async def test_what_is_no_event_is_kept_whole_and_once_among_the_good(
    kafka: Kafka, service: tuple[FastAPI, httpx.AsyncClient]
) -> None:
    app, client = service
    good = [event(position_seconds=n) for n in range(len(BAD) + 1)]
    mixed = [message(good[0])]
    for (topic, value, _), after in zip(BAD.values(), good[1:], strict=True):
        mixed += [Message(topic, value, partition=0), message(after)]
    kafka.send(mixed)
    report = await caught_up(client, len(mixed))
    assert report["kafka"]["stored"] == len(good)
    assert report["kafka"]["rejections"] == Counter(reason for _, _, reason in BAD.values())
    rows = await rejected_rows(app.state.store)
    assert sorted((topic, reason, payload) for topic, _, _, reason, payload in rows) == sorted(
        (kafka.prefix + topic, reason, value or b"") for topic, value, reason in BAD.values()
    )
    await assert_answers(client, Truth(good, NOW), [USER], 7, "UTC")
    assert kafka.committed("stream.start") > 0
    health = (await client.get("/health")).json()
    assert health["status"] == "healthy"
    assert health["warnings"] == [f"{len(BAD)} Kafka messages of the last minute are no events"]


async def test_an_event_needs_no_action_where_the_topic_says_it(
    kafka: Kafka, service: tuple[FastAPI, httpx.AsyncClient]
) -> None:
    """And it is the same event as by HTTP, where it has to say so."""
    _, client = service
    for kind, topic in TOPICS.items():
        sent = event()
        del sent["action"]
        await send_by_http(client, [sent | {"event_type": kind}])
        kafka.send([Message(topic, json.dumps(sent).encode())])
    report = await caught_up(client, 3)
    assert report["kafka"]["duplicates"] == 3


async def test_what_is_delivered_again_changes_nothing(kafka: Kafka, settings: Settings) -> None:
    """Another group reads everything once more into the same store, ten minutes later.

    What was in the future then is not any more, and stays rejected: in each of many batches.
    """
    soon = [
        event(timestamp=(NOW + timedelta(minutes=6)).isoformat(), position_seconds=n)
        for n in range(40)
    ]
    good = [event(position_seconds=n) for n in range(50)]
    messages = [*map(message, soon), *[Message("stream.stop", b"junk")] * 40, *map(message, good)]
    random.Random(1).shuffle(messages)
    kafka.send(messages)
    async with reading(kafka, settings, kafka_batch_events=10) as (app, client):
        await caught_up(client, len(messages))
        kept = await rejected_rows(app.state.store)
        assert len(kept) == 80
    kafka.group += "-2"
    later = NOW + timedelta(minutes=10)
    async with reading(kafka, settings, lambda: later, kafka_batch_events=7) as (app, client):
        report = await caught_up(client, len(messages))
        assert report["kafka"]["duplicates"] == len(good)
        assert report["kafka"]["rejections"] == {"in_future": 40, "not_json": 40}
        assert await rejected_rows(app.state.store) == kept
        await assert_answers(client, Truth(good, NOW), [USER], 7, "UTC")
        assert "warnings" not in (await client.get("/health")).json()


async def test_a_topic_that_is_made_again_has_other_messages(
    true_kafka: Kafka, settings: Settings
) -> None:
    """Its offsets begin at 0 again: what was rejected there before says nothing of them."""
    good = [event(position_seconds=n) for n in range(20)]
    true_kafka.send([Message("stream.start", b"junk %d" % n, partition=0) for n in range(20)])
    async with reading(true_kafka, settings) as (_, client):
        await caught_up(client, 20)
    true_kafka.remove()
    true_kafka.group += "-2"
    true_kafka.send([Message("stream.start", b"other junk", partition=0)])
    true_kafka.send(Message("stream.start", json.dumps(one).encode(), partition=0) for one in good)
    async with reading(true_kafka, settings) as (app, client):
        report = await caught_up(client, 21)
        assert report["kafka"]["stored"] == len(good)
        assert len(await rejected_rows(app.state.store)) == 21


async def test_a_message_that_the_client_cannot_read_holds_up_nothing(
    kafka: Kafka, settings: Settings
) -> None:
    good = [event(position_seconds=n) for n in range(60)]
    for start in (0, 20, 40):
        kafka.send(
            Message("stream.start", json.dumps(one).encode(), partition=0)
            for one in good[start : start + 20]
        )
        kafka.send_with_unreadable_header("stream.start", json.dumps(event()).encode())
    async with reading(kafka, settings) as (app, client):
        report = await caught_up(client, 63)
        assert report["kafka"]["stored"] == len(good)
        rows = await rejected_rows(app.state.store)
        assert [(offset, reason) for _, _, offset, reason, _ in rows] == [
            (20, "not_json"), (41, "not_json"), (62, "not_json"),
        ]  # fmt: skip
        await assert_answers(client, Truth(good, NOW), [USER], 7, "UTC")


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@asynccontextmanager
async def without_table(store: ClickHouseClient, table: str) -> AsyncIterator[None]:
    await store.execute(f"DETACH TABLE {table}")
    try:
        yield
    finally:
        await store.execute(f"ATTACH TABLE {table}")


@pytest.mark.parametrize("table", ["viewing_events", "rejected_events", "traffic"])
async def test_nothing_is_committed_before_it_is_stored_and_kept(
    kafka: Kafka,
    service: tuple[FastAPI, httpx.AsyncClient],
    table: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The store fails for a while; the consumer waits, and goes on by itself."""
    app, client = service
    kafka.send([message(event())])
    await caught_up(client, 1)
    good = [event(position_seconds=n) for n in range(30)]
    messages = [*map(message, good), Message("stream.start", b"junk")]
    dice = random.Random(table)
    dice.shuffle(messages)

    def failures() -> int:
        return sum(one.getMessage().startswith("the store: ") for one in caplog.records)

    async with without_table(app.state.store, table):
        kafka.send(messages)
        await until(lambda: failures() >= 3)
        report = await ingestion(client)
        assert report["kafka"]["stored"] == 1
        assert report["kafka"]["lag"] == len(messages)
        assert report["complete_through"] is not None
        assert kafka.committed("stream.start") == 1
    report = await caught_up(client, 1 + len(messages))
    assert report["kafka"]["received"] == 1 + len(messages)
    assert report["kafka"]["rejected"] == 1
    assert len(await rejected_rows(app.state.store)) == 1
    await assert_rollups_match(app.state.store)
    rows = await app.state.store.execute("SELECT count() AS n FROM viewing_events")
    assert rows == [{"n": 1 + len(good)}]


async def test_garbage_does_not_hold_up_the_other_topics(kafka: Kafka, settings: Settings) -> None:
    """What is good is stored long before all of the garbage in front of it is kept."""
    garbage = 60_000
    kafka.send(Message("stream.start", b"garbage %d" % n) for n in range(garbage))
    good = [event(action="stream_progress", position_seconds=n) for n in range(500)]
    kafka.send(map(message, good))
    async with reading(kafka, settings, kafka_batch_events=1000) as (_, client):
        report = await report_when(client, lambda seen: seen["kafka"]["stored"] == len(good))
        assert report["kafka"]["rejected"] < garbage / 2
        report = await caught_up(client, garbage + len(good), seconds=120)
        assert report["kafka"]["rejected"] == garbage


async def test_the_log_names_garbage_once_a_minute(
    kafka: Kafka, service: tuple[FastAPI, httpx.AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(5):
        kafka.send([Message("stream.start", b"junk")] * 20)
        await caught_up(service[1], 20 * (n + 1))
    lines = [one.getMessage() for one in caplog.records if "are no events" in one.getMessage()]
    assert len(lines) == 1
    assert "not_json 20" in lines[0]


async def test_how_far_the_group_is(
    kafka: Kafka, service: tuple[FastAPI, httpx.AsyncClient]
) -> None:
    app, client = service
    latest = NOW - timedelta(minutes=3)
    sent = [event(), event(timestamp=latest.isoformat()), event()]
    kafka.send(map(message, sent))
    report = await caught_up(client, 3)
    assert report["kafka"]["state"] == "enabled"
    assert datetime.fromisoformat(report["kafka"]["last_event_time"]) == latest
    assert report["http"]["last_event_time"] is None
    assert datetime.fromisoformat(report["since"]) == NOW
    # All is taken in, so up to the time of the question.
    assert datetime.fromisoformat(report["complete_through"]) == NOW
    topics = {one["topic"].removeprefix(kafka.prefix) for one in report["kafka"]["partitions"]}
    assert topics == set(TOPICS.values())
    async with without_table(app.state.store, "viewing_events"):
        sent_at = datetime.now(UTC)
        kafka.send([message(event())])
        report = await report_when(client, lambda seen: seen["kafka"]["lag"] == 1)
        [behind] = [one for one in report["kafka"]["partitions"] if one["lag"]]
        assert behind["next_offset"] == behind["end_offset"] - 1
        # Up to when it was last seen to be taken in, or to the message before, by Kafka's time.
        assert NOW <= datetime.fromisoformat(behind["complete_through"]) <= sent_at
    report = await caught_up(client, 4)
    assert datetime.fromisoformat(report["complete_through"]) == NOW


async def test_messages_of_a_transaction_that_is_aborted_are_no_events(
    true_kafka: Kafka, settings: Settings
) -> None:
    kept, undone = [[event(position_seconds=n) for n in range(20)] for _ in range(2)]
    producer = true_kafka.producer(**{"transactional.id": f"{true_kafka.prefix}producer"})
    producer.init_transactions(30)
    for batch, is_kept in ((kept, True), (undone, False)):
        producer.begin_transaction()
        for one in map(message, batch):
            producer.produce(true_kafka.prefix + one.topic, one.value, one.key)
        producer.flush(30)
        if is_kept:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    async with reading(true_kafka, settings) as (_, client):
        # The marks of the transactions are no messages, and nothing waits.
        report = await caught_up(client, 40)
        assert report["kafka"]["stored"] == len(kept) == report["kafka"]["received"]
        await assert_answers(client, Truth(kept, NOW), [USER], 7, "UTC")


async def test_without_brokers_the_rest_works(settings: Settings) -> None:
    nobody = Kafka("127.0.0.1:1")
    async with reading(nobody, settings) as (_, client):
        await send_by_http(client, [event()])
        before = time.monotonic()
        answer = await client.get("/health")
        assert time.monotonic() - before < 2
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "degraded", "clickhouse": "healthy", "kafka": "unreachable",
        }  # fmt: skip
        report = await ingestion(client)
        assert report["kafka"]["state"] == "unreachable"
        assert report["kafka"]["lag"] is None
        assert report["complete_through"] is None
        assert report["http"]["stored"] == 1
        assert (await client.get("/readyz")).status_code == 200


async def test_with_kafka_disabled_nobody_asks_for_it(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {
        "status": "healthy", "clickhouse": "healthy", "kafka": "disabled",
    }  # fmt: skip
    report = await ingestion(client)
    assert report["kafka"]["state"] == "disabled"
    assert report["kafka"]["received"] == 0


async def test_rejected_events_by_http_are_counted_too(client: httpx.AsyncClient) -> None:
    sent = event()
    body = [sent, sent, {}, event(action="stream_stop", event_type="start")]
    await client.post(f"{PREFIX}/events/batch", json=body)
    await client.post(f"{PREFIX}/events", content=b"junk")
    await client.post(f"{PREFIX}/events", json=sent)
    report = await ingestion(client)
    assert report["http"] == {
        "received": 6,
        "stored": 1,
        "duplicates": 2,
        "rejected": 3,
        "in_flight": 0,
        "rejections": {"invalid_field": 1, "type_mismatch": 1, "not_json": 1},
        "last_event_time": sent["timestamp"].replace("+00:00", "Z"),
    }
