"""Events to send to a service that is killed, where to kill it, and what must be there after it."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.core.config import Settings
from tests.conftest import opened, opened_store
from tests.support.answers import PREFIX, assert_answers
from tests.support.consistency import assert_rollups_match
from tests.support.ingestion import rejected_rows
from tests.support.oracle import Truth
from tests.support.process import Service

NOW = datetime.now(UTC)
USERS = [str(UUID(int=n)) for n in range(1, 40)]
MOVIES = [str(UUID(int=n << 64)) for n in range(1, 30)]

Batch = list[dict[str, Any]]


def make_batch(dice: random.Random, size: int, days: int = 70) -> Batch:
    """Events of at least two months, which one insert writes as several parts."""
    return [
        {
            "event_id": str(UUID(int=dice.getrandbits(128))),
            "user_id": dice.choice(USERS),
            "movie_id": dice.choice(MOVIES),
            "event_type": dice.choice(["start", "progress", "finish"]),
            "timestamp": (NOW - timedelta(seconds=dice.randrange(days * 86400))).isoformat(),
            "position_seconds": dice.randrange(7200),
        }
        for _ in range(size)
    ]


def post(url: str, batch: Batch) -> dict[str, Any]:
    """Raises httpx.TransportError when the service dies before it answers."""
    answer = httpx.post(f"{url}{PREFIX}/events/batch", json=batch, timeout=30)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    assert receipt["rejected"] == 0
    return receipt


def flat(batches: Iterable[Batch]) -> Batch:
    return [event for batch in batches for event in batch]


async def assert_exact(
    service: Service,
    events: Batch,
    rejected: Iterable[tuple[str, bytes]] = (),
    server: Settings | None = None,
) -> None:
    """The running service's answers are the truth about the events; so is its store, after it.

    Args:
        rejected: topic and payload of all Kafka messages that were no events.
        server: where the store is, when it is not the service's own.
    """
    now = datetime.now(UTC)
    async with httpx.AsyncClient(base_url=service.url) as client:
        for tz in ("UTC", "Etc/GMT", "Asia/Kathmandu"):
            await assert_answers(client, Truth(events, now), USERS[:5], 365, tz)
    service.kill()
    async with opened_store(service.store) if server is None else opened(server) as store:
        rows = await store.execute("SELECT toString(id) AS id FROM viewing_events")
        assert sorted(row["id"] for row in rows) == sorted({one["event_id"] for one in events})
        await assert_rollups_match(store)
        rows_kept = await rejected_rows(store, merged=server is not None)
        kept = [(topic, payload) for topic, _, _, _, payload in rows_kept]
        assert sorted(kept) == sorted(rejected)


@contextmanager
def killing(pid: int, syscalls: str, when: int) -> Iterator[None]:
    """The process dies at a thread's `when`-th call of one of the system calls from now on."""
    strace = shutil.which("strace")
    if strace is None and "CI" not in os.environ:
        pytest.skip("strace is not installed; with it, this test kills at system calls")
    assert strace is not None
    tracer = subprocess.Popen(
        [
            strace, "-f", "-o", "/dev/null",
            "-e", f"trace={syscalls}",
            "-e", f"inject={syscalls}:signal=SIGKILL:when={when}",
            "-p", str(pid),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with tracer:
        try:
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()  # to all threads, once this is said
            assert "attached" in attached, attached
            yield
        finally:
            tracer.kill()  # it may wait for ever for a thread that it has killed
