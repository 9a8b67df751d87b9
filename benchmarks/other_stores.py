"""The four questions, 30 days in UTC, put to other stores with the same events.

    BENCH_STORES=DIR python -m benchmarks.other_stores [--rounds N]

Ten million events (BENCH_EVENTS). Ours is the service's own code on the embedded engine, in this
process and without HTTP; a new `AnalyticsService` each time, which can't remember an answer. It is
held against

- PostgreSQL 15 (Debian: `apt install postgresql-15`), started here and asked over its socket by
  psql: memory as for a machine of its own, parallel workers, vacuumed, and for each question an
  index that answers it alone;
- DuckDB (PyPI: `duckdb`), in this process on a file of its own: typed columns in the order of time,
  an index on users, and as many threads as there are processors;
- the events alone: the same engine and table as ours, without rollups and projections.

Distinct ids are counted exactly by PostgreSQL and DuckDB. DuckDB's approx_count_distinct is faster,
but up to 7 % off, and we promise 1 %. Both group by the ids before they count them, which is faster
in both than count(DISTINCT …). All answers are compared before anything is measured: counts must be
equal, distinct ids within 1 %. Everything is in memory by then. The time is until the answer is
here in Python. A user's figures are asked for another user each time.
"""

import asyncio
import os
import pwd
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from uuid import UUID

import duckdb

from app.core.clickhouse_client import ClickHouseClient
from app.services.analytics_service import AnalyticsService
from app.services.movies import Movies
from app.services.window import last_days
from benchmarks.dataset import kept_stores, opened, viewers
from benchmarks.harness import Measured, figure, in_turns, seconds, standalone

EVENTS = int(os.environ.get("BENCH_EVENTS", "10000000"))
DAYS = 30
FILMS = 10
# Of each question in a round; their median is what the round measured.
TIMES = 5
USERS = 200

POSTGRES = Path("/usr/lib/postgresql/15/bin")

# The columns of each answer, of which the last so many are numbers of distinct ids.
DISTINCT = {"popular": 1, "trends": 2, "peak hours": 1, "user stats": 1}

Answer = Sequence[Sequence[object]]
# The rows of an answer to a question; a question about everybody leaves the user aside.
Ask = Callable[[str, UUID], Answer]


# --- The questions in the words of PostgreSQL and DuckDB. {window} holds for event_time.

POPULAR = """
WITH top AS (
    SELECT movie_id,
           count(*) FILTER (WHERE event_type = 'start')  AS starts,
           count(*) FILTER (WHERE event_type = 'finish') AS finishes
    FROM viewing_events
    WHERE {window}
    GROUP BY movie_id
    ORDER BY starts DESC, movie_id
    LIMIT {films}
), seen AS (
    SELECT DISTINCT movie_id, user_id
    FROM viewing_events
    WHERE {window} AND movie_id IN (SELECT movie_id FROM top)
)
SELECT movie_id, starts, round(least(100, 100.0 * finishes / starts), 2), count(*) AS viewers
FROM top JOIN seen USING (movie_id)
GROUP BY movie_id, starts, finishes
"""

# DuckDB takes its index for a condition that stands alone.
USER_STATS = """
WITH his AS MATERIALIZED (
    SELECT movie_id, session_id, event_type, event_time, position_seconds
    FROM viewing_events
    WHERE user_id = '{user}'
), steps AS (
    SELECT movie_id, event_type,
           position_seconds - lag(position_seconds) OVER session AS moved,
           extract(epoch FROM event_time - lag(event_time) OVER session) AS passed
    FROM his
    WHERE {window}
    WINDOW session AS (PARTITION BY movie_id, session_id ORDER BY event_time, position_seconds)
), films AS (
    SELECT movie_id,
           count(*) AS events,
           count(*) FILTER (WHERE event_type = 'start')  AS starts,
           count(*) FILTER (WHERE event_type = 'finish') AS finishes,
           sum(greatest(0, least(moved, passed))) AS watched
    FROM steps
    GROUP BY movie_id
)
SELECT sum(starts), sum(finishes), cast(sum(watched) AS bigint),
       (SELECT movie_id FROM films ORDER BY watched DESC, events DESC, movie_id LIMIT 1),
       count(*)
FROM films
"""

TRENDS = """
WITH users AS (
    SELECT day, sum(starts) AS starts, sum(finishes) AS finishes, count(*) AS users
    FROM (
        SELECT event_time::date AS day,
               count(*) FILTER (WHERE event_type = 'start')  AS starts,
               count(*) FILTER (WHERE event_type = 'finish') AS finishes
        FROM viewing_events
        WHERE {window}
        GROUP BY day, user_id
    ) AS of_each
    GROUP BY day
), movies AS (
    SELECT day, count(*) AS movies
    FROM (
        SELECT event_time::date AS day FROM viewing_events WHERE {window} GROUP BY day, movie_id
    ) AS of_each
    GROUP BY day
)
SELECT day, starts, finishes, users, movies
FROM users JOIN movies USING (day)
"""

PEAK_HOURS = """
SELECT hour, sum(events), count(*)
FROM (
    SELECT extract(hour FROM event_time)::int AS hour, count(*) AS events
    FROM viewing_events
    WHERE {window}
    GROUP BY hour, user_id
) AS of_each
GROUP BY hour
"""

SQL = {
    "popular": POPULAR,
    "trends": TRENDS,
    "peak hours": PEAK_HOURS,
    "user stats": USER_STATS,
}

# --- And in those of ClickHouse, on the events alone. uniq() is its fastest way to count ids, here
# as in the rollups given their hash.

SQL_EVENTS = {
    "popular": """
SELECT movie_id,
       countIf(event_type = 'start') AS starts,
       round(least(100, 100 * countIf(event_type = 'finish') / starts), 2) AS completion_rate,
       uniq(reinterpretAsUUID(cityHash64(user_id))) AS viewers
FROM viewing_events
WHERE {window}
GROUP BY movie_id
ORDER BY starts DESC, toString(movie_id)
LIMIT {films}
""",
    "trends": """
SELECT toDate(event_time) AS day,
       countIf(event_type = 'start')  AS starts,
       countIf(event_type = 'finish') AS finishes,
       uniq(reinterpretAsUUID(cityHash64(user_id)))  AS users,
       uniq(reinterpretAsUUID(cityHash64(movie_id))) AS movies
FROM viewing_events
WHERE {window}
GROUP BY day
""",
    "peak hours": """
SELECT toHour(event_time) AS hour, count() AS events,
       uniq(reinterpretAsUUID(cityHash64(user_id))) AS users
FROM viewing_events
WHERE {window}
GROUP BY hour
""",
    "user stats": """
WITH steps AS (
    SELECT movie_id, event_type,
           toInt64(position_seconds) - lagInFrame(toInt64(position_seconds)) OVER session AS moved,
           toUnixTimestamp(event_time) - lagInFrame(toUnixTimestamp(event_time)) OVER session
               AS passed,
           row_number() OVER session AS place
    FROM viewing_events
    WHERE {window} AND user_id = '{user}'
    WINDOW session AS (
        PARTITION BY movie_id, session_id ORDER BY event_time, position_seconds
        ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    )
), films AS (
    SELECT movie_id,
           count() AS events,
           countIf(event_type = 'start')  AS starts,
           countIf(event_type = 'finish') AS finishes,
           sumIf(greatest(0, least(moved, passed)), place > 1) AS watched
    FROM steps
    GROUP BY movie_id
)
SELECT sum(starts) AS starts, sum(finishes) AS finishes, sum(watched) AS watch_time,
       argMin(toString(movie_id), (-watched, -toInt64(events), toString(movie_id))) AS most_watched,
       count() AS movies
FROM films
""",
}

# --- The stores.

CREATE_POSTGRES = """
CREATE TYPE event_type AS ENUM ('start', 'progress', 'finish');
CREATE TABLE viewing_events (
    id               uuid NOT NULL,
    user_id          uuid NOT NULL,
    movie_id         uuid NOT NULL,
    event_type       event_type NOT NULL,
    event_time       timestamp(0) NOT NULL,
    position_seconds bigint NOT NULL,
    session_id       uuid,
    metadata         text NOT NULL
);
"""

# The window; the films of `top`; a user. Each index has all that its question needs.
INDEX_POSTGRES = """
CREATE INDEX ON viewing_events (event_time) INCLUDE (event_type, movie_id, user_id);
CREATE INDEX ON viewing_events (movie_id, event_time) INCLUDE (user_id);
CREATE INDEX ON viewing_events (user_id, event_time)
    INCLUDE (movie_id, session_id, event_type, position_seconds);
VACUUM (FREEZE, ANALYZE) viewing_events;
"""

# Nothing is written while it is measured; what concerns writing makes the loading shorter.
SETTINGS_POSTGRES = {
    "listen_addresses": "",
    "shared_buffers": "4GB",
    "effective_cache_size": "12GB",
    "work_mem": "512MB",
    "maintenance_work_mem": "1GB",
    "random_page_cost": "1.1",
    "max_worker_processes": "8",
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "2",
    "max_parallel_maintenance_workers": "2",
    "min_parallel_index_scan_size": "0",
    "jit": "off",
    "fsync": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "timezone": "UTC",
}

CREATE_DUCKDB = """
CREATE TYPE event_type AS ENUM ('start', 'progress', 'finish');
CREATE TABLE viewing_events AS
FROM read_csv('{csv}', header = false, nullstr = '\\N', columns = {{
    'id': 'UUID', 'user_id': 'UUID', 'movie_id': 'UUID', 'event_type': 'event_type',
    'event_time': 'TIMESTAMP', 'position_seconds': 'BIGINT', 'session_id': 'UUID',
    'metadata': 'VARCHAR'}});
CREATE INDEX of_user ON viewing_events (user_id);
"""

EXPORT = """
INSERT INTO FUNCTION file('{csv}', 'CSV')
SELECT id, user_id, movie_id, event_type, event_time, position_seconds, session_id, metadata
FROM viewing_events
ORDER BY event_time
"""


class Psql:
    """A psql that stays connected, asked one statement after the other."""

    _END = "-- end of the answer --"

    def __init__(self, socket: Path) -> None:
        self._process = subprocess.Popen(
            [
                str(POSTGRES / "psql"),
                *("--no-psqlrc", "--quiet", "--no-align", "--tuples-only"),
                *("--set=ON_ERROR_STOP=1", f"--host={socket}", "--username=postgres"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, sql: str) -> list[list[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{sql};\n\\echo {self._END}\n")
        self._process.stdin.flush()
        rows = []
        while (line := self._process.stdout.readline().rstrip("\n")) != self._END:
            assert line, f"psql has ended, and its error is above; it was asked {sql}"
            rows.append(line.split("|"))
        return rows

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def running_postgres(folder: Path, csv: Path) -> Iterator[Psql]:
    """A server of its own in the folder, with the events."""
    if not POSTGRES.is_dir():
        sys.exit("PostgreSQL 15 is needed: apt install postgresql-15")
    folder.mkdir()
    if os.getuid() == 0:
        # It refuses to run as root.
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        folder.parent.chmod(0o711)
        user = account.pw_name
    else:
        user = None
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(POSTGRES / program), f"--pgdata={data}", *arguments],
            check=True,
            cwd=folder,
            user=user,
            stdout=subprocess.DEVNULL,
        )

    run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--locale=C.UTF-8")
    settings = {**SETTINGS_POSTGRES, "unix_socket_directories": str(folder)}
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}")
    try:
        psql = Psql(folder)
        # In one transaction with the table: its rows need no log.
        copy = f"\\copy viewing_events FROM '{csv}' CSV NULL '\\N'"
        psql.run(f"BEGIN; {CREATE_POSTGRES} {copy}\nCOMMIT")
        psql.run(INDEX_POSTGRES)
        yield psql
        psql.close()
    finally:
        run("pg_ctl", "stop", "--mode=immediate")


def opened_duckdb(path: Path, csv: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path))
    connection.execute(f"SET threads = {os.cpu_count()}")
    connection.execute(CREATE_DUCKDB.format(csv=csv))
    connection.execute("CHECKPOINT")
    return connection


@contextmanager
def opened_ours(path: Path, runner: asyncio.Runner) -> Iterator[ClickHouseClient]:
    store = opened(path)
    try:
        yield runner.run(store.__aenter__())
    finally:
        runner.run(store.__aexit__(None, None, None))


async def ask_service(service: AnalyticsService, question: str, user: UUID) -> Answer:
    if question == "popular":
        popular = await service.get_popular_content(DAYS, "UTC", FILMS)
        return [
            (film.movie_id, film.total_views, film.completion_rate, film.unique_viewers)
            for film in popular.items
        ]
    if question == "trends":
        trends = await service.get_viewing_trends(DAYS, "UTC")
        return [
            (day.date, day.starts, day.finishes, day.unique_users, day.unique_movies)
            for day in trends.items
        ]
    if question == "peak hours":
        hours = await service.get_peak_hours(DAYS, "UTC")
        return [(hour.hour, hour.events_count, hour.unique_users) for hour in hours.items]
    stats = await service.get_user_stats(user, DAYS, "UTC")
    return [
        (
            stats.movies_started,
            stats.movies_finished,
            stats.total_watch_time_seconds,
            stats.most_watched_movie_id,
            stats.unique_movies_watched,
        )
    ]


# --- The measurement.


def measure(rounds: int) -> list[Measured]:
    now = datetime.now(UTC)
    window = last_days(DAYS, "UTC", now)
    bounds = f"event_time >= '{window.start:%F %T}' AND event_time < '{window.end:%F %T}'"

    def worded(texts: Mapping[str, str], question: str, user: UUID) -> str:
        return texts[question].format(window=bounds, films=FILMS, user=user)

    with ExitStack() as stack:
        [path] = stack.enter_context(kept_stores(EVENTS))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        users = [user for user, _ in viewers(path, USERS)]
        runner = stack.enter_context(asyncio.Runner())
        store = stack.enter_context(opened_ours(path, runner))
        csv = scratch / "events.csv"
        runner.run(store.execute(EXPORT.format(csv=csv)))
        postgres = stack.enter_context(running_postgres(scratch / "postgres", csv))
        duck = stack.enter_context(opened_duckdb(scratch / "duckdb", csv))
        csv.unlink()

        def ours(question: str, user: UUID) -> Answer:
            service = AnalyticsService(store, lambda: now, Movies(store, lambda: 0))
            return runner.run(ask_service(service, question, user))

        def events_alone(question: str, user: UUID) -> Answer:
            sql = worded(SQL_EVENTS, question, user) + "SETTINGS optimize_use_projections = 0"
            return [list(row.values()) for row in runner.run(store.execute(sql))]

        rivals: dict[str, Ask] = {
            "PostgreSQL": lambda question, user: postgres.run(worded(SQL, question, user)),
            "DuckDB": lambda question, user: duck.execute(worded(SQL, question, user)).fetchall(),
            "events alone": events_alone,
        }
        for question, ask in ((question, ask) for question in DISTINCT for ask in rivals.values()):
            for user in users[:TIMES]:
                assert_agree(question, ours(question, user), ask(question, user))
        return [
            row(
                question,
                name,
                *in_turns(rounds, times(ours, question, users), times(ask, question, users)),
            )
            for question in DISTINCT
            for name, ask in rivals.items()
        ]


def times(ask: Ask, question: str, users: Sequence[UUID]) -> Callable[[], float]:
    """Measures the milliseconds an answer takes, going on through the users."""
    in_turn = cycle(users)

    def median() -> float:
        return 1000 * statistics.median(
            seconds(lambda: ask(question, next(in_turn))) for _ in range(TIMES)
        )

    return median


def row(question: str, rival: str, ours: Sequence[float], theirs: Sequence[float]) -> Measured:
    """The ratio says how many times longer the rival takes."""
    ratios = [their_time / our_time for our_time, their_time in zip(ours, theirs, strict=True)]
    ratio = statistics.median(theirs) / statistics.median(ours)
    return Measured(
        f"{question}, {DAYS} days, {EVENTS:,} events",
        figure(statistics.median(ours), "ms"),
        figure(statistics.median(theirs), "ms"),
        rival,
        ratio,
        (min(ratios), max(ratios)),
        "> 1 ×",
        ratio > 1,
    )


def assert_agree(question: str, ours: Answer, theirs: Answer) -> None:
    """Counts are equal, numbers of distinct ids within 1 %."""
    distinct = DISTINCT[question]
    of_both = [sorted(plain(row) for row in answer) for answer in (ours, theirs)]
    for our_row, their_row in zip(*of_both, strict=True):
        assert our_row[:-distinct] == their_row[:-distinct], (question, our_row, their_row)
        for our_number, their_number in zip(
            our_row[-distinct:], their_row[-distinct:], strict=True
        ):
            assert abs(float(our_number) / float(their_number) - 1) <= 0.01, (
                question,
                our_row,
                their_row,
            )


def plain(row: Sequence[object]) -> tuple[str | float, ...]:
    """The same values whichever type a store gives them."""

    def of(value: object) -> str | float:
        try:
            return float(str(value))
        except ValueError:
            return str(value)

    return tuple(of(value) for value in row)


if __name__ == "__main__":
    standalone(__doc__, measure)
