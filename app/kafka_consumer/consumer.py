"""The Kafka door: keeps a reader at work, and says how far it is."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from app.ingest.doors import Tally
from app.ingest.rejections import RejectedEvents, RejectedMessage
from app.ingest.writer import Writer
from app.kafka_consumer.cluster import KAFKA_FAULTS, Cluster, connection
from app.kafka_consumer.reader import (
    FIRST_BACKOFF_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    STALLED_SECONDS,
    Reader,
)
from app.schemas.events import EventType, RejectionReason
from app.schemas.ingestion import KafkaState, PartitionLag

logger = logging.getLogger(__name__)

TYPE_OF_TOPIC = {
    "stream.start": EventType.START,
    "stream.progress": EventType.PROGRESS,
    "stream.stop": EventType.FINISH,
}

# How long a stop waits until the group is left; with the last batch it is less than 10 seconds.
_LEAVE_SECONDS = 3.0
# How often to look for topics that are being made: making one takes some tenths of a second.
_TOPIC_LOOKS = 10
_TOPIC_LOOK_SECONDS = 0.1
_ASK_SECONDS = 1.9
_MINUTE = 60.0


class KafkaConsumer:
    """Takes in the messages of the three topics, each once, whatever is killed.

    Offsets are committed when the events are stored and the messages that are no events are kept.
    Whatever fails before is delivered again, and what is there already is a repeat then.

    It lives as long as the service and never gives up: without brokers, or without the store, it
    tries again with growing pauses.

    Raises:
        ConfigurationError: when it is made: the settings can't lead to a connection.
    """

    def __init__(
        self,
        settings: Settings,
        store: ClickHouseClient,
        writer: Writer,
        clock: Callable[[], datetime],
    ) -> None:
        self.tally = Tally()
        self._settings = settings
        self._writer = writer
        self._rejected = RejectedEvents(store)
        self._clock = clock
        self._types = {
            settings.kafka_topic_prefix + name: kind for name, kind in TYPE_OF_TOPIC.items()
        }
        self._connection = connection(settings)
        self._cluster = Cluster(self._connection, settings.kafka_consumer_group, list(self._types))
        self._reader: Reader | None = None
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._stopping = False
        self._failed = False
        self._rejections = _RecentRejections()
        # Of each partition, the latest time up to which all was seen to be taken in.
        self._through: dict[TopicPartition, datetime] = {}

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name="kafka consumer")

    def request_stop(self) -> None:
        """Read no further; the batch under way is finished."""
        if self._task is not None and not self._stopping:
            self._stopping = True
            self._task.cancel()

    async def close(self) -> None:
        """Finish the batch under way, commit, and leave the group, within 10 seconds."""
        self.request_stop()
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._leaving is not None:
            await asyncio.wait([self._leaving], timeout=_LEAVE_SECONDS)
        await self._cluster.close()

    async def state(self) -> KafkaState:
        """Whether the brokers answer, and the consumer gets on with them. Asks them."""
        try:
            await self._cluster.partitions()
        except KAFKA_FAULTS:
            return "unreachable"
        reads = self._reader is not None and self._reader.answered
        return "unreachable" if self._failed and not reads else "enabled"

    async def lag(self) -> list[PartitionLag] | None:
        """How far the group is; None when the brokers don't say so. Asks them."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await self._ask_lag()
        except KAFKA_FAULTS as error:
            logger.debug("how far the group is, is not known: %r", error)
            return None

    def recent_rejections(self) -> int:
        """How many messages were rejected in the last minute."""
        return self._rejections.count(_monotonic())

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while not self._stopping:
            began = _monotonic()
            try:
                await self._read_until_it_fails()
            except KAFKA_FAULTS as error:
                logger.warning(
                    "Kafka at %s: %s; trying again",
                    self._settings.kafka_bootstrap_servers,
                    str(error) or type(error).__name__,
                )
            except asyncio.CancelledError:
                if self._stopping:
                    raise
                logger.warning("the Kafka client was cancelled; trying again")
            except Exception:
                logger.exception("the Kafka consumer failed; trying again")
            self._failed = True
            if _monotonic() - began > STALLED_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _read_until_it_fails(self) -> None:
        reader = Reader(
            self._settings,
            self._connection,
            self._types,
            self._writer,
            self._rejected,
            self.tally,
            self._clock,
            lambda messages: self._rejections.add(_monotonic(), messages),
        )
        try:
            await reader.connect()
            await self._make_topics()
            self._reader = reader
            await reader.read()
        finally:
            self._reader = None
            # Another must not be made before this one has left: they would share the partitions.
            self._leaving = asyncio.create_task(reader.leave())
            if not self._stopping:
                await asyncio.wait([self._leaving], timeout=2 * STALLED_SECONDS)

    async def _make_topics(self) -> None:
        """Have the topics made, where the brokers do so; those they don't make are waited for."""
        missing: list[str] = []
        for _ in range(_TOPIC_LOOKS):
            try:
                there = {partition.topic for partition in await self._cluster.partitions()}
            except KAFKA_FAULTS:
                return
            missing = sorted(self._types.keys() - there)
            if not missing:
                return
            await asyncio.sleep(_TOPIC_LOOK_SECONDS)
        logger.warning("Kafka has no topic %s yet; waiting for it", ", ".join(missing))

    async def _ask_lag(self) -> list[PartitionLag]:
        # What was sent before this instant is below the ends.
        asked_at = self._clock()
        answer = []
        for partition, progress in (await self._cluster.progress()).items():
            done = progress.committed
            position = progress.begin if done is None else max(done.offset, progress.begin)
            if position < progress.end and self._reader is not None:
                position = max(position, await self._reader.position_if_idle(partition))
            behind = max(0, progress.end - position)
            known = [
                self._through.get(partition),
                _time_of(done, asked_at) if behind else asked_at,
            ]
            through = max((time for time in known if time is not None), default=None)
            if through is not None:
                # The clock may have been set back: what is ahead of it isn't known any more.
                through = min(through, asked_at)
                self._through[partition] = through
            answer.append(
                PartitionLag(
                    topic=partition.topic,
                    partition=partition.partition,
                    next_offset=position,
                    end_offset=progress.end,
                    lag=behind,
                    complete_through=through,
                )
            )
        return answer


class _RecentRejections:
    """Says once a minute what was rejected, not once a message. The time, in s, is handed in."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._unreported: Counter[RejectionReason] = Counter()
        self._last: RejectedMessage | None = None
        self._next_report = 0.0

    def add(self, now: float, messages: Sequence[RejectedMessage]) -> None:
        """To be called now and then, also without messages: what waits to be said is said."""
        if messages:
            self._counts.append((now, len(messages)))
            self._unreported.update(message.reason for message in messages)
            self._last = messages[-1]
        self.count(now)
        if self._last is not None and now >= self._next_report:
            self._report(self._last)
            self._next_report = now + _MINUTE

    def count(self, now: float) -> int:
        """How many there were in the last minute."""
        while self._counts and self._counts[0][0] <= now - _MINUTE:
            self._counts.popleft()
        return sum(count for _, count in self._counts)

    def _report(self, last: RejectedMessage) -> None:
        logger.warning(
            "%d Kafka messages are no events; they are kept in rejected_events (%s), the last from"
            " %s/%d at offset %d: %s",
            self._unreported.total(),
            ", ".join(f"{reason} {count}" for reason, count in sorted(self._unreported.items())),
            last.topic,
            last.partition,
            last.offset,
            last.detail,
        )
        self._unreported.clear()
        self._last = None


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _time_of(committed: OffsetAndMetadata | None, latest: datetime) -> datetime | None:
    """The time of the last message that was committed, as its producer has it; up to `latest`."""
    if committed is None or not committed.metadata.isdecimal():
        return None
    try:
        return min(datetime.fromtimestamp(int(committed.metadata) / 1000, UTC), latest)
    except (ValueError, OverflowError, OSError):  # a producer that counts in another unit
        return None
