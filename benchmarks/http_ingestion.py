"""How fast events come in by HTTP: the service against a bare FastAPI app that throws them away.

    python -m benchmarks.http_ingestion [--rounds N]

Measured are batches of 1,000 events from 8 clients, in events a second, and single events from 64
clients, in requests a second. The service runs as a user runs it, with the embedded engine: an
answer says that the events are on the disk. The rival (benchmarks/rivals/bare.py) validates the
same bodies, and that is all it does. No event is ever sent twice. After each measurement the
service must have counted every event that it acknowledged, and it has finished its merges before
the other side is measured. wrk (Debian: `apt install wrk`) puts the load on both.
"""

import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from benchmarks.harness import Measured, compared, in_turns, standalone
from benchmarks.rivals.running import running_bare, wait_until_idle
from benchmarks.rivals.wrk import MARK, Posts, load, write_posts
from tests.support.answers import PREFIX
from tests.support.process import Service, running_service

WARM_UP_SECONDS = 2
SECONDS = 6

# More than any run sends.
_RUN_REQUESTS = 10_000_000

_DICE = random.Random(1)
_USERS = [UUID(int=_DICE.getrandbits(128), version=4) for _ in range(20_000)]
_MOVIES = [UUID(int=_DICE.getrandbits(128), version=4) for _ in range(2_000)]


@dataclass(frozen=True)
class Door:
    """One way to send events.

    Attributes:
        events: so many in a body; 1: not as an array.
        bodies: so many different ones are sent in turn, each time with other session ids.
    """

    work: str
    path: str
    clients: int
    events: int
    bodies: int
    unit: str
    at_least: float


BATCHES = Door(
    "POST /events/batch, 1,000 events a body, 8 clients",
    path="/events/batch",
    clients=8,
    events=1_000,
    bodies=16,
    unit="events/s",
    at_least=0.7,
)
SINGLE = Door(
    "POST /events, one event a body, 64 clients",
    path="/events",
    clients=64,
    events=1,
    bodies=10_000,
    unit="requests/s",
    at_least=0.5,
)


def event(dice: random.Random, now: int) -> str:
    """An event of the last hour, with a mark as the end of its session's id."""
    moment = datetime.fromtimestamp(now - dice.randrange(3_600), UTC)
    session = str(UUID(int=dice.getrandbits(128), version=4))
    fields: dict[str, Any] = {
        "user_id": str(dice.choice(_USERS)),
        "movie_id": str(dice.choice(_MOVIES)),
        "event_type": dice.choice(("start", "progress", "progress", "finish")),
        "timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "position_seconds": dice.randrange(7_200),
        "session_id": session,
    }
    if dice.random() < 0.5:
        fields["metadata"] = {"device": dice.choice(("tv", "phone", "tablet", "browser"))}
    text = json.dumps(fields, separators=(",", ":"))
    return text.replace(session, session[:-12] + MARK)


def bodies(door: Door) -> list[str]:
    """What is sent to both sides."""
    # From the system's randomness: no run sends what another has sent.
    dice = random.Random()
    now = int(time.time())
    events = [[event(dice, now) for _ in range(door.events)] for _ in range(door.bodies)]
    return [one[0] if door.events == 1 else f"[{','.join(one)}]" for one in events]


class Sender:
    """Sends to one server by one door."""

    def __init__(self, door: Door, sent: Sequence[str], url: str, pid: int, file: Path) -> None:
        self._door = door
        self._url = f"{url}{PREFIX}{door.path}"
        self._pid = pid
        self._file = file
        self._runs = 0
        self.acknowledged = 0
        write_posts(file, self._url, sent)

    def measure(self) -> float:
        """How many events are acknowledged in a second."""
        self._send(WARM_UP_SECONDS)
        per_second = self._send(SECONDS)
        wait_until_idle(self._pid)
        return per_second

    def _send(self, seconds: int) -> float:
        self._runs += 1
        posts = Posts(self._file, first=self._runs * _RUN_REQUESTS)
        answered = load(self._url, self._door.clients, seconds, posts)
        self.acknowledged += answered.requests * self._door.events
        return answered.per_second * self._door.events


def check(service: Service, acknowledged: int) -> None:
    """All that was acknowledged is counted as stored, and nothing as anything else."""
    counts = httpx.get(f"{service.url}{PREFIX}/ingestion").raise_for_status().json()["http"]
    assert counts["stored"] >= acknowledged, counts  # wrk leaves before the last answers
    assert counts["stored"] == counts["received"], counts


def compare(door: Door, rounds: int) -> Measured:
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_service(Path(scratch) / "store", LOG_REQUESTS="False") as service,
        running_bare({}) as bare,
    ):
        sent = bodies(door)
        to_service = Sender(door, sent, service.url, service.pid, Path(scratch) / "to_service")
        to_bare = Sender(door, sent, bare.url, bare.pid, Path(scratch) / "to_bare")

        def ours() -> float:
            per_second = to_service.measure()
            check(service, to_service.acknowledged)
            return per_second

        measured = in_turns(rounds, ours, to_bare.measure)
    rival = "bare FastAPI, stores nothing"
    return compared(door.work, rival, door.unit, *measured, at_least=door.at_least)


def measure(rounds: int) -> list[Measured]:
    return [compare(door, rounds) for door in (BATCHES, SINGLE)]


if __name__ == "__main__":
    standalone(__doc__, measure)
