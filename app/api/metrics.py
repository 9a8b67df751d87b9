"""/metrics, for Prometheus."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.errors import problem
from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from app.core.measures import DoorCounts, Measures
from app.ingest.doors import Kafka, Tally
from app.ingest.intake import Intake
from app.ingest.writer import Writer
from app.schemas.events import RejectionReason

router = APIRouter(tags=["health"])

_KEPT_SECONDS = 2.0
# The store and the brokers are given up on after 1.9 seconds each, which are waited for together.
_WAIT_SECONDS = 2.0
_MISDIRECTED = 421


class Scrapes:
    """What is asked for when somebody scrapes, and kept for a while.

    Args:
        state: that of the app; what is in it changes when the app starts.
    """

    def __init__(self, measures: Measures, settings: Settings, state: Any) -> None:
        self._measures = measures
        self._settings = settings
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._asked_again_at = 0.0
        measures.buffer_limit_events.set(settings.write_buffer_events)
        measures.watch_doors(self._door_counts)

    async def look(self) -> None:
        """Ask the store and the brokers, unless they were asked just now; at most 2 seconds."""
        writer: Writer | None = self._state.writer
        self._measures.buffer_events.set(0 if writer is None else writer.buffered_events)
        now = time.monotonic()
        if self._task is None or (self._task.done() and now >= self._asked_again_at):
            self._task = asyncio.create_task(self._ask())
        await asyncio.wait([self._task], timeout=_WAIT_SECONDS)
        if self._task.done():
            self._task.result()  # raises what nobody foresaw: better no figures than old ones

    async def _ask(self) -> None:
        store: ClickHouseClient | None = self._state.store
        kafka: Kafka | None = self._state.kafka
        questions = [self._ask_store(store), self._ask_kafka(kafka)]
        await asyncio.gather(*questions)
        self._asked_again_at = time.monotonic() + (_KEPT_SECONDS if self._state.ready else 0)

    async def _ask_store(self, store: ClickHouseClient | None) -> None:
        self._measures.store_up.set(store is not None and await store.ping())

    async def _ask_kafka(self, kafka: Kafka | None) -> None:
        if kafka is not None:
            state, lag = await asyncio.gather(kafka.state(), kafka.lag())
            waiting = [(one.topic, one.partition, one.lag) for one in lag or ()]
            group = self._settings.kafka_consumer_group
            self._measures.kafka(group, state == "enabled", waiting)

    def _door_counts(self) -> DoorCounts:
        intake: Intake | None = self._state.intake
        kafka: Kafka | None = self._state.kafka
        tallies = {
            "http": Tally() if intake is None else intake.tally,
            "kafka": Tally() if kafka is None else kafka.tally,
        }
        none: dict[RejectionReason, int] = dict.fromkeys(RejectionReason, 0)
        return {
            door: {**counts, "rejections": none | counts["rejections"]}
            for door, counts in ((door, tally.counts()) for door, tally in tallies.items())
        }


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Those of this process. Where several share a port, each has one of its own to be asked at."""
    settings: Settings = request.app.state.settings
    if settings.workers > 1 and request.scope["server"][1] == settings.port:
        return problem(
            request,
            _MISDIRECTED,
            "each process has metrics of its own: set PROCESS_PORTS, and ask at those ports",
        )
    scrapes: Scrapes = request.app.state.scrapes
    await scrapes.look()
    measures: Measures = request.app.state.measures
    body, media_type = measures.exposition(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
