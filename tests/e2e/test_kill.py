"""SIGKILL at any instant: what was acknowledged is there once, and every rollup agrees."""

import os
import queue
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.conftest import opened_store
from tests.support.answers import PREFIX, assert_answers
from tests.support.consistency import assert_rollups_match
from tests.support.oracle import Truth
from tests.support.process import Service, running_service

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


async def assert_exact(service: Service, sent: list[Batch]) -> None:
    """The running service's answers are the truth about all batches; so is its store, after it."""
    events = [event for batch in sent for event in batch]
    now = datetime.now(UTC)
    async with httpx.AsyncClient(base_url=service.url) as client:
        for tz in ("UTC", "Etc/GMT", "Asia/Kathmandu"):
            await assert_answers(client, Truth(events, now), USERS[:5], 365, tz)
    service.kill()
    async with opened_store(service.store) as store:
        rows = await store.execute("SELECT toString(id) AS id FROM viewing_events")
        assert sorted(row["id"] for row in rows) == sorted(event["event_id"] for event in events)
        await assert_rollups_match(store)


class Senders:
    """Some threads that post batches until the service dies; nothing is given up."""

    def __init__(self, url: str, batches: list[Batch], threads: int) -> None:
        self._url = url
        self._todo: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        for batch in batches:
            self._todo.put(batch)
        self.acknowledged: list[Batch] = []
        self.unanswered: list[Batch] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while True:
            try:
                batch = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                post(self._url, batch)
            except httpx.TransportError:
                self.unanswered.append(batch)
                return
            self.acknowledged.append(batch)

    def join(self) -> list[Batch]:
        """Returns what has not been acknowledged."""
        for thread in self._threads:
            thread.join()
        while not self._todo.empty():
            self.unanswered.append(self._todo.get())
        return self.unanswered


async def test_killed_at_random_under_load(tmp_path: Path) -> None:
    dice = random.Random(20)
    left = [make_batch(dice, dice.randint(1, 60)) for _ in range(600)]
    everything = list(left)
    acknowledged: list[Batch] = []
    kills = cut_off = 0
    with running_service(tmp_path / "store") as service:
        while left and kills < 20:
            senders = Senders(service.url, left, threads=4)
            killer = threading.Timer(dice.uniform(0.05, 0.6), service.kill)
            killer.start()
            left = senders.join()
            killer.join()
            kills += 1
            cut_off += bool(senders.unanswered)
            acknowledged += senders.acknowledged
            if dice.random() < 0.3:  # and once more, perhaps in the middle of the repair
                starting = threading.Timer(dice.uniform(0.2, 1.5), service.kill)
                starting.start()
                try:
                    service.start()
                except (AssertionError, ProcessLookupError):
                    kills += 1
                starting.join()
            service.start()
            for batch in dice.sample(senders.acknowledged, min(5, len(senders.acknowledged))):
                assert post(service.url, batch)["stored"] == 0
        assert cut_off >= 8
        for batch in left:
            post(service.url, batch)
        await assert_exact(service, everything)


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


@pytest.mark.parametrize(
    ("syscalls", "stride"),
    [
        ("rename,renameat2", 1),  # a part appears
        ("fsync,fdatasync", 5),  # its files reach the disk
        ("openat", 25),  # its files are made
    ],
)
async def test_killed_at_chosen_system_calls(tmp_path: Path, syscalls: str, stride: int) -> None:
    dice = random.Random(f"{syscalls}")
    sent: list[Batch] = []
    kills = 0
    with running_service(tmp_path / "store") as service:
        for when in range(1, 1000, stride):
            batch = make_batch(dice, 30)
            sent.append(batch)
            died = False
            with killing(service.pid, syscalls, when):
                try:
                    post(service.url, batch)
                except httpx.TransportError:
                    died = True
            if not died:
                break
            kills += 1
            service.wait()
            service.start()
            receipt = post(service.url, batch)
            assert receipt["stored"] + receipt["duplicates"] == len(batch)
        assert kills >= 5
        assert not died, "the calls of one insert were not passed through to the end"
        await assert_exact(service, sent)
