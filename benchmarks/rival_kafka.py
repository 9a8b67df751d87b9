"""Other readers of the same topics, which the service is measured against.

    RIVAL=engine CLICKHOUSE_PATH=… PORT=… KAFKA_…=… python -m benchmarks.rival_kafka

Each is a process with chDB in it, set by the variables of the service, that answers the service's
four queries by the service's own code. What differs is how messages become rows. `RIVAL` is one of

engine      ClickHouse's own reader, ENGINE = Kafka, with a materialized view into viewing_events:
            at least once, no look at what a message says, and no repeats told. As many consumers as
            cores, each with a thread; what they have read is inserted after half a second at most.
batches     The design read to the letter: up to 1,000 messages, one insert, commit. Its rollups
            hold the numbers of uniq(), which SummingMergeTree adds up; days and hours are counted
            from the events.
one_by_one  The simplest that could work: an insert for each message. The tables are the service's.
"""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import uvicorn
from aiokafka import AIOKafkaConsumer
from chdb.state.sqlitelike import Connection
from fastapi import FastAPI

from app.api import health
from app.api.hot import Wordings
from app.api.v1.endpoints import analytics
from app.core.clickhouse_client import Row, load_query
from app.core.clickhouse_embedded import EmbeddedClickHouse
from app.core.config import Settings
from app.core.errors import StoreError
from app.core.schema import schema_statements
from app.services.analytics_service import AnalyticsService
from app.services.answers import Answers
from app.services.movies import Movies

TOPICS = ("stream.start", "stream.progress", "stream.stop")
TYPES = {"stream_start": "start", "stream_progress": "progress", "stream_stop": "finish"}
BATCH = 1_000
COLUMNS = (
    "id", "user_id", "movie_id", "event_type", "event_time",
    "position_seconds", "session_id", "metadata", "batch_id",
)  # fmt: skip

# In a database whose tables are forgotten with the process: this build of chDB opens no store that
# has such a table in it.
ENGINE = """
CREATE TABLE reading.messages
(
    user_id UUID, movie_id UUID, action LowCardinality(String), timestamp DateTime('UTC'),
    position_seconds UInt32, session_id Nullable(UUID), metadata String
)
ENGINE = Kafka
SETTINGS kafka_broker_list = '{servers}', kafka_topic_list = '{topics}',
    kafka_group_name = '{group}', kafka_format = 'JSONEachRow',
    kafka_num_consumers = {cores}, kafka_thread_per_consumer = 1,
    kafka_flush_interval_ms = 500,
    date_time_input_format = 'best_effort', input_format_skip_unknown_fields = 1
"""
ENGINE_VIEW = """
CREATE MATERIALIZED VIEW reading.events TO {database}.viewing_events AS
SELECT
    generateUUIDv4() AS id,
    user_id,
    movie_id,
    multiIf(action = 'stream_start', 'start', action = 'stream_stop', 'finish', 'progress')
        AS event_type,
    timestamp AS event_time,
    position_seconds,
    session_id,
    if(metadata = '', '{{}}', metadata) AS metadata,
    toUInt64(0) AS batch_id
FROM reading.messages
"""
ENGINE_CONFIG = """
<clickhouse><kafka>
    <session_timeout_ms>{session_ms}</session_timeout_ms>
    <auto_offset_reset>earliest</auto_offset_reset>
</kafka></clickhouse>
"""

TRENDS_FROM_EVENTS = """
SELECT
    toDate(event_time) - {first_day:Date} AS day,
    countIf(event_type = 'start') AS starts,
    countIf(event_type = 'finish') AS finishes,
    uniq(user_id) AS users,
    uniq(movie_id) AS movies
FROM viewing_events
WHERE event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
GROUP BY day
"""
PEAK_HOURS_FROM_EVENTS = """
SELECT toHour(event_time) AS hour, count() AS events, uniq(user_id) AS users
FROM viewing_events
WHERE event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
GROUP BY hour
"""

Reading = Callable[[Settings, EmbeddedClickHouse], Coroutine[Any, Any, None]]


class ConfiguredClickHouse(EmbeddedClickHouse):
    """With a configuration file: Kafka's session timeout can't be set in any other way."""

    def __init__(self, settings: Settings, config: Path) -> None:
        super().__init__(settings.clickhouse_path, settings.clickhouse_database)
        self._place = f"{settings.clickhouse_path}?config-file={config}"

    def _open(self) -> Connection:
        return Connection(self._place)


class LiteralAnswers(AnalyticsService):
    """From the rollups of `literal_schema`, in UTC only."""

    async def ask(self, query: str, parameters: Mapping[str, Any]) -> list[Row]:
        sql = {"trends": TRENDS_FROM_EVENTS, "peak_hours": PEAK_HOURS_FROM_EVENTS}.get(query)
        if sql is None:
            sql = load_query(query).replace("uniqMerge(", "sum(")
        return await self._store.execute(sql, parameters)


def literal_schema(database: str) -> list[str]:
    """The service's, with numbers where it has states, and without the rollup by time."""
    statements = schema_statements(database, cluster=None)
    number = [one.replace("AggregateFunction(uniq, UUID)", "UInt64") for one in statements]
    counted = [
        re.sub(r"uniqState\(reinterpretAsUUID\(cityHash64\((\w+)\)\)\)", r"uniq(\1)", one)
        for one in number
    ]
    return [one for one in counted if not re.search(r"EXISTS traffic(_mv)?\b", one)]


async def create_engine(settings: Settings, store: EmbeddedClickHouse) -> None:
    """ClickHouse reads from now on, in threads of its own."""
    await store.execute("CREATE DATABASE IF NOT EXISTS reading ENGINE = Memory")
    create = ENGINE.format(
        servers=settings.kafka_bootstrap_servers,
        topics=",".join(settings.kafka_topic_prefix + topic for topic in TOPICS),
        group=settings.kafka_consumer_group,
        cores=os.cpu_count(),
    )
    # In this build it says "Shutdown was called", though the table is there and is read.
    with suppress(StoreError):
        await store.execute(create)
    await store.execute(ENGINE_VIEW.format(database=store.database))


@asynccontextmanager
async def consuming(settings: Settings, *, auto_commit: bool) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        *(settings.kafka_topic_prefix + topic for topic in TOPICS),
        bootstrap_servers=settings.kafka_bootstrap_servers,
        group_id=settings.kafka_consumer_group,
        auto_offset_reset="earliest",
        enable_auto_commit=auto_commit,
        session_timeout_ms=settings.kafka_session_timeout_ms,
        heartbeat_interval_ms=settings.kafka_session_timeout_ms // 4,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def as_row(value: bytes) -> list[Any]:
    """In the order of COLUMNS."""
    event = msgspec.json.decode(value)
    return [
        uuid4(),
        event["user_id"],
        event["movie_id"],
        TYPES[event["action"]],
        int(datetime.fromisoformat(event["timestamp"]).timestamp()),
        int(event["position_seconds"]),
        event.get("session_id"),
        msgspec.json.encode(event.get("metadata", {})).decode(),
        0,
    ]


async def read_batches(settings: Settings, store: EmbeddedClickHouse) -> None:
    async with consuming(settings, auto_commit=False) as consumer:
        while True:
            messages = await consumer.getmany(timeout_ms=500, max_records=BATCH)
            rows = [as_row(message.value) for some in messages.values() for message in some]
            if rows:
                await store.insert("viewing_events", COLUMNS, rows)
                await consumer.commit()


async def read_one_by_one(settings: Settings, store: EmbeddedClickHouse) -> None:
    async with consuming(settings, auto_commit=True) as consumer:
        async for message in consumer:
            await store.insert("viewing_events", COLUMNS, [as_row(message.value)])


READING: dict[str, Reading] = {
    "engine": create_engine,
    "batches": read_batches,
    "one_by_one": read_one_by_one,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    rival = os.environ["RIVAL"]
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as config:
        config.write(ENGINE_CONFIG.format(session_ms=settings.kafka_session_timeout_ms))
        config.flush()
        store = ConfiguredClickHouse(settings, Path(config.name))
        await store.connect()
        await store.ensure_database()
        answers = AnalyticsService
        if rival == "batches":
            answers = LiteralAnswers
            for statement in literal_schema(store.database):
                await store.execute(statement)
        else:
            await store.ensure_tables()
        app.state.store = store
        app.state.service = answers(store, lambda: datetime.now(UTC), Movies(store, lambda: 0))
        app.state.answers = Answers(lambda: None)
        app.state.wordings = Wordings()
        reading = asyncio.create_task(READING[rival](settings, store))
        reading.add_done_callback(_end_when_failed)
        app.state.ready = True
        yield


def _end_when_failed(reading: asyncio.Task[None]) -> None:
    """A reader that has failed must not look like one that is slow."""
    if not reading.cancelled() and (error := reading.exception()) is not None:
        print(f"{error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    """Serve until it is killed."""
    settings = Settings(_env_file=None)
    app = FastAPI(lifespan=lifespan)
    app.state.settings = settings
    app.state.kafka = None
    app.state.draining = app.state.ready = False
    app.include_router(analytics.router)
    app.include_router(health.router)
    uvicorn.run(app, host=settings.host, port=settings.port, loop="uvloop", access_log=False)


if __name__ == "__main__":
    main()
