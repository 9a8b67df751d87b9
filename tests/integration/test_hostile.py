"""Senders that are wrong on purpose: whatever they send, it is answered, and does no harm."""

import json
import random
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from app.core.config import Settings
from tests.conftest import NOW, running
from tests.fuzz import ODD, written_event
from tests.support.answers import PREFIX, assert_problem
from tests.support.ingestion import ingestion

USER = "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4"
EVENTS = f"{PREFIX}/events"
BATCH = f"{PREFIX}/events/batch"
SQL = (
    "'", "\\'", "');DROP TABLE viewing_events;--", "' OR 1=1 --", "{days:UInt8}",
    "0)/**/UNION/**/SELECT 1", "`", "\\", "\0", "%27", "1;SELECT sleep(3)", "\x1b]0;x\x07",
    "\u2028", "🎬", "a" * 5000,
)  # fmt: skip


def event(**fields: Any) -> dict[str, Any]:
    return {
        "user_id": USER, "movie_id": str(uuid4()), "event_type": "start",
        "timestamp": (NOW - timedelta(hours=1)).isoformat(), **fields,
    }  # fmt: skip


async def stored_metadata(app: FastAPI) -> set[str]:
    rows = await app.state.store.execute("SELECT metadata FROM viewing_events")
    return {row["metadata"] for row in rows}


async def test_sql_is_text_everywhere(settings: Settings) -> None:
    async with running(settings) as (app, client):
        for text in SQL:
            said = quote(text, safe="")
            for path in (
                f"trends?tz={said}", f"trends?days={said}", f"peak-hours?tz=UTC{said}",
                f"content/popular?limit={said}", f"content/popular?limit=1{said}",
                f"user/{USER}{said}/stats", f"user/{USER}/stats?days=7{said}",
            ):  # fmt: skip
                answer = await client.get(f"{PREFIX}/{path}")
                # A slash makes it another path, which there isn't.
                other = "/" in text and path.startswith(f"user/{USER}{said}")
                assert answer.status_code == (404 if other else 422), path
                assert answer.headers["content-type"] == "application/problem+json"
                assert text not in json.dumps(answer.json().get("errors", []), ensure_ascii=False)
            for name in ("user_id", "event_id", "event_type", "action", "timestamp"):
                assert_problem(
                    await client.post(EVENTS, json=event(**{name: text})), 422, "invalid_field"
                )
            named = {b"X-Request-ID": text.encode()}
            answer = await client.post(EVENTS, json=event(metadata={"a": text}), headers=named)
            assert answer.status_code == 201
            if not text.isalnum():
                assert text not in answer.headers["x-request-id"]
        kept = {json.loads(one)["a"] for one in await stored_metadata(app)}
        assert kept == set(SQL)
        days = (await client.get(f"{PREFIX}/trends?days=2")).json()["items"]
        assert sum(day["starts"] for day in days) == len(SQL)


async def test_damaged_events_are_answered_by_http_as_they_are_counted(settings: Settings) -> None:
    dice = random.Random(11)
    async with running(settings) as (_, client):
        raws = [written_event(dice) for _ in range(100)]
        statuses = [(await client.post(EVENTS, content=raw)).status_code for raw in raws]
        assert set(statuses) == {200, 201, 400, 422}
        lines = b"\n".join(raw.replace(b"\n", b" ") for raw in raws)
        answer = await client.post(
            BATCH, content=lines, headers={"content-type": "application/x-ndjson"}
        )
        receipt = answer.json()
        assert receipt["stored"] + receipt["duplicates"] + receipt["rejected"] == len(raws)
        report = (await ingestion(client))["http"]
        assert report["stored"] == statuses.count(201) + receipt["stored"]
        window = (await client.get(f"{PREFIX}/peak-hours?days=365&tz=Asia/Kathmandu")).json()
        counted = sum(hour["events_count"] for hour in window["items"])
        # Those of the oldest day may lie before the window.
        assert report["stored"] - 5 <= counted <= report["stored"]


@pytest.mark.parametrize("path", [EVENTS, BATCH])
async def test_bodies_that_are_too_deep_too_large_or_no_json_are_refused(
    client: httpx.AsyncClient, path: str
) -> None:
    for text in (
        *ODD,
        "[" * 100_000,
        '{"events":' * 100_000,
        "[" * 900 + "]" * 900,
        "[" + "1" * 70_000 + "]",
    ):
        raw = text.encode("utf-8", "surrogateescape")
        for body in (raw, b"\xef\xbb\xbf" + raw, b'{"events":[' + raw + b"]}", b"[" + raw + b"]"):
            answer = await client.post(path, content=body)
            if answer.status_code != 200:
                assert_problem(answer, answer.status_code, answer.json().get("reason"))
                assert answer.status_code in (400, 422)
            else:
                assert path == BATCH
                assert answer.json()["stored"] == 0
    assert (await client.post(EVENTS, json=event())).status_code == 201
