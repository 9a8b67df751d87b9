"""Sends sample viewing to a running service: made up, or replayed from MovieLens ratings.

    python test_events.py
    python test_events.py --via kafka
    python test_events.py --ratings ratings.csv --movies-file movies.csv --compress-to-days 90

What is sent follows from the flags, the files and the UTC date alone, the ids of the events too, so
running it again stores nothing twice. Events that have not yet happened are left out: a later run
on the same day adds those whose time has come.
"""

import argparse
import asyncio
import csv
import hashlib
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import httpx
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from tqdm import tqdm  # type: ignore[import-untyped]

DAY = 24 * 60 * 60
LONGEST_WINDOW = 365  # days: the service keeps and answers for no more
TOP = 10

BATCH_EVENTS = 4_000
REQUESTS_AT_ONCE = 3
REQUEST_SECONDS = 30.0
RETRY_SECONDS = 1.0  # where the service doesn't say how long to wait
LATER = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS)
PATIENCE_SECONDS = 60.0
# How long the service may take to read from Kafka what was sent, and how often it is asked.
KAFKA_PATIENCE_SECONDS = 600.0
KAFKA_LOOK_SECONDS = 0.2

SAMPLE_HEARTBEAT = 5 * 60
REPLAY_HEARTBEAT = 10 * 60
SHORTEST_VIEWING = 60
DEVICES = ("tv", "browser", "phone", "tablet")
# How likely a session starts in each hour, UTC: few at night, most in the evening.
HOURS = (6, 4, 2, 1, 1, 1, 2, 3, 4, 5, 6, 7, 9, 9, 9, 10, 12, 16, 24, 34, 40, 38, 26, 12)

T = TypeVar("T")

# Titles of made-up films: two words each.
FIRST_WORDS = (
    "Silent", "Golden", "Distant", "Broken", "Endless", "Hidden", "Crimson", "Frozen", "Paper",
    "Midnight", "Wild", "Gentle", "Burning", "Forgotten", "Electric", "Hollow", "Velvet", "Lonely",
    "Northern", "Second",
)  # fmt: skip
SECOND_WORDS = (
    "Harbour", "Summer", "Promise", "River", "Orchard", "Signal", "Kingdom", "Letter", "Mirror",
    "Voyage", "Garden", "Witness", "Winter", "Station", "Island", "Waltz", "Tower", "Stranger",
    "Morning", "Thunder",
)  # fmt: skip
GENRES = ("Action", "Comedy", "Crime", "Documentary", "Drama", "Romance", "Sci-Fi", "Thriller")
TITLES_AT_ONCE = 5_000

# Another value would make every user, film and event a new one.
NAMESPACE = UUID("3c1f9f0a-6f0e-5d43-9a55-0b7d4f2c8e61")


class UsageError(Exception):
    """The flags or the files can't be used. Exit code 2."""


class Failure(Exception):  # noqa: N818 - a word a reader understands
    """Sending can't go on. Exit code 1."""


class Kind(StrEnum):
    START = "start"
    PROGRESS = "progress"
    FINISH = "finish"


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A viewing event, with all that any way of sending needs; encoded it is what HTTP takes."""

    event_id: UUID
    event_type: Kind
    user_id: UUID
    movie_id: UUID
    session_id: UUID
    timestamp: datetime
    position_seconds: float
    metadata: dict[str, str] | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The same event as it goes through Kafka, where the topic says what kind it is."""

    event_id: UUID
    action: str
    user_id: UUID
    movie_id: UUID
    session_id: UUID
    timestamp: datetime
    position_seconds: float
    metadata: dict[str, str] | None = None


# Of each kind of event: the topic, and what its messages call it.
KAFKA = {
    Kind.START: ("stream.start", "stream_start"),
    Kind.PROGRESS: ("stream.progress", "stream_progress"),
    Kind.FINISH: ("stream.stop", "stream_stop"),
}


class Film(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A film as the catalogue takes it."""

    movie_id: UUID
    title: str
    duration_seconds: int
    genres: list[str] = []
    released: int | None = None


class Moment(NamedTuple):
    """What a player reports, `after` so many seconds of its session."""

    after: int
    kind: Kind
    position: float
    metadata: dict[str, str] | None = None


class Session(NamedTuple):
    """One sitting. `start` in seconds since 1970 UTC; the moments in order, the first a start."""

    start: int
    id: UUID
    user_id: UUID
    movie_id: UUID
    moments: Iterable[Moment]


class Rating(NamedTuple):
    timestamp: int
    user: str
    movie: str
    stars: float


@dataclass
class Plan:
    """What to send: `count` sessions by ascending start, made as they are taken.

    Attributes:
        too_old: ratings left out because no window of the service reaches them.
        days: the window, today included, that holds all starts.
        films: what is known of the films, by their ids.
    """

    sessions: Iterator[Session]
    count: int
    days: int
    too_old: int = 0
    films: dict[UUID, Film] = field(default_factory=dict)


@dataclass
class Totals:
    """What became of the events. `starts` counts, for each film, the start events handed out.

    Attributes:
        sent: of these, `stored`, `duplicates` and `rejected` are known when they went by HTTP.
    """

    sent: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    not_yet: int = 0
    starts: Counter[UUID] = field(default_factory=Counter)


# --- Viewing: who watches what, and when ---


@cache
def user_uuid(user: str) -> UUID:
    return uuid5(NAMESPACE, f"user:{user}")


@cache
def movie_uuid(movie: str) -> UUID:
    return uuid5(NAMESPACE, f"movie:{movie}")


def film_seconds(movie_id: UUID) -> int:
    """The length of a film, 80 to 150 minutes, always the same for the same film."""
    return 80 * 60 + movie_id.int % (70 * 60 + 1)


def viewing_length(rng: random.Random, length: int, finish_chance: float) -> int:
    """How much of a film is watched, in seconds: `length` is to its end."""
    if rng.random() < finish_chance:
        return length
    return rng.randrange(SHORTEST_VIEWING, length)


def steady_viewing(length: int, watched: int) -> Iterator[Moment]:
    """From the start without a break, a heartbeat each REPLAY_HEARTBEAT."""
    yield Moment(0, Kind.START, 0)
    for second in range(REPLAY_HEARTBEAT, watched, REPLAY_HEARTBEAT):
        yield Moment(second, Kind.PROGRESS, second)
    if watched == length:
        yield Moment(length, Kind.FINISH, length)


def lively_viewing(rng: random.Random, length: int, watched: int) -> Iterator[Moment]:
    """With pauses and jumps, until the position `watched`, a heartbeat each SAMPLE_HEARTBEAT."""
    clock = position = 0.0
    yield Moment(0, Kind.START, 0, {"device": rng.choice(DEVICES)})
    while position < watched:
        habit = rng.random()
        if habit < 0.05:  # a pause: reported when it ends, where it began
            clock += rng.randint(60, 1800)
            yield Moment(int(clock), Kind.PROGRESS, round(position, 2), {"after": "pause"})
        elif habit < 0.08:
            position = min(position + rng.uniform(30, 600), watched)
        elif habit < 0.11:
            position = max(position - rng.uniform(30, 600), 0)
        step = min(SAMPLE_HEARTBEAT, watched - position)
        clock += step
        position += step
        if position < length:
            yield Moment(int(clock), Kind.PROGRESS, round(position, 2))
    if watched == length:
        yield Moment(int(clock), Kind.FINISH, length)


def sample_plan(*, users: int, movies: int, sessions: int, days: int, seed: int, now: int) -> Plan:
    """Made-up viewing in the `days` UTC days that end today; of `now` only its date counts."""
    rng = random.Random(seed)
    today = now // DAY
    hours = rng.choices(range(24), HOURS, k=sessions)
    starts = sorted(
        (today - rng.randrange(days)) * DAY + hour * 3600 + rng.randrange(3600) for hour in hours
    )
    # Zipf: the second film is watched half as often as the first, the third a third as often.
    ranks = rng.choices(range(1, movies + 1), [1 / n for n in range(1, movies + 1)], k=sessions)
    run = f"sample:{seed}:{today}:{users}:{movies}:{sessions}:{days}"

    def session(number: int) -> Session:
        rank = ranks[number]
        user_id = user_uuid(f"sample-{rng.randint(1, users)}")
        movie_id = movie_uuid(f"sample-{rank}")
        length = film_seconds(movie_id)
        # What many watch is also watched to its end more often.
        watched = viewing_length(rng, length, 0.35 + 0.5 / rank**0.5)
        moments = list(lively_viewing(rng, length, watched))
        return Session(
            starts[number], uuid5(NAMESPACE, f"{run}:{number}"), user_id, movie_id, moments
        )

    films = {movie_uuid(f"sample-{rank}"): made_up_film(rank) for rank in set(ranks)}
    return Plan(map(session, range(sessions)), sessions, days, films=films)


def made_up_film(rank: int) -> Film:
    """The film that is watched most after `rank` - 1 others; each has another title."""
    number, first = divmod(rank - 1, len(FIRST_WORDS))
    number, second = divmod(number, len(SECOND_WORDS))
    second = (first + second) % len(SECOND_WORDS)
    movie_id = movie_uuid(f"sample-{rank}")
    return Film(
        movie_id,
        f"{FIRST_WORDS[first]} {SECOND_WORDS[second]}" + (f" {number + 1}" if number else ""),
        film_seconds(movie_id),
        sorted({GENRES[movie_id.int % 8], GENRES[movie_id.int // 8 % 8]}),
        1950 + movie_id.int % 75,
    )


def replay_plan(ratings: Iterable[Rating], *, squeeze: int | None, seed: int, now: int) -> Plan:
    """Each rating as a session that starts at the rating's time of day, moved by whole days.

    Args:
        ratings: at least one. Equal ones are one.
        squeeze: into so many days, today included; None moves all by as much, the last to today.
    """
    ratings = set(ratings)
    today = now // DAY
    first = min(ratings).timestamp // DAY
    last = max(ratings).timestamp // DAY
    moved = sorted(
        (moved_start(one.timestamp, first, last, today, squeeze), one) for one in ratings
    )
    # Whole days: of what is kept a query for the longest window shows everything.
    oldest = (today - LONGEST_WINDOW + 1) * DAY
    kept = [(start, rating) for start, rating in moved if start >= oldest]
    return Plan(
        (rating_session(start, rating, seed) for start, rating in kept),
        count=len(kept),
        days=squeeze or today - kept[0][0] // DAY + 1,
        too_old=len(moved) - len(kept),
        films={
            movie_id: Film(movie_id, f"MovieLens film {movie}", film_seconds(movie_id))
            for movie in {rating.movie for _, rating in kept}
            for movie_id in [movie_uuid(movie)]
        },
    )


def moved_start(timestamp: int, first: int, last: int, today: int, squeeze: int | None) -> int:
    """The time a rating is replayed at. Days are counted from 1970, UTC.

    Squeezed, it is in the `squeeze` - 1 days before today: whatever the time is now, the same
    ratings have happened.
    """
    day, second = divmod(timestamp, DAY)
    if squeeze is None:
        return (day + today - last) * DAY + second
    before = squeeze - 1
    return (today - before + (day - first) * before // (last - first + 1)) * DAY + second


def rating_session(start: int, rating: Rating, seed: int) -> Session:
    """The more stars, the likelier watched to the end. Ids don't depend on the seed."""
    name = f"rating:{rating.user}:{rating.movie}:{rating.timestamp}:{start}"
    movie_id = movie_uuid(rating.movie)
    length = film_seconds(movie_id)
    rng = random.Random(f"{seed}:{name}")
    watched = viewing_length(rng, length, 0.15 + 0.16 * rating.stars)
    return Session(
        start,
        uuid5(NAMESPACE, name),
        user_uuid(rating.user),
        movie_id,
        steady_viewing(length, watched),
    )


def events_of(session: Session) -> Iterator[Event]:
    for number, moment in enumerate(session.moments):
        # uuid5(session.id, str(number)), in half its time.
        name = session.id.bytes + str(number).encode()
        digest = hashlib.sha1(name, usedforsecurity=False).digest()
        yield Event(
            UUID(bytes=digest[:16], version=5),
            moment.kind,
            session.user_id,
            session.movie_id,
            session.id,
            datetime.fromtimestamp(session.start + moment.after, UTC),
            moment.position,
            moment.metadata,
        )


def in_order(sessions: Iterable[Session]) -> Iterator[Event]:
    """All events by time; in memory are only those of sessions that overlap.

    A batch then covers little time, which the service stores fastest.
    """
    pending: list[tuple[datetime, int, int, Event]] = []
    for place, session in enumerate(sessions):
        start = datetime.fromtimestamp(session.start, UTC)
        while pending and pending[0][0] < start:
            yield heappop(pending)[3]
        for number, event in enumerate(events_of(session)):
            heappush(pending, (event.timestamp, place, number, event))
    while pending:
        yield heappop(pending)[3]


def happened(events: Iterable[Event], now: int, totals: Totals) -> Iterator[Event]:
    """Those not later than `now`; the others, and the starts of each film, are counted."""
    present = datetime.fromtimestamp(now, UTC)
    for event in events:
        if event.timestamp > present:
            totals.not_yet += 1
            continue
        if event.event_type is Kind.START:
            totals.starts[event.movie_id] += 1
        yield event


# --- Files ---


def read_ratings(path: Path) -> list[Rating]:
    ratings = []
    for line, (user, movie, stars, timestamp) in read_columns(
        path, ("userId", "movieId", "rating", "timestamp")
    ):
        try:
            ratings.append(Rating(int(timestamp), user, movie, float(stars)))
        except ValueError:
            raise UsageError(f"{path}, line {line}: rating and timestamp must be numbers") from None
    if not ratings:
        raise UsageError(f"{path} holds no ratings")
    return ratings


# "Heat (1995)", and spaces after it here and there.
YEAR = re.compile(r"\(([0-9]{4})\)\s*\Z")


def read_films(path: Path) -> list[Film]:
    """The films of a MovieLens movies.csv; those without a title are left out."""
    films = []
    for _, (movie, title, genres) in read_columns(path, ("movieId", "title", "genres")):
        movie_id = movie_uuid(movie)
        year = YEAR.search(title)
        known = genres.split("|") if genres and not genres.startswith("(") else []
        released = int(year[1]) or None if year else None
        if title.strip():
            films.append(Film(movie_id, title.strip(), film_seconds(movie_id), known, released))
    return films


def read_columns(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The line number and the named columns of each row of a CSV file with a header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if missing := [name for name in names if name not in header]:
                raise UsageError(f"{path} has no column {', '.join(missing)}")
            places = [header.index(name) for name in names]
            for row in rows:
                if row and len(row) <= max(places):
                    raise UsageError(f"{path}, line {rows.line_num}: columns are missing")
                if row:
                    yield rows.line_num, [row[place] for place in places]
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UsageError(f"{path} is not CSV in UTF-8") from None


# --- Sending ---


class Rejection(msgspec.Struct):
    reason: str


class Receipt(msgspec.Struct):
    """What became of a batch; of one that went through Kafka only that it is there."""

    received: int
    stored: int = 0
    duplicates: int = 0
    rejections: list[Rejection] = []


class RejectedFilm(msgspec.Struct):
    detail: str


class CatalogReceipt(msgspec.Struct):
    rejections: list[RejectedFilm]


class Partition(msgspec.Struct):
    topic: str
    partition: int
    next_offset: int


class KafkaDoor(msgspec.Struct):
    state: str
    partitions: list[Partition]


class Ingestion(msgspec.Struct):
    kafka: KafkaDoor


class PopularFilm(msgspec.Struct):
    movie_id: UUID
    total_views: int


class Popular(msgspec.Struct):
    items: list[PopularFilm]


class Service:
    """The running service, over HTTP. Its methods raise Failure with what to tell the user."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.repeats = 0
        self._progress = time.monotonic()
        # A proxy from the environment seldom knows the way to localhost.
        self._client = httpx.AsyncClient(
            timeout=REQUEST_SECONDS,
            trust_env=False,
            headers={} if key is None else {"X-API-Key": key},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def answers(self) -> bool:
        try:
            await self._client.get(f"{self.url}/readyz")
        except httpx.TransportError:
            return False
        return True

    async def wait_until_ready(self) -> None:
        """Wait for a service that is starting, but not for one that isn't there."""
        if not await self.answers():
            raise Failure(f"no service answers at {self.url}: start it with `make run`")
        await self.ask("GET", "/readyz")

    async def popular(self, days: int) -> list[tuple[UUID, int]]:
        """The most watched films of the last `days` UTC days, with their views."""
        query = {"days": days, "tz": "UTC", "limit": TOP}
        content = await self.ask("GET", "/api/v1/analytics/content/popular", params=query)
        return [(film.movie_id, film.total_views) for film in self.read(content, Popular).items]

    async def name(self, films: Sequence[Film]) -> None:
        """Put films into the catalogue; those that are there are replaced."""
        kind = {"Content-Type": "application/x-ndjson"}
        for start in range(0, len(films), TITLES_AT_ONCE):
            body = msgspec.json.Encoder().encode_lines(films[start : start + TITLES_AT_ONCE])
            content = await self.ask(
                "PUT", "/api/v1/analytics/catalog/movies", content=body, headers=kind
            )
            if rejections := self.read(content, CatalogReceipt).rejections:
                raise Failure(f"a title was not taken: {rejections[0].detail}")

    async def ask(self, method: str, path: str, **options: Any) -> bytes:
        """Ask until there is an answer but 503 or 429. Events may be sent again: ids tell."""
        while True:
            wait = RETRY_SECONDS
            try:
                response = await self._client.request(method, self.url + path, **options)
            except httpx.TransportError as error:
                problem = f"{self.url} doesn't answer ({type(error).__name__})"
            else:
                if response.is_success:
                    self._progress = time.monotonic()
                    return response.content
                problem = f"{self.url} answers {response.status_code}: {detail_of(response)}"
                if response.status_code not in LATER:
                    raise Failure(problem)
                seconds = response.headers.get("Retry-After", "")
                wait = float(seconds) if seconds.isdecimal() else RETRY_SECONDS
            if time.monotonic() + wait - self._progress > PATIENCE_SECONDS:
                raise Failure(f"gave up after {PATIENCE_SECONDS:.0f} s without progress: {problem}")
            self.repeats += 1
            await asyncio.sleep(wait)

    def read(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError:
            raise Failure(f"what answers at {self.url} is not the analytics service") from None


def detail_of(response: httpx.Response) -> str:
    """The `detail` of a problem (RFC 9457), or else the name of the status."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase


class Sender(Protocol):
    """A way to send; all that it raises is Failure."""

    async def start(self) -> None:
        """Return when there is somebody to send to."""

    async def send(self, batch: Sequence[Event]) -> Receipt:
        """Send events that are in order of time; return when they are safe."""

    async def finish(self) -> str:
        """Return when the service has taken in all that was sent, with a line to say, if any."""

    async def close(self) -> None:
        """Let go of everything."""


class HttpSender:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._encode = msgspec.json.Encoder().encode_lines

    async def start(self) -> None:
        await self._service.wait_until_ready()

    async def send(self, batch: Sequence[Event]) -> Receipt:
        path, kind = "/api/v1/analytics/events/batch", {"Content-Type": "application/x-ndjson"}
        body = self._encode(batch)
        return self._service.read(
            await self._service.ask("POST", path, content=body, headers=kind), Receipt
        )

    async def finish(self) -> str:
        return ""

    async def close(self) -> None:
        """The service is closed by whoever opened it."""


class KafkaSender:
    """Keyed by user, so that a user's events of one topic stay in their order."""

    def __init__(self, service: Service, servers: str, topic_prefix: str) -> None:
        self._service = service
        self._servers = servers
        self._topics = {kind: topic_prefix + topic for kind, (topic, _) in KAFKA.items()}
        self._encode = msgspec.json.Encoder().encode
        self._producer: AIOKafkaProducer | None = None
        # Of each partition, the offset after the last message that was sent.
        self._ends: dict[tuple[str, int], int] = {}

    async def start(self) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._servers, enable_idempotence=True, linger_ms=20
        )
        try:
            await self._producer.start()
        except KafkaError:
            raise Failure(
                f"no Kafka answers at {self._servers}: start one with `make kafka`"
            ) from None

    async def send(self, batch: Sequence[Event]) -> Receipt:
        assert self._producer is not None
        try:
            under_way = [
                await self._producer.send(
                    self._topics[event.event_type], self._message(event), event.user_id.bytes
                )
                for event in batch
            ]
            for written in await asyncio.gather(*under_way):
                place = written.topic, written.partition
                self._ends[place] = max(self._ends.get(place, 0), written.offset + 1)
        except KafkaError as error:
            raise Failure(f"Kafka at {self._servers} takes no messages: {error}") from None
        return Receipt(received=len(batch))

    async def finish(self) -> str:
        began = time.monotonic()
        if not await self._service.answers():
            return f"No service answers at {self._service.url}; what was sent waits in Kafka."
        while True:
            content = await self._service.ask("GET", "/api/v1/analytics/ingestion")
            kafka = self._service.read(content, Ingestion).kafka
            if kafka.state == "disabled":
                return f"The service at {self._service.url} doesn't read from Kafka."
            done = {(one.topic, one.partition): one.next_offset for one in kafka.partitions}
            if all(done.get(place, 0) >= end for place, end in self._ends.items()):
                return f"The service had taken it in {time.monotonic() - began:.1f} seconds later."
            if time.monotonic() - began > KAFKA_PATIENCE_SECONDS:
                raise Failure(f"the service at {self._service.url} hasn't read what was sent")
            await asyncio.sleep(KAFKA_LOOK_SECONDS)

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    def _message(self, event: Event) -> bytes:
        _, action = KAFKA[event.event_type]
        return self._encode(
            Message(
                event.event_id,
                action,
                event.user_id,
                event.movie_id,
                event.session_id,
                event.timestamp,
                event.position_seconds,
                event.metadata,
            )
        )


async def send_all(sender: Sender, events: Iterator[Event], totals: Totals) -> None:
    async def work() -> None:
        # All workers take from the one iterator.
        while batch := list(islice(events, BATCH_EVENTS)):
            receipt = await sender.send(batch)
            totals.sent += receipt.received
            totals.stored += receipt.stored
            totals.duplicates += receipt.duplicates
            totals.rejected.update(rejection.reason for rejection in receipt.rejections)

    await asyncio.gather(*(work() for _ in range(REQUESTS_AT_ONCE)))


# --- The program ---


def summary(plan: Plan, totals: Totals, seconds: float, repeats: int, by_http: bool) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(totals.rejected.items()))
    known: list[tuple[str, float, str]] = [
        ("  stored", totals.stored, ""),
        ("  duplicates", totals.duplicates, ""),
        ("  rejected", totals.rejected.total(), reasons),
    ]
    rows: list[tuple[str, float, str]] = [
        ("sessions", totals.starts.total(), ""),
        ("events sent", totals.sent, "" if by_http else "to Kafka"),
        *(known if by_http else []),
        ("left out: events", totals.not_yet, "not yet happened"),
        ("left out: sessions", plan.too_old, f"older than {LONGEST_WINDOW} days"),
        ("events a second", round(totals.sent / seconds), ""),
        ("seconds", round(seconds, 1), ""),
        ("requests repeated", repeats, "so some of the duplicates may be new" if repeats else ""),
    ]
    lines = [f"{name:<18} {number:>11,}  {note}".rstrip() for name, number, note in rows]
    if totals.sent and totals.duplicates == totals.sent:
        lines.append("Nothing new: the service had every event.")
    return "\n".join(lines)


def comparison(plan: Plan, starts: Counter[UUID], answer: Sequence[tuple[UUID, int]]) -> str:
    """The most watched films, as they were sent and as the service answers, side by side."""
    ranked = sorted(starts.items(), key=lambda film: (-film[1], str(film[0])))[:TOP]

    def cell(films: Sequence[tuple[UUID, int]], place: int) -> str:
        if place >= len(films):
            return " " * 44
        movie, views = films[place]
        name = plan.films[movie].title if movie in plan.films else str(movie)
        return f"{name[:36]:<36} {views:>7,}"

    lines = [
        f"Most watched in the last {plan.days} days",
        f"    {'sent from the file':<36}   views | {'answered by the service':<36}   views",
    ]
    lines += [
        f"{place + 1:>2}. {cell(ranked, place)} | {cell(answer, place)}"
        for place in range(max(len(ranked), len(answer)))
    ]
    if ranked == list(answer):
        lines.append("The file and the service agree.")
    else:
        lines.append("The file and the service differ: it may hold the viewing of other runs too.")
    return "\n".join(lines)


async def run(flags: argparse.Namespace, plan: Plan, now: int) -> int:
    """Send what is planned and print what came of it. Returns the exit code."""
    totals = Totals()
    service = Service(flags.url, flags.api_key)
    sender = SENDERS[flags.via](service, flags)
    try:
        await sender.start()
        # By HTTP in any case; from Kafka the service may take its events later.
        if await service.answers():
            await service.name(list(plan.films.values()))
        began = time.monotonic()
        # disable=None: no bar where stderr is not a terminal.
        with tqdm(plan.sessions, total=plan.count, unit=" sessions", disable=None) as sessions:
            events = happened(in_order(sessions), now, totals)
            await send_all(sender, events, totals)
        seconds = time.monotonic() - began
        print(summary(plan, totals, seconds, service.repeats, flags.via == "http"), flush=True)
        if last_words := await sender.finish():
            print(last_words, flush=True)
        if flags.ratings and await service.answers():
            print(f"\n{comparison(plan, totals.starts, await service.popular(plan.days))}")
    finally:
        await sender.close()
        await service.close()
    return 1 if totals.rejected else 0


# One entry for each way to send.
SENDERS: dict[str, Callable[[Service, argparse.Namespace], Sender]] = {
    "http": lambda service, _: HttpSender(service),
    "kafka": lambda service, flags: KafkaSender(service, flags.kafka, flags.topic_prefix),
}


def plan_of(flags: argparse.Namespace, now: int) -> Plan:
    if flags.ratings is None:
        if flags.compress_to_days:
            raise UsageError("--compress-to-days goes with --ratings")
        sizes = {name: getattr(flags, name) for name in ("users", "movies", "sessions", "days")}
        plan = sample_plan(**sizes, seed=flags.seed, now=now)
        if flags.movies_file:  # its first films lend their titles, the most watched of all first
            plan.films.update(
                (movie_id, msgspec.structs.replace(film, movie_id=movie_id))
                for rank, film in enumerate(read_films(flags.movies_file), 1)
                for movie_id in [movie_uuid(f"sample-{rank}")]
                if movie_id in plan.films
            )
        return plan
    ratings = read_ratings(flags.ratings)
    plan = replay_plan(ratings, squeeze=flags.compress_to_days, seed=flags.seed, now=now)
    if flags.movies_file:
        known = {film.movie_id: film for film in read_films(flags.movies_file)}
        plan.films.update({one: known[one] for one in plan.films if one in known})
    return plan


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, without the usage.
        self.exit(2, f"{self.prog}: {message}\n")


def whole(least: int, most: int) -> Callable[[str], int]:
    """For argparse: a whole number in that range."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def http_url(text: str) -> str:
    try:
        # httpx looks at the characters, urlsplit at brackets and port.
        parts, host = urlsplit(text), httpx.URL(text).host
        usable = parts.scheme in ("http", "https") and host.strip(".") and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address such as http://localhost:8006"
        )
    return text


def parse_flags(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Send sample viewing to a running service.")
    parser.add_argument(
        "--url", type=http_url, default="http://localhost:8006", help="the service (%(default)s)"
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help="where the service wants one, for sending and for reading"
    )
    parser.add_argument(
        "--via", choices=list(SENDERS), default="http", help="the way to send (%(default)s)"
    )
    parser.add_argument(
        "--kafka",
        default="localhost:9092",
        metavar="SERVERS",
        help="with --via kafka: the brokers (%(default)s)",
    )
    parser.add_argument(
        "--topic-prefix", default="", help="with --via kafka: as the service's KAFKA_TOPIC_PREFIX"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="another one makes other viewing (%(default)s)"
    )
    sample = parser.add_argument_group("made-up viewing")
    sample.add_argument(
        "--users", type=whole(1, 1_000_000), default=10, help="who watch (%(default)s)"
    )
    sample.add_argument(
        "--movies", type=whole(1, 1_000_000), default=20, help="what they watch (%(default)s)"
    )
    sample.add_argument(
        "--sessions", type=whole(1, 10_000_000), default=200, help="in all (%(default)s)"
    )
    sample.add_argument(
        "--days",
        type=whole(1, LONGEST_WINDOW),
        default=7,
        help="UTC days, today the last (%(default)s)",
    )
    parser.add_argument(
        "--movies-file",
        type=Path,
        metavar="FILE",
        help="a MovieLens movies.csv: titles of the films, that of --ratings or any",
    )
    replay = parser.add_argument_group("replay of MovieLens ratings")
    replay.add_argument("--ratings", type=Path, metavar="FILE", help="a ratings.csv")
    replay.add_argument(
        "--compress-to-days",
        type=whole(2, LONGEST_WINDOW),
        metavar="N",
        help="squeeze all ratings into the last N UTC days",
    )
    flags = parser.parse_args(arguments)
    if flags.via != "kafka" and (flags.topic_prefix or flags.kafka != parser.get_default("kafka")):
        parser.error("--kafka and --topic-prefix go with --via kafka")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns the exit code; what went wrong is one line on stderr."""
    flags = parse_flags(arguments)
    now = int(time.time())
    try:
        return asyncio.run(run(flags, plan_of(flags, now), now))
    except (UsageError, Failure) as error:
        print(f"test_events.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # `head`, say, has read enough; the flush at exit shall not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stopped; running it again stores nothing twice", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
