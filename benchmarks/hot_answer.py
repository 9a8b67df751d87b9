"""How fast the most asked-for answer is given, against FastAPI giving a constant.

    python -m benchmarks.hot_answer [--rounds N]

32 clients ask for the popular films of 7 days, of a store with a million events; the rival
(benchmarks/rivals/bare.py) returns the same answer as a constant dict. Then the same while somebody
sends 50 events a second to the side that is measured, each of them about a film of the answer. That
the answer is never an old one is checked on the way: while the 32 clients ask, a view that was
acknowledged is in the answer that its sender asks for next, a hundred times in a row.
wrk (Debian: `apt install wrk`) puts the load on both.
"""

import http.client
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from benchmarks.dataset import kept_stores
from benchmarks.harness import Measured, compared, in_turns, standalone
from benchmarks.rivals.running import Bare, running_bare, wait_until_idle
from benchmarks.rivals.wrk import answered, load, start
from tests.support.answers import PREFIX
from tests.support.process import Service, running_service

EVENTS = 1_000_000
CLIENTS = 32
WARM_UP_SECONDS = 2
SECONDS = 6
WRITTEN_PER_SECOND = 50
CHECKS = 100

# Each waits for its answer before it sends again; so many, that slow answers don't slow it down.
_SENDERS = 25
_QUESTION = f"{PREFIX}/content/popular?days=7"
_EVENTS_PATH = f"{PREFIX}/events"


def view(film: str) -> bytes:
    """A start event that nobody has sent."""
    fields = {
        "user_id": str(uuid4()),
        "movie_id": film,
        "event_type": "start",
        "timestamp": datetime.now(UTC).isoformat(),
        "session_id": str(uuid4()),
    }
    return json.dumps(fields).encode()


class Side:
    """One of the two, with 32 clients that ask it, and somebody who writes to it."""

    def __init__(self, server: Service | Bare, films: Sequence[str]) -> None:
        self._server = server
        self._address = urlsplit(server.url).netloc
        self._films = films
        self._stop = threading.Event()
        self._acknowledged = 0
        self._writing_seconds = 0.0

    @property
    def written_per_second(self) -> float:
        """How many events were acknowledged in a second of writing."""
        return self._acknowledged / self._writing_seconds

    def alone(self) -> float:
        """Answers a second."""
        answers = self._ask()
        wait_until_idle(self._server.pid)
        return answers

    def while_writing(self) -> float:
        """Answers a second while somebody writes."""
        with self._writing():
            answers = self._ask()
        wait_until_idle(self._server.pid)
        return answers

    def _ask(self) -> float:
        load(self._server.url + _QUESTION, CLIENTS, WARM_UP_SECONDS)
        return load(self._server.url + _QUESTION, CLIENTS, SECONDS).per_second

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._stop.clear()
        began = time.perf_counter()
        with ThreadPoolExecutor(_SENDERS) as pool:
            sending = [pool.submit(self._send, number, began) for number in range(_SENDERS)]
            try:
                yield
            finally:
                self._stop.set()
                self._writing_seconds += time.perf_counter() - began
        self._acknowledged += sum(one.result() for one in sending)

    def _send(self, number: int, began: float) -> int:
        # Not by httpx, which takes more of the processor that the server needs too.
        connection = http.client.HTTPConnection(self._address, timeout=60)
        sent = 0
        due = began + number / WRITTEN_PER_SECOND
        while not self._stop.wait(due - time.perf_counter()):
            event = view(self._films[sent % len(self._films)])
            connection.request("POST", _EVENTS_PATH, event, {"Content-Type": "application/json"})
            with connection.getresponse() as answer:
                text = answer.read()
                assert answer.status == 201, text
            sent += 1
            due += _SENDERS / WRITTEN_PER_SECOND
        connection.close()
        return sent


def check_freshness(service: Service, film: str) -> None:
    """While others ask, a view that was acknowledged is in the answer that is asked for next."""
    asking = start(service.url + _QUESTION, CLIENTS, seconds=600)
    try:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            views = _views(client, film)
            for _ in range(CHECKS):
                client.post(_EVENTS_PATH, content=view(film)).raise_for_status()
                views += 1
                assert _views(client, film) == views
    finally:
        asking.send_signal(signal.SIGINT)
        answered(asking)
    wait_until_idle(service.pid)


def _views(client: httpx.Client, film: str) -> int:
    items = client.get(_QUESTION).raise_for_status().json()["items"]
    [views] = [item["total_views"] for item in items if item["movie_id"] == film]
    assert isinstance(views, int)
    return views


def measure(rounds: int) -> list[Measured]:
    with kept_stores(EVENTS) as [kept], tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        shutil.copytree(kept, store, symlinks=True)  # it is written to
        # The rival logs no requests either.
        with running_service(store, LOG_REQUESTS="False") as service:
            answer = httpx.get(service.url + _QUESTION).raise_for_status().json()
            films = [item["movie_id"] for item in answer["items"]]
            check_freshness(service, films[0])
            with running_bare(answer) as bare:
                return _compare(rounds, Side(service, films), Side(bare, films))


def _compare(rounds: int, ours: Side, theirs: Side) -> list[Measured]:
    asked = f"GET /content/popular?days=7, {CLIENTS} clients"
    rival = "bare FastAPI, a constant dict"
    alone = in_turns(rounds, ours.alone, theirs.alone)
    written = in_turns(rounds, ours.while_writing, theirs.while_writing)
    rates = f"{ours.written_per_second:.0f} and {theirs.written_per_second:.0f} events/s"
    return [
        compared(asked, rival, "requests/s", *alone, at_least=0.8),
        compared(f"{asked}, while each is sent {rates}", rival, "requests/s", *written),
    ]


if __name__ == "__main__":
    standalone(__doc__, measure)
