"""How long the answers take over HTTP, and whether that grows with the number of events.

    BENCH_STORES=DIR python -m benchmarks.query_latency [--rounds N]

All four questions, for the default number of days and for 30, in UTC and in a zone with a half hour
in its offset, are put to services with 1, 10 and 100 million events (BENCH_SIZES) that run side by
side and are asked in turns: 15 times a round each. What an answer takes is compared with the
smallest store's.

Every answer has to be computed: before each question an event is posted that changes the answer,
dated anywhere in the window, by the very user who is asked for. Posting is not timed; what it
leaves behind is (small parts, and their merges), as it is for a service that is in use. The events
stay in the store. Users are taken by chance from the viewing of the last week.
"""

import http.client
import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from benchmarks.dataset import DAY_SECONDS, kept_stores, viewers
from benchmarks.harness import Measured, compared, figure, standalone
from tests.support.answers import PREFIX
from tests.support.process import running_service

SIZES = tuple(
    int(size) for size in os.environ.get("BENCH_SIZES", "1000000,10000000,100000000").split(",")
)
REQUESTS = 15
WARM_UP = 3
ZONES = ("UTC", "Asia/Kolkata")
USERS = 1_000


@dataclass(frozen=True)
class Question:
    """What is asked: a path, in which `{user}` may stand, and a window."""

    name: str
    path: str
    days: int
    zone: str

    def __str__(self) -> str:
        return f"{self.name}, {self.days} days, {self.zone}"

    def target(self, user: UUID) -> str:
        return f"{PREFIX}{self.path.format(user=user)}?days={self.days}&tz={quote(self.zone)}"


# The first number of days is the default.
QUESTIONS = [
    Question(name, path, days, zone)
    for (name, path, windows), zone in product(
        (
            ("popular", "/content/popular", (7, 30)),
            ("trends", "/trends", (7, 30)),
            ("peak hours", "/peak-hours", (7, 30)),
            ("user stats", "/user/{user}/stats", (30,)),
        ),
        ZONES,
    )
    for days in windows
]


class Asker:
    """One client with one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def reconnect(self) -> None:
        """Before the next request: the service may have closed a connection that idled."""
        self._connection.close()

    def get(self, target: str) -> float:
        """How many milliseconds it takes until the whole answer is here."""
        began = time.perf_counter()
        self._send("GET", target, None, 200)
        return (time.perf_counter() - began) * 1000

    def post(self, event: dict[str, str]) -> None:
        self._send("POST", f"{PREFIX}/events", json.dumps(event), 201)

    def _send(self, method: str, target: str, body: str | None, expected: int) -> None:
        self._connection.request(method, target, body)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == expected, (method, target, answer.status, text)


@dataclass
class Side:
    """A service, whom to ask it about, and what each round's answers took."""

    events: int
    asker: Asker
    viewers: Sequence[tuple[UUID, UUID]]
    dice: random.Random
    rounds: dict[Question, list[list[float]]] = field(default_factory=lambda: defaultdict(list))

    def ask(self, question: Question, times: int) -> list[float]:
        taken = []
        self.asker.reconnect()
        for _ in range(times):
            user, film = self.dice.choice(self.viewers)
            self.asker.post(self._event(question, user, film))
            taken.append(self.asker.get(question.target(user)))
        return taken

    def _event(self, question: Question, user: UUID, film: UUID) -> dict[str, str]:
        """One of the window, not too close to its beginning: midnight may pass meanwhile."""
        ago = self.dice.uniform(0, (question.days - 1) * DAY_SECONDS)
        return {
            "event_id": str(UUID(int=self.dice.getrandbits(128))),
            "user_id": str(user),
            "movie_id": str(film),
            "event_type": "start",
            "timestamp": datetime.fromtimestamp(time.time() - ago, UTC).isoformat(),
        }

    def percentile(self, question: Question, percent: int) -> list[float]:
        """Of each round."""
        return [_percentile(taken, percent) for taken in self.rounds[question]]


def measure(rounds: int) -> list[Measured]:
    with kept_stores(*SIZES) as paths, ExitStack() as stack:
        sides = [_side(stack, path, events) for path, events in zip(paths, SIZES, strict=True)]
        for question, side in product(QUESTIONS, sides):
            side.ask(question, WARM_UP)
        for number in range(rounds):
            for question in QUESTIONS:
                for side in sides if number % 2 == 0 else reversed(sides):
                    side.rounds[question].append(side.ask(question, REQUESTS))
    smallest, *larger = sides
    rows = [
        _growth(question, side, smallest, at_most=2 if side is sides[-1] else None)
        for question, side in product(QUESTIONS, larger)
    ]
    return rows + [_slow_answers(question, sides[-1], smallest) for question in QUESTIONS]


def _side(stack: ExitStack, path: Path, events: int) -> Side:
    # Before the service opens the store: one process at a time has it.
    some_viewers = viewers(path, USERS)
    service = stack.enter_context(running_service(path, LOG_REQUESTS="False"))
    # Other events in each run: a kept store has those of the last.
    return Side(events, Asker(service.port), some_viewers, random.Random(time.time_ns()))


def _growth(question: Question, side: Side, smallest: Side, at_most: float | None) -> Measured:
    return compared(
        f"p50: {question}, {side.events:,} events",
        f"{smallest.events:,} events",
        "ms",
        side.percentile(question, 50),
        smallest.percentile(question, 50),
        at_most=at_most,
    )


def _slow_answers(question: Question, largest: Side, smallest: Side) -> Measured:
    """The p95 of all rounds together; promised in UTC."""
    ours, theirs = (
        _percentile([one for taken in side.rounds[question] for one in taken], 95)
        for side in (largest, smallest)
    )
    ratios = [
        of_largest / of_smallest
        for of_largest, of_smallest in zip(
            largest.percentile(question, 95), smallest.percentile(question, 95), strict=True
        )
    ]
    promised = question.zone == "UTC"
    return Measured(
        f"p95: {question}, {largest.events:,} events",
        figure(ours, "ms"),
        figure(theirs, "ms"),
        f"{smallest.events:,} events",
        ours / theirs,
        (min(ratios), max(ratios)),
        "≤ 100 ms" if promised else "",
        ours <= 100 if promised else None,
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    standalone(__doc__, measure)
