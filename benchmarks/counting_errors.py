"""How far the figures are from the truth after repeats, disorder and kill -9.

    python -m benchmarks.counting_errors [--rounds 1]

EVENTS events and 5 % repeats, shuffled, go through a real Apache Kafka bit by bit. Meanwhile the
process that reads them is killed KILLS times and started again at once, after the same times for
each contender: ours; ClickHouse's ENGINE = Kafka in the same chDB; and the design read to the
letter (benchmarks/rival_kafka.py). When all is taken in, the four answers are held against plain
Python (tests/support/oracle.py). A figure is the worst relative error of any number in the answers
about all films, days and hours and about USERS_ASKED users: of counts, and of distinct ids. Most of
a count's error comes from the repeats, which no other contender tells.

There is one round, whatever is asked for: it is an experiment, not a time. Needs Java and Maven.
EVENTS and KILLS may be set in the environment.
"""

import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx

from benchmarks.harness import Measured, standalone
from benchmarks.kafka_ingestion import MODULE, PARTITIONS, ask, seconds_until
from benchmarks.rival_kafka import TOPICS
from tests.chaos import Feed, as_message
from tests.support.brokers import Message, RealKafka, real_kafka
from tests.support.oracle import Json, Truth
from tests.support.process import Service, running_service

EVENTS = int(os.environ.get("EVENTS", "1_000_000"))
KILLS = int(os.environ.get("KILLS", "20"))
REPEATED = 20  # one of so many events is sent again
USERS, FILMS = 2_000, 100  # as many films as can be asked for at a time
USERS_ASKED = 20
SPAN_DAYS = 20  # when the events happened
DAYS = 30  # more than that, so that a run may go on past midnight
# The service's default. For so long nobody reads after a kill; then a reader lives a little longer.
SESSION_MS = 6_000
READS_SECONDS = (0.2, 2.0)
BITS = 10  # that are sent during each life of a reader


@dataclass(frozen=True)
class Errors:
    """The worst, in per cent of the truth."""

    counts: float
    uniques: float


def make_events(dice: random.Random, now: datetime) -> list[Json]:
    users = [str(UUID(int=dice.getrandbits(128))) for _ in range(USERS)]
    films = [str(UUID(int=dice.getrandbits(128))) for _ in range(FILMS)]
    kinds = ["start"] * 2 + ["progress"] * 16 + ["finish"] * 2
    return [
        {
            "event_id": str(UUID(int=dice.getrandbits(128))),
            "user_id": dice.choice(users),
            "movie_id": dice.choice(films),
            "event_type": dice.choice(kinds),
            "timestamp": (now - timedelta(seconds=dice.randrange(SPAN_DAYS * 86_400))).isoformat(),
            "position_seconds": dice.randrange(7200),
        }
        for _ in range(EVENTS)
    ]


def shuffled(dice: random.Random, events: list[Json]) -> list[Message]:
    """All of them, and some twice."""
    messages = [as_message(event) for event in events]
    messages += dice.sample(messages, len(messages) // REPEATED)
    dice.shuffle(messages)
    return messages


def truths(events: list[Json], now: datetime) -> dict[str, Json]:
    """The true answer to each question."""
    truth = Truth(events, now)
    by_user = defaultdict(list)
    for event in events:
        by_user[event["user_id"]].append(event)
    asked = {
        f"content/popular?days={DAYS}&limit={FILMS}": truth.popular(DAYS, "UTC", FILMS),
        f"trends?days={DAYS}": truth.trends(DAYS, "UTC"),
        f"peak-hours?days={DAYS}": truth.peak_hours(DAYS, "UTC"),
    }
    for user in sorted(by_user)[:USERS_ASKED]:
        stats = Truth(by_user[user], now).user_stats(user, DAYS, "UTC")
        asked[f"user/{user}/stats?days={DAYS}"] = stats
    return asked


COUNTS = ("total_views", "starts", "finishes", "events_count", "movies_started", "movies_finished")
UNIQUES = ("unique_viewers", "unique_users", "unique_movies", "unique_movies_watched")


def by_key(answer: Json) -> dict[Any, Json]:
    """The rows of an answer; the one row of an answer about a user."""
    rows = answer.get("items", [answer])
    return {row.get("movie_id", row.get("date", row.get("hour"))): row for row in rows}


def differences(true: Json, given: Json, names: tuple[str, ...]) -> Iterator[float]:
    """Of each number of these names, in per cent; what is missing counts as 0."""
    given_rows = by_key(given)
    for key, row in by_key(true).items():
        for name in names:
            if name in row:
                off = abs(given_rows.get(key, {}).get(name, 0) - row[name])
                yield 100 * off / max(row[name], 1)


def worst(client: httpx.Client, asked: dict[str, Json]) -> Errors:
    answers = {path: ask(client, path) for path in asked}

    def most(names: tuple[str, ...]) -> float:
        return max(
            chain.from_iterable(
                differences(true, answers[path], names) for path, true in asked.items()
            )
        )

    return Errors(most(COUNTS), most(UNIQUES))


def disturb(service: Service, feed: Feed, lives: list[float]) -> None:
    for seconds in lives:
        for _ in range(BITS):
            feed.let_go()
            time.sleep(seconds / BITS)
        service.kill()
        service.start()


def contend(
    kafka: RealKafka,
    place: Path,
    messages: list[Message],
    lives: list[float],
    asked: dict[str, Json],
    **more: str,
) -> Errors:
    kafka.prefix, kafka.group = f"{place.name}-{uuid4().hex[:6]}.", place.name
    size = -(-len(messages) // ((len(lives) + 1) * BITS))
    pieces = [messages[at : at + size] for at in range(0, len(messages), size)]
    feed = Feed(kafka, pieces)
    with running_service(place, **kafka.environment, **more) as service:
        feed.start()
        disturb(service, feed, lives)
        feed.let_go(len(pieces))
        feed.join()
        assert feed.failed is None, feed.failed
        seconds_until(lambda: sum(map(kafka.committed, TOPICS)) == len(messages))
        with httpx.Client(base_url=service.url, timeout=60) as client:
            errors = worst(client, asked)
    print(f"{place.name}: {errors}", file=sys.stderr)
    return errors


def measure(rounds: int) -> list[Measured]:  # noqa: ARG001 - as every benchmark
    dice = random.Random(1)
    now = datetime.now(UTC).replace(microsecond=0)
    events = make_events(dice, now)
    messages = shuffled(dice, events)
    asked = truths(events, now)
    lives = [SESSION_MS / 1000 + dice.uniform(*READS_SECONDS) for _ in range(KILLS)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with real_kafka(folder / "kafka", f"num.partitions={PARTITIONS}") as kafka:
            kafka.session_ms = SESSION_MS
            ours = contend(kafka, folder / "ours", messages, lives, asked)
            rivals = {
                name: contend(
                    kafka, folder / rival, messages, lives, asked, module=MODULE, RIVAL=rival
                )
                for rival, name in [
                    ("engine", "ENGINE = Kafka"),
                    ("batches", "the design read to the letter"),
                ]
            }
    what = f"{EVENTS:,} events, {100 // REPEATED} % repeats, {KILLS} kills: worst error of a"
    return [
        row
        for name, theirs in rivals.items()
        for row in (
            Measured(
                f"{what} count",
                f"{ours.counts:.2f} %",
                f"{theirs.counts:.2f} %",
                name,
                None,
                None,
                "0",
                ours.counts == 0,
            ),
            Measured(
                f"{what} unique figure",
                f"{ours.uniques:.2f} %",
                f"{theirs.uniques:.2f} %",
                name,
                None,
                None,
                "≤ 1 %",
                ours.uniques <= 1,
            ),
        )
    ]


if __name__ == "__main__":
    standalone(__doc__, measure)
