"""Builds a store with made-up viewing of the last 90 days, as the other benchmarks need it.

    python -m benchmarks.dataset PATH --events N

A million users, some of whom watch more than others; 20,000 films, popular by Zipf's law; sessions
of ten events, most of them in the evening; a tenth of them with metadata. The same N makes the same
viewing on every day, but for its dates, which end now. The engine generates the events itself, so
the views fill themselves as they do for the service.

Benchmarks take the stores in the directory BENCH_STORES, each named by its number of events, and
build what is missing there. Without BENCH_STORES they build their own, and remove it. The windows
of the queries go on while a kept store does not: build it on the day on which it is used.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

from app.core.clickhouse_client import Parameters, Row
from app.core.clickhouse_embedded import EmbeddedClickHouse
from app.ingest.rollups import load_rollups

DATABASE = "analytics"
DAYS = 90
DAY_SECONDS = 24 * 60 * 60
# A day of the largest store, so that memory doesn't grow with the store.
CHUNK_EVENTS = 1_200_000
# With no merge for so long, the engine finds none that is worth it.
SETTLED_SECONDS = 15

# Of one day, or of a part of one. `passed` is the part of the day that is over: less than 1 today,
# whose events are squeezed into it. A batch is what came in one second: at its start the service
# reads the last one again, which is no larger than those it writes itself.
_INSERT = """
INSERT INTO viewing_events
WITH
    intDiv(number, 10)                             AS session,
    number % 10                                    AS step,
    cityHash64(session, 1) / pow(2, 64)            AS u1,
    cityHash64(session, 2) / pow(2, 64)            AS u2,
    cityHash64(session, 3) / pow(2, 64)            AS u3,
    cityHash64(session, 4) / pow(2, 64)            AS u4,
    toUInt32(1000000 * pow(u1, 1.5))               AS user_number,
    toUInt32(exp(u2 * log(20000)))                 AS movie_number,
    2.5 * sqrt(-2 * log(u4 + 1e-12)) * cos(2 * pi() * u3 / 0.7) AS around_peak,
    -- None so late that the session would not end on the same day.
    positiveModulo(if(u3 < 0.7, 20 + around_peak, 24 * u4), 23.2) AS hour,
    toUInt32({passed:Float64} * (3600 * hour + 300 * step + cityHash64(number) % 20)) AS second
SELECT
    reinterpretAsUUID(sipHash128('event', number))       AS id,
    reinterpretAsUUID(sipHash128('user', user_number))   AS user_id,
    reinterpretAsUUID(sipHash128('movie', movie_number)) AS movie_id,
    multiIf(
        step = 0, 'start',
        step = 9 AND cityHash64(session, 5) % 3 > 0, 'finish',
        'progress')                                      AS event_type,
    toDateTime({midnight:UInt32} + second, 'UTC')        AS event_time,
    300 * step                                           AS position_seconds,
    reinterpretAsUUID(sipHash128('session', session))    AS session_id,
    if(cityHash64(session, 6) % 10 = 0,
       '{"device":"' || ['tv', 'phone', 'web'][1 + session % 3] || '"}', '{}') AS metadata,
    {midnight:UInt32} + second - {first_midnight:UInt32} + 1 AS batch_id
FROM numbers({first:UInt64}, {events:UInt64})
SETTINGS max_insert_block_size = 2000000, min_insert_block_size_rows = 2000000
"""

_BUSY = "SELECT count() AS merges FROM system.merges"

_LIFETIMES = """
SELECT name, extract(engine_full, 'old_parts_lifetime = (\\\\d+)') AS lifetime
FROM system.tables
WHERE database = currentDatabase() AND lifetime != ''
"""

_VIEWERS = """
SELECT user_id, movie_id
FROM viewing_events
WHERE event_time >= now() - INTERVAL 7 DAY
ORDER BY cityHash64(id)
LIMIT {number:UInt32}
"""


@asynccontextmanager
async def opened(path: Path, *, fsync: bool = True) -> AsyncIterator[EmbeddedClickHouse]:
    """The store as the service would open it, its tables left as they are."""
    store = EmbeddedClickHouse(path, DATABASE, fsync=fsync)
    try:
        await store.connect()
        await store.ensure_database()
        yield store
    finally:
        await store.close()


def ask(path: Path, sql: str, parameters: Parameters | None = None) -> list[Row]:
    """The answer of a store that nobody has open."""

    async def asked() -> list[Row]:
        async with opened(path) as store:
            return await store.execute(sql, parameters)

    return asyncio.run(asked())


def viewers(path: Path, number: int) -> list[tuple[UUID, UUID]]:
    """Users with a film that each has watched in the last week, as chance has it."""
    rows = ask(path, _VIEWERS, {"number": number})
    return [(UUID(row["user_id"]), UUID(row["movie_id"])) for row in rows]


@contextmanager
def kept_stores(*sizes: int) -> Iterator[list[Path]]:
    """Stores of these numbers of events, built unless they are in BENCH_STORES."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("BENCH_STORES", scratch)).absolute()
        paths = [folder / str(events) for events in sizes]
        for path, events in zip(paths, sizes, strict=True):
            if not path.exists():
                build(path, events)
        yield paths


def build(path: Path, events: int) -> None:
    """A store with so many events at a path where none is, its merges done."""
    # Under another name until it is whole: what is left of a build cut short is not a store.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    asyncio.run(_build(unfinished, events))
    unfinished.rename(path)


async def _build(path: Path, events: int) -> None:
    async with opened(path, fsync=False) as store:
        await store.ensure_tables()
        # Else merged parts would stay on the disk for minutes, and take several times the space.
        lifetimes = {row["name"]: row["lifetime"] for row in await store.execute(_LIFETIMES)}
        for table in lifetimes:
            await store.execute(f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = 1")
        for chunk in _chunks(events, int(time.time())):
            await store.execute(_INSERT, chunk)
        await _settle(store)
        await _check(store, events)
        for table, lifetime in lifetimes.items():
            await store.execute(
                f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = {lifetime}"
            )
    async with opened(path) as store:
        await store.ensure_tables()  # switches fsync on


def _chunks(events: int, now: int) -> Iterator[dict[str, int | float]]:
    """The parameters of each INSERT: as many events on each day, and today's until now."""
    today = now - now % DAY_SECONDS
    first_midnight = today - (DAYS - 1) * DAY_SECONDS
    passed_today = (now % DAY_SECONDS) / DAY_SECONDS
    sessions_a_day = int(events / 10 / (DAYS - 1 + passed_today))
    first = 0
    for midnight in range(first_midnight, today + 1, DAY_SECONDS):
        end = events if midnight == today else first + 10 * sessions_a_day
        while first < end:
            size = min(CHUNK_EVENTS, end - first)
            yield {
                "first": first,
                "events": size,
                "midnight": midnight,
                "first_midnight": first_midnight,
                "passed": passed_today if midnight == today else 1.0,
            }
            first += size


async def _settle(store: EmbeddedClickHouse) -> None:
    """Until the engine has merged what it would merge."""
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + SETTLED_SECONDS:
        await asyncio.sleep(0.2)
        [busy] = await store.execute(_BUSY)
        if busy["merges"]:
            quiet_since = time.monotonic()


async def _check(store: EmbeddedClickHouse, events: int) -> None:
    """Every event is there once, and every rollup has the sums that its SELECT has by now."""
    [there] = await store.execute("SELECT count() AS events FROM viewing_events")
    assert there["events"] == events, there
    with_sums = [rollup for rollup in await load_rollups(store) if rollup.sums]
    for rollup in with_sums:
        of_table, of_events = [
            await _sums(store, source, rollup.sums)
            for source in (rollup.table, f"({rollup.source})")
        ]
        assert of_table == of_events, (rollup.table, of_table, of_events)


async def _sums(store: EmbeddedClickHouse, source: str, columns: Sequence[str]) -> Row:
    sums = ", ".join(f"sum(source.{column}) AS {column}" for column in columns)
    [row] = await store.execute(
        f"SELECT {sums} FROM {source} AS source"
        " SETTINGS max_bytes_before_external_group_by = 1000000000"
    )
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--events", type=int, required=True, metavar="N")
    arguments = parser.parse_args()
    build(arguments.path.absolute(), arguments.events)
