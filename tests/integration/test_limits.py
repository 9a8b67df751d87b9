"""What is too much at a time: it is refused at once, and nothing else suffers from it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from app.api.limits import MAX_BODIES_BYTES, MAX_REQUESTS
from app.core.config import Settings
from app.core.errors import StoreUnavailableError
from app.core.keys import digest_of, new_key
from app.schemas.events import MAX_BODY_BYTES
from tests.conftest import opened, running
from tests.support.answers import PREFIX, assert_problem

EVENTS = f"{PREFIX}/events"
BATCH = f"{PREFIX}/events/batch"
TRENDS = f"{PREFIX}/trends?days=1"
MEBIBYTE = 1024 * 1024


def event() -> dict[str, str]:
    return {"user_id": str(uuid4()), "movie_id": str(uuid4()), "event_type": "start"}


def embedded(path: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, enable_kafka=False, clickhouse_path=path / "store", **changes)


async def starts(client: httpx.AsyncClient) -> int:
    answer = await client.get(TRENDS)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["items"][0]["starts"])


async def test_each_key_sends_as_many_events_as_it_may(tmp_path: Path) -> None:
    keys = [new_key(), new_key()]
    hashes = SecretStr(",".join(digest_of(key).hex() for key in keys))
    settings = embedded(tmp_path, ingest_api_keys=hashes, ingest_events_per_second=1)
    async with running(settings) as (_, client):
        one, other = ({"X-API-Key": key} for key in keys)
        taken = await client.post(BATCH, json=[event() for _ in range(1000)], headers=one)
        assert taken.json()["stored"] == 1000
        for path, body in ((EVENTS, event()), (BATCH, [event()])):
            refused = await client.post(path, json=body, headers=one)
            assert_problem(refused, 429)
            assert 900 < int(refused.headers["retry-after"]) <= 1000
        assert (await client.post(EVENTS, json=event(), headers=other)).status_code == 201
        assert await starts(client) == 1001


async def test_without_keys_all_senders_share_the_rate(tmp_path: Path) -> None:
    async with running(embedded(tmp_path, ingest_events_per_second=1)) as (_, client):
        lines = "\n".join(json.dumps(event()) for _ in range(100))
        kind = {"Content-Type": "application/x-ndjson"}
        assert (await client.post(BATCH, content=lines, headers=kind)).json()["stored"] == 100
        assert_problem(await client.post(EVENTS, json=event()), 429)
        assert await starts(client) == 100


async def test_answers_wait_up_to_a_number(settings: Settings) -> None:
    few = {"clickhouse_readers": 1, "clickhouse_query_queue": 2}
    async with running(settings.model_copy(update=few)) as (app, client):
        slow = asyncio.create_task(app.state.store.execute("SELECT sleepEachRow(2)"))
        paths = [f"{PREFIX}/user/{uuid4()}/stats" for _ in range(5)]
        answers = [asyncio.create_task(client.get(path)) for path in paths]
        for refused in answers[3:]:
            assert "wait" in assert_problem(await refused, 503)["detail"]
        # Who asks what somebody has asked already takes no place.
        shared = asyncio.create_task(client.get(paths[0]))
        # Writing doesn't wait for readers, and neither do probes.
        assert (await client.post(EVENTS, json=event())).status_code == 201
        assert (await client.get("/readyz")).status_code == 200
        assert not slow.done()
        for answer in (*answers[:3], shared):
            assert (await answer).status_code == 200
        await slow
        assert (await client.get(paths[4])).status_code == 200
        assert await starts(client) == 1


async def test_a_query_takes_so_much_time_and_memory(settings: Settings) -> None:
    tight = {"clickhouse_query_timeout": 0.5, "clickhouse_query_memory": 64 * MEBIBYTE}
    hungry = "SELECT length(groupArray(number)) AS n FROM numbers(20000000)"
    endless = "SELECT count() AS n FROM numbers(100000000000) WHERE sipHash64(number) = 1"
    limits = (
        "SELECT toUInt64(getSetting('max_memory_usage')) AS bytes,"
        " toFloat64(getSetting('max_execution_time')) AS seconds"
    )
    async with opened(settings.model_copy(update=tight)) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="MEMORY_LIMIT_EXCEEDED"):
                await store.execute(hungry)
            with pytest.raises(StoreUnavailableError, match=r"TIMEOUT_EXCEEDED|imed out"):
                await store.execute(endless)
            [row] = await store.execute(limits)
            assert row == {"bytes": 64 * MEBIBYTE, "seconds": 0.5}
        # What belongs to writing has what it needs.
        [row] = await store.execute(limits, ahead=True)
        assert row["bytes"] == 0
        assert row["seconds"] == 0
        [row] = await store.execute(hungry, ahead=True)
        assert row["n"] == 20_000_000


async def test_requests_are_under_way_up_to_a_number(tmp_path: Path) -> None:
    patient = {"write_batch_events": 1_000_000, "write_batch_age_ms": 60_000}
    async with running(embedded(tmp_path, **patient)) as (_, client):
        posts = [
            asyncio.create_task(client.post(EVENTS, json=event())) for _ in range(MAX_REQUESTS)
        ]
        while True:  # until all of them wait to be written
            await asyncio.sleep(0)
            refused = await client.get(TRENDS)
            if refused.status_code == 503:
                break
        assert_problem(refused, 503)
        assert_problem(await client.post(EVENTS, json=event()), 503)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
    assert {(await post).status_code for post in posts} == {201}
    async with running(embedded(tmp_path)) as (_, client):
        assert await starts(client) == MAX_REQUESTS


async def test_bodies_take_so_much_memory(tmp_path: Path) -> None:
    async with running(embedded(tmp_path)) as (_, client):
        held, stalled = asyncio.Event(), asyncio.Event()
        sending = 0
        most = MAX_BODIES_BYTES // (MAX_BODY_BYTES - MEBIBYTE)

        async def body() -> AsyncIterator[bytes]:
            nonlocal sending
            yield b"[" + b" " * (MAX_BODY_BYTES - MEBIBYTE)
            sending += 1
            if sending == most:
                stalled.set()
            await held.wait()
            yield json.dumps(event()).encode() + b"]"

        posts = [asyncio.create_task(client.post(BATCH, content=body())) for _ in range(most)]
        await stalled.wait()
        assert_problem(await client.post(BATCH, content=body()), 503)
        # A small one is let in.
        assert (await client.post(EVENTS, json=event())).status_code == 201
        held.set()
        assert [(await post).json()["stored"] for post in posts] == [1] * most
        # All of it was given back.
        again = await client.post(BATCH, content=body())
        assert again.json()["stored"] == 1
        assert await starts(client) == most + 2
