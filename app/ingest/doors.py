"""What has come in by each door, and how far it is: the answer of `/ingestion`."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from app.core.block import Array
from app.ingest.events import Events
from app.schemas.events import RejectionReason
from app.schemas.ingestion import DoorCounts, Ingestion, KafkaDoor, KafkaState, PartitionLag


class Tally:
    """Counts the events of one door.

    What is received is in flight until `settle` says what became of it.
    """

    def __init__(self) -> None:
        self._received = 0
        self._stored = 0
        self._duplicates = 0
        self._rejected: Counter[RejectionReason] = Counter()
        self._last_event_time: int | None = None

    @contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """While so many events are in flight. When it fails they have not come in: they will."""
        self._received += count
        try:
            yield
        except BaseException:
            self._received -= count
            raise

    def settle(self, events: Events, outcomes: Array, rejected: Iterable[RejectionReason]) -> int:
        """Count what became of events in flight. Returns how many were stored.

        Args:
            outcomes: for each of `events`, whether it was stored; else it is a repeat.
        """
        stored = int(outcomes.sum())
        self._stored += stored
        self._duplicates += len(outcomes) - stored
        self._rejected.update(rejected)
        if stored:
            latest = int(events.rows["event_time"][outcomes].max())
            self._last_event_time = max(latest, self._last_event_time or 0)
        return stored

    def counts(self) -> dict[str, Any]:
        """The fields of DoorCounts."""
        rejected = self._rejected.total()
        return {
            "received": self._received,
            "stored": self._stored,
            "duplicates": self._duplicates,
            "rejected": rejected,
            "in_flight": self._received - self._stored - self._duplicates - rejected,
            "rejections": dict(self._rejected),
            "last_event_time": (
                None
                if self._last_event_time is None
                else datetime.fromtimestamp(self._last_event_time, UTC)
            ),
        }


class Kafka(Protocol):
    """What is asked of the Kafka door."""

    tally: Tally

    async def state(self) -> KafkaState:
        """Asks the brokers; answers within 2 seconds."""

    async def lag(self) -> list[PartitionLag] | None:
        """Of each partition; None when the brokers don't say so within 2 seconds. Asks them."""

    def recent_rejections(self) -> int:
        """How many messages were rejected in the last minute."""


class Doors:
    """Both doors side by side.

    Args:
        kafka: None where there is no consumer.
        clock: the present time; the process begins to count now.
    """

    def __init__(self, http: Tally, kafka: Kafka | None, clock: Callable[[], datetime]) -> None:
        self._http = http
        self._kafka = kafka
        self._clock = clock
        self._since = clock()
        # As it was last known: nothing is undone while the brokers don't answer.
        self._complete_through: datetime | None = None

    async def report(self) -> Ingestion:
        """What came in, and what waits in Kafka; asks the brokers."""
        kafka = await self._kafka_door()
        if kafka.lag is not None:
            through = [one.complete_through for one in kafka.partitions]
            known = [time for time in through if time is not None]
            self._complete_through = min(known) if len(known) == len(through) else None
        return Ingestion(
            since=self._since,
            # It may have been set back since.
            complete_through=self._complete_through and min(self._complete_through, self._clock()),
            http=DoorCounts(**self._http.counts()),
            kafka=kafka,
        )

    async def _kafka_door(self) -> KafkaDoor:
        if self._kafka is None:
            return KafkaDoor(**Tally().counts(), state="disabled", lag=None, partitions=[])
        state, partitions = await asyncio.gather(self._kafka.state(), self._kafka.lag())
        return KafkaDoor(
            **self._kafka.tally.counts(),
            state=state,
            # Without topics nothing waits, and nothing is known.
            lag=sum(one.lag for one in partitions) if partitions else None,
            partitions=partitions or [],
        )
