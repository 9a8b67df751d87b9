"""How much memory the service takes under load, and whether that grows.

    BENCH_STORES=DIR python -m benchmarks.memory

A service with 100 million events (BENCH_EVENTS) takes in 50,000 events a second, 1,000 a body from
eight clients, and answers 20 queries a second, all four questions in turn, for ten minutes
(BENCH_SECONDS). A client that is behind sends at once, but never two requests at a time: a service
that is too slow takes in fewer, which is a row of the table. The events are of the last minute, by
users and of films that the store knows, with no event sent twice. The store is a copy, which is
removed.

Memory is what the kernel counts as resident. It is read every second; the greatest value is the
kernel's own, the start included. Growth is from the third tenth of the time to the last.

The time is what matters, so there is one round, whatever `--rounds` says.
"""

import http.client
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import UUID

from benchmarks.dataset import kept_stores, viewers
from benchmarks.harness import Measured, figure, standalone
from tests.support.answers import PREFIX
from tests.support.process import Service, running_service

EVENTS = int(os.environ.get("BENCH_EVENTS", "100000000"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "600"))
EVENTS_PER_SECOND = 50_000
QUERIES_PER_SECOND = 20
BODY_EVENTS = 1_000
SESSION_EVENTS = 10
SENDERS = 8
ASKERS = 4
TARGET_BYTES = 2 * 2**30
TARGET_GROWTH = 5

QUERIES = (
    "/content/popular?days=7",
    "/trends?days=30",
    "/peak-hours?days=7",
    "/user/{user}/stats?days=30",
    "/content/popular?days=30&tz=Asia/Kolkata",
    "/trends?days=7&tz=Asia/Kolkata",
    "/peak-hours?days=30",
    "/user/{user}/stats?days=30&tz=Asia/Kolkata",
)


class Bodies:
    """Batches of sessions as they go on; only what differs from one to the next is written anew."""

    def __init__(self, some_viewers: Sequence[tuple[UUID, UUID]], dice: random.Random) -> None:
        self._templates = [self._template(some_viewers, dice) for _ in range(SENDERS)]
        self._tags = count()

    def _template(self, some_viewers: Sequence[tuple[UUID, UUID]], dice: random.Random) -> bytes:
        events = []
        for _ in range(BODY_EVENTS // SESSION_EVENTS):
            user, film = dice.choice(some_viewers)
            session = f"{UUID(int=dice.getrandbits(128), version=4)}"[:-12]
            metadata = dice.choice([{}, {"metadata": {"device": "tv"}}])
            for step in range(SESSION_EVENTS):
                kind = {0: "start", SESSION_EVENTS - 1: "finish"}.get(step, "progress")
                event = {
                    "user_id": str(user),
                    "movie_id": str(film),
                    "event_type": kind,
                    "timestamp": f"%({59 - 6 * step})s",
                    "position_seconds": 6 * step,
                    "session_id": f"{session}%(tag)s",
                    **metadata,
                }
                events.append(json.dumps(event, separators=(",", ":")))
        return f"[{','.join(events)}]".encode()

    def next(self, sender: int) -> bytes:
        now = int(time.time())
        values = {
            str(
                ago
            ).encode(): f"{datetime.fromtimestamp(now - ago, UTC):%Y-%m-%dT%H:%M:%SZ}".encode()
            for ago in range(60)
        }
        return self._templates[sender] % {**values, b"tag": b"%012x" % next(self._tags)}


class Load:
    """Clients, each with a thread and a connection, until the time is over.

    Attributes:
        stored: how many events the service says it has stored.
        answers: what each query took, in seconds.
        refused: how many requests of each status were no success.
    """

    def __init__(self, port: int, some_viewers: Sequence[tuple[UUID, UUID]]) -> None:
        self._port = port
        self._viewers = some_viewers
        self._dice = random.Random(time.time_ns())
        self._bodies = Bodies(some_viewers, self._dice)
        self._lock = threading.Lock()
        self.stored = 0
        self.answers: list[float] = []
        self.refused: Counter[int] = Counter()

    def run(self, clients: ThreadPoolExecutor, until: float) -> list[Future[None]]:
        sending, asking = BODY_EVENTS * SENDERS / EVENTS_PER_SECOND, ASKERS / QUERIES_PER_SECOND
        return [
            *(clients.submit(self._send, n, sending, until) for n in range(SENDERS)),
            *(clients.submit(self._ask, n, asking, until) for n in range(ASKERS)),
        ]

    def _send(self, sender: int, period: float, until: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        for _ in _paced(period, sender / SENDERS, until):
            body = self._bodies.next(sender)
            answer = self._answer(connection, "POST", "/events/batch", body)
            if answer is None:
                continue
            receipt = json.loads(answer)
            assert receipt["stored"] == BODY_EVENTS, receipt
            with self._lock:
                self.stored += BODY_EVENTS

    def _ask(self, asker: int, period: float, until: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        for number in _paced(period, asker / ASKERS, until):
            user, _ = self._dice.choice(self._viewers)
            target = QUERIES[(asker + number) % len(QUERIES)].format(user=user)
            began = time.perf_counter()
            if self._answer(connection, "GET", target, None) is not None:
                self.answers.append(time.perf_counter() - began)

    def _answer(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None
    ) -> bytes | None:
        """The body of a success; otherwise it is counted, and there is None."""
        connection.request(method, f"{PREFIX}{target}", body)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 200:
            return text
        assert answer.status == 503, (target, answer.status, text)
        with self._lock:
            self.refused[answer.status] += 1
        time.sleep(float(answer.headers["Retry-After"]))
        return None


def _paced(period: float, offset: float, until: float) -> Iterator[int]:
    """A number each `period` seconds; who is late goes on at once, and doesn't catch up."""
    due = time.monotonic() + offset * period
    for number in count():
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic() - period) + period
        if time.monotonic() >= until:
            return
        yield number


def _resident(service: Service, name: str) -> int:
    """Bytes of VmRSS, or of VmHWM, the greatest so far."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, status
    return 1024 * int(found[1])


def measure(rounds: int) -> list[Measured]:  # noqa: ARG001
    with kept_stores(EVENTS) as [kept]:
        some_viewers = viewers(kept, 10_000)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            store = Path(scratch) / "store"
            subprocess.run(["cp", "-r", "--reflink=auto", str(kept), str(store)], check=True)
            with running_service(store) as service:
                return _measure(service, some_viewers)


def _measure(service: Service, some_viewers: Sequence[tuple[UUID, UUID]]) -> list[Measured]:
    load = Load(service.port, some_viewers)
    began = time.monotonic()
    resident = []
    with ThreadPoolExecutor(SENDERS + ASKERS) as clients:
        running = load.run(clients, began + SECONDS)
        while time.monotonic() < began + SECONDS:
            time.sleep(1)
            resident.append(_resident(service, "VmRSS"))
        for client in running:
            client.result()
    took = time.monotonic() - began
    greatest = _resident(service, "VmHWM")
    tenth = len(resident) // 10
    early, late = (
        statistics.median(part) for part in (resident[2 * tenth : 3 * tenth], resident[-tenth:])
    )
    growth = 100 * (late / early - 1)
    answers = statistics.quantiles(load.answers, n=100, method="inclusive")
    where = f"{EVENTS:,} events, {SECONDS / 60:g} minutes"
    gib = 2**30
    return [
        Measured(
            f"memory, greatest: {where}",
            figure(greatest / gib, "GiB"),
            figure(early / gib, "GiB"),
            "the third tenth of the time",
            greatest / early,
            None,
            f"≤ {TARGET_BYTES / gib:g} GiB",
            greatest <= TARGET_BYTES,
        ),
        Measured(
            "memory in the last tenth of the time",
            figure(late / gib, "GiB"),
            figure(early / gib, "GiB"),
            "the third tenth of the time",
            late / early,
            None,
            f"≤ {1 + TARGET_GROWTH / 100:g} ×",
            growth <= TARGET_GROWTH,
        ),
        Measured(
            "events taken in meanwhile",
            figure(load.stored / took, "events/s"),
            figure(EVENTS_PER_SECOND, "events/s"),
            f"what was sent; {load.refused.total()} requests refused",
            load.stored / took / EVENTS_PER_SECOND,
            None,
        ),
        Measured(
            "queries meanwhile, p95",
            figure(1000 * answers[94], "ms"),
            figure(1000 * answers[49], "ms"),
            f"their p50; {len(load.answers) / took:.1f} a second",
            answers[94] / answers[49],
            None,
        ),
    ]


if __name__ == "__main__":
    standalone(__doc__, measure)
