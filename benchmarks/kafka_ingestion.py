"""How fast a backlog in Kafka becomes visible in the answers.

    python -m benchmarks.kafka_ingestion [--rounds N]

A real Apache Kafka has EVENTS messages in the three topics, 4 partitions each. A process with an
empty store and a new group is started; from when it is ready, the time is taken until popular
films, days, hours and a user's figures, asked over HTTP, add up to what was sent. Ours is the
service as anybody runs it: embedded engine, fsync, every message checked, every event stored once.

Against ClickHouse's own ENGINE = Kafka in the same chDB, with the same tables, views and fsync
behind it, which checks nothing and may store a message twice; and against a loop that inserts each
message by itself, of which ONE_BY_ONE are timed (benchmarks/rival_kafka.py).

Needs Java and Maven. EVENTS may be set in the environment.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from operator import eq, ge
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from benchmarks.harness import Measured, compared, in_turns, standalone
from tests.support.answers import PREFIX
from tests.support.brokers import Message, RealKafka, real_kafka
from tests.support.process import running_service

EVENTS = int(os.environ.get("EVENTS", "2_000_000"))
ONE_BY_ONE = 200
PARTITIONS = 4
USERS, FILMS = 20_000, 100  # as many films as can be asked for at a time
SPAN = 20 * 86_400  # seconds: when the events happened
DAYS = 30  # more than that, so that a run may go on past midnight
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 1_800
# ClickHouse's default. Nobody is killed here, and whoever is thrown out of the group for the late
# heartbeat of a busy machine reads messages again, which ENGINE = Kafka then stores twice.
SESSION_MS = 45_000
MODULE = "benchmarks.rival_kafka"

KINDS = {  # topic, action, and how many of 20 events
    "start": ("stream.start", "stream_start", 2),
    "progress": ("stream.progress", "stream_progress", 16),
    "finish": ("stream.stop", "stream_stop", 2),
}


@dataclass
class Sums:
    """What the answers have to add up to. `by_user` has the starts and finishes of the first."""

    events: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    by_user: Counter[str] = field(default_factory=Counter)


def backlog(events: int, sums: Sums) -> Iterator[Message]:
    """So many different events in order of time, as players send them; counted on the way."""
    dice = random.Random(1)
    users = [str(UUID(int=dice.getrandbits(128))) for _ in range(USERS)]
    films = [str(UUID(int=dice.getrandbits(128))) for _ in range(FILMS)]
    kinds = dice.choices(list(KINDS), [often for *_, often in KINDS.values()], k=1 << 16)
    began = int(time.time()) - SPAN - 3600
    for number in range(events):
        user = users[int(dice.random() * USERS)]
        film = films[int(dice.random() * FILMS)]
        kind = kinds[number & 0xFFFF]
        topic, action, _ = KINDS[kind]
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began + number * SPAN // events))
        value = (
            f'{{"event_id":"{UUID(int=dice.getrandbits(128))}","user_id":"{user}",'
            f'"movie_id":"{film}","action":"{action}","timestamp":"{moment}",'
            f'"position_seconds":{number % 7200},"session_id":"{UUID(int=dice.getrandbits(128))}",'
            f'"metadata":{{"device":"tv"}}}}'
        )
        sums.events += 1
        sums.kinds[kind] += 1
        if user == users[0]:
            sums.by_user[kind] += 1
        yield Message(topic, value.encode(), user.encode())


def first_user() -> str:
    return str(UUID(int=random.Random(1).getrandbits(128)))


def ask(client: httpx.Client, path: str) -> Any:
    answer = client.get(f"{PREFIX}/{path}")
    answer.raise_for_status()
    return answer.json()


def visible(client: httpx.Client) -> int:
    hours = ask(client, f"peak-hours?days={DAYS}")["items"]
    return sum(hour["events_count"] for hour in hours)


def all_visible(client: httpx.Client, sums: Sums, holds: Callable[[int, int], bool]) -> bool:
    """Whether it holds between what each of the four answers adds up to and what was sent."""
    if not holds(visible(client), sums.events):
        return False
    films = ask(client, f"content/popular?days={DAYS}&limit=100")["items"]
    days = ask(client, f"trends?days={DAYS}")["items"]
    user = ask(client, f"user/{first_user()}/stats?days={DAYS}")
    return all(
        holds(given, sent)
        for given, sent in [
            (sum(film["total_views"] for film in films), sums.kinds["start"]),
            (sum(day["starts"] for day in days), sums.kinds["start"]),
            (sum(day["finishes"] for day in days), sums.kinds["finish"]),
            (user["movies_started"], sums.by_user["start"]),
            (user["movies_finished"], sums.by_user["finish"]),
        ]
    )


def seconds_until(condition: Callable[[], bool]) -> float:
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < PATIENCE_SECONDS
        time.sleep(LOOK_SECONDS)
    return time.perf_counter() - began


class Contest:
    """Processes that read the same backlog, one after another, each from its beginning."""

    def __init__(self, kafka: RealKafka, sums: Sums, folder: Path) -> None:
        self._kafka = kafka
        self._sums = sums
        self._folder = folder
        self._number = count(1)

    def _read(self, measure: Callable[[httpx.Client], float], **more: str) -> float:
        place = self._folder / f"store-{next(self._number)}"
        self._kafka.group = place.name
        with (
            running_service(place, **self._kafka.environment, **more) as service,
            httpx.Client(base_url=service.url, timeout=60) as client,
        ):
            measured = measure(client)
        shutil.rmtree(place)
        return measured

    def _backlog(self, holds: Callable[[int, int], bool], client: httpx.Client) -> float:
        """Events a second."""
        return self._sums.events / seconds_until(lambda: all_visible(client, self._sums, holds))

    def _some(self, client: httpx.Client) -> float:
        """Events a second, from when it is under way."""
        seconds_until(lambda: visible(client) >= ONE_BY_ONE // 10)
        before = visible(client)
        took = seconds_until(lambda: visible(client) >= before + ONE_BY_ONE)
        return (visible(client) - before) / took

    def ours(self) -> float:
        return self._read(partial(self._backlog, eq))

    def engine(self) -> float:
        return self._read(partial(self._backlog, ge), module=MODULE, RIVAL="engine")

    def one_by_one(self) -> float:
        return self._read(self._some, module=MODULE, RIVAL="one_by_one")


def measure(rounds: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with real_kafka(folder / "kafka", f"num.partitions={PARTITIONS}") as kafka:
            kafka.session_ms = SESSION_MS
            sums = Sums()
            kafka.send(backlog(EVENTS, sums))
            contest = Contest(kafka, sums, folder)
            ours, engine = in_turns(rounds, contest.ours, contest.engine)
            one_by_one = [contest.one_by_one() for _ in range(rounds)]
    return [
        compared(
            f"Kafka, {EVENTS:,} waiting events until all are in the answers",
            "ENGINE = Kafka, no checks, no repeats told",
            "events/s",
            ours,
            engine,
            at_least=0.8,
        ),
        compared(
            f"Kafka, the same against {ONE_BY_ONE} events",
            "an INSERT for each message",
            "events/s",
            ours,
            one_by_one,
            at_least=100,
        ),
    ]


if __name__ == "__main__":
    standalone(__doc__, measure)
