"""The Kafka door: poll, decode, write, and only then commit the offsets."""

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from app.core.errors import AnalyticsError
from app.ingest.decode import Event, Rejected, decode_event
from app.ingest.doors import Tally, reasons
from app.ingest.rejections import RejectedEvents, RejectedMessage
from app.ingest.writer import Writer
from app.kafka_consumer.cluster import KAFKA_FAULTS, Cluster
from app.schemas.events import EventType, RejectionReason
from app.schemas.ingestion import KafkaState, PartitionLag

logger = logging.getLogger(__name__)

TYPE_OF_TOPIC = {
    "stream.start": EventType.START,
    "stream.progress": EventType.PROGRESS,
    "stream.stop": EventType.FINISH,
}

_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 5.0
# A consumer of which nothing was heard for so long is given up, and another one is made: after a
# restart of the brokers aiokafka's may wait for ever.
_STALLED_SECONDS = 30.0
# In all, a stop takes less than 10 seconds: to finish the batch, and to leave the group.
_FINISH_SECONDS = 5.0
_LEAVE_SECONDS = 3.0
# How often to look for topics that are being made: making one takes some tenths of a second.
_TOPIC_LOOKS = 10
_TOPIC_LOOK_SECONDS = 0.1
# How soon a new topic, and a new partition of one, is found.
_METADATA_SECONDS = 10
_POLLED_MESSAGES = 1_000
_ASK_SECONDS = 1.9
# How long to wait for a message before looking at what else there is.
_IDLE_SECONDS = 0.5
_MINUTE = 60.0

_NO_VALUE = Rejected(RejectionReason.NOT_JSON, "the message has no value (a tombstone)")


class _KeptBefore(Rejected):
    """A message that was rejected and kept when it was delivered before."""


@dataclass(slots=True)
class _Batch:
    """Messages in the order in which they came, each with what it was decoded to.

    Attributes:
        assignment: the number of the assignment in which they were batch.
        firsts, nexts: for each partition, the offset of its first message, and what to commit.
    """

    assignment: int
    messages: list[ConsumerRecord] = field(default_factory=list)
    decoded: Sequence[Event | Rejected] = ()
    firsts: dict[TopicPartition, int] = field(default_factory=dict)
    nexts: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)

    def add(self, found: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        for partition, messages in found.items():
            last = messages[-1]
            self.messages += messages
            self.firsts.setdefault(partition, messages[0].offset)
            # The time goes along, for whoever asks how far the group is.
            self.nexts[partition] = OffsetAndMetadata(last.offset + 1, str(last.timestamp))


class KafkaConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # has no types
    """Takes in the messages of the three topics, each once, whatever is killed.

    Offsets are committed when the events are stored and the messages that are no events are kept.
    Whatever fails before is delivered again, and what is there already is a repeat then. One batch
    is read and decoded while the one before is written.

    It lives as long as the service and never gives up: without brokers, or without the store, it
    tries again with growing pauses. What waits in memory meanwhile is at most two batches and what
    aiokafka has fetched ahead.
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
        self._cluster = Cluster(
            settings.kafka_bootstrap_servers, settings.kafka_consumer_group, list(self._types)
        )
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._stopping = False
        self._failing = False
        # Held while a batch is written and committed; a revocation waits for it.
        self._taking = asyncio.Lock()
        self._assignment = 0
        self._turn = 0
        # Whether all that was read is committed.
        self._idle = False
        # Of each partition that is read, the messages that were rejected, kept and not committed.
        self._kept: dict[TopicPartition, dict[int, RejectionReason]] = {}
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
        return "unreachable" if self._failing else "enabled"

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

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What was read of them is dropped, but the batch that is being written is finished."""
        logger.debug("no longer reading from Kafka: %s", revoked)
        self._assignment += 1
        async with self._taking:
            self._kept.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(assigned))
        logger.info("reading from Kafka: %s", names or "nothing; other members of the group do")

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            began = _monotonic()
            try:
                await self._read_until_it_fails()
            except KAFKA_FAULTS as error:
                logger.warning(
                    "Kafka at %s: %s; trying again",
                    self._settings.kafka_bootstrap_servers,
                    str(error) or type(error).__name__,
                )
            except Exception:
                logger.exception("the Kafka consumer failed; trying again")
            self._failing = True
            if _monotonic() - began > _STALLED_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)

    async def _read_until_it_fails(self) -> None:
        session = self._settings.kafka_session_timeout_ms
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap_servers,
            group_id=self._settings.kafka_consumer_group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=session,
            heartbeat_interval_ms=session // 3,
            # Joining the group may take as long as the session of a member that has died.
            request_timeout_ms=session + 5_000,
            metadata_max_age_ms=_METADATA_SECONDS * 1000,
            retry_backoff_ms=500,
        )
        try:
            await consumer.start()
            await self._make_topics()
            # Not before the start, which would wait until all topics are there.
            consumer.subscribe(list(self._types), listener=self)
            self._consumer = consumer
            await self._read(consumer)
        finally:
            self._consumer = None
            self._assignment += 1
            self._forget()
            # Another must not be made before this one has left: they would share the partitions.
            self._leaving = asyncio.create_task(_leave(consumer))
            if not self._stopping:
                await asyncio.wait([self._leaving], timeout=2 * _STALLED_SECONDS)

    async def _make_topics(self) -> None:
        """Have the topics made, where the brokers do so; those they don't make are waited for."""
        for _ in range(_TOPIC_LOOKS):
            there = {partition.topic for partition in await self._cluster.partitions()}
            missing = sorted(self._types.keys() - there)
            if not missing:
                return
            await asyncio.sleep(_TOPIC_LOOK_SECONDS)
        logger.warning("Kafka has no topic %s yet; waiting for it", ", ".join(missing))

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Read batches for ever, each while the one before is written."""
        backoff = _FIRST_BACKOFF_SECONDS
        last_came = _monotonic()
        written: _Batch | None = None
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                batch = await self._next_batch(consumer)
                if writing is not None and written is not None:
                    try:
                        # A stop doesn't cancel it.
                        await asyncio.shield(writing)
                    except AnalyticsError as error:
                        writing = None
                        logger.warning("the store: %s; trying again", error)
                        self._read_again(consumer, written, batch)
                        await asyncio.sleep(backoff)
                        backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
                        continue
                    writing = None
                    backoff = _FIRST_BACKOFF_SECONDS
                self._idle = batch is None
                if batch is not None:
                    last_came = _monotonic()
                    written = batch
                    writing = asyncio.create_task(self._take(consumer, batch))
                elif _monotonic() - last_came > _STALLED_SECONDS:
                    last_came = _monotonic()
                    await self._check_for_stall(consumer)
        finally:
            if writing is not None:
                await _finish(writing)

    async def _next_batch(self, consumer: AIOKafkaConsumer) -> _Batch | None:
        """What comes until it is enough, or its first is old enough; None if nothing comes."""
        enough = self._settings.kafka_batch_events
        age = self._settings.kafka_batch_age_ms / 1000
        batch = _Batch(self._assignment)
        wait, closes = _IDLE_SECONDS, math.inf
        while wait > 0 and len(batch.messages) < enough:
            found = await self._poll(consumer, wait, enough - len(batch.messages))
            if batch.assignment != self._assignment:
                # What was found is of the new assignment. What was before is read again, by
                # whoever it is assigned to.
                batch = _Batch(self._assignment)
            batch.add(found)
            if not batch.messages:
                break
            closes = min(closes, _monotonic() + age)
            wait = closes - _monotonic()
        self._rejections.report(_monotonic())
        if not batch.messages:
            return None
        batch.decoded = await asyncio.to_thread(self._decode, batch.messages, self._clock())
        return batch

    async def _poll(
        self, consumer: AIOKafkaConsumer, seconds: float, most: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What has come, waiting for so many seconds; longer while partitions are reassigned."""
        # aiokafka takes what it has fetched apart without a pause: others want to run too.
        await asyncio.sleep(0)
        most = min(most, _POLLED_MESSAGES)
        try:
            async with asyncio.timeout(_STALLED_SECONDS):
                found = await self._poll_in_turn(consumer, most)
                if not found:
                    wait = int(1000 * seconds)
                    found = await consumer.getmany(timeout_ms=wait, max_records=most)
        except TimeoutError:
            raise KafkaError(f"no partitions were assigned in {_STALLED_SECONDS:.0f} s") from None
        self._failing = False
        self._idle = self._idle and not found
        return found

    async def _poll_in_turn(
        self, consumer: AIOKafkaConsumer, most: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What is there of one partition, each in its turn: a flood in one holds up no other."""
        partitions = sorted(consumer.assignment())
        for _ in partitions:
            self._turn += 1
            partition = partitions[self._turn % len(partitions)]
            found: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(
                partition, max_records=most
            )
            if found or partitions != sorted(consumer.assignment()):
                return found
        return {}

    def _decode(self, messages: Sequence[ConsumerRecord], now: datetime) -> list[Event | Rejected]:
        return [
            _NO_VALUE
            if message.value is None
            else decode_event(message.value, now, self._types[message.topic])
            for message in messages
        ]

    async def _take(self, consumer: AIOKafkaConsumer, batch: _Batch) -> None:
        """Keep the messages that are no events, store the others, count them, commit.

        Raises:
            StoreUnavailableError, StoreError: the batch has to be read again.
            KafkaError, TimeoutError: it is stored, but not committed.
        """
        async with self._taking:
            if batch.assignment != self._assignment:
                return  # it is read again, here or by another member
            with self.tally.taking(len(batch.messages)):
                decoded = await self._keep_rejected(batch)
                events = [one for one in decoded if isinstance(one, Event)]
                outcomes = await self._writer.write(events, limited=False)
                self.tally.settle(events, outcomes, reasons(decoded))
            async with asyncio.timeout(_STALLED_SECONDS):
                await consumer.commit(batch.nexts)
            for partition in batch.nexts:
                self._kept[partition].clear()

    async def _keep_rejected(self, batch: _Batch) -> list[Event | Rejected]:
        """Keep the messages that are no events, unless they were kept before.

        Returns:
            What each message is. One that was rejected stays so, though it may be an event by now:
            it is no longer in the future, say.
        """
        for partition, first in batch.firsts.items():
            if partition not in self._kept:
                self._kept[partition] = await self._rejected.kept_since(
                    partition.topic, partition.partition, first
                )
        decoded = list(batch.decoded)
        if any(self._kept[partition] for partition in batch.firsts):
            for place, message in enumerate(batch.messages):
                kept = self._kept[TopicPartition(message.topic, message.partition)]
                if message.offset in kept:
                    decoded[place] = _KeptBefore(kept[message.offset], "kept before")
        rejected = [
            RejectedMessage(
                message.topic,
                message.partition,
                message.offset,
                one.reason,
                one.detail,
                message.value or b"",
            )
            for message, one in zip(batch.messages, decoded, strict=True)
            if isinstance(one, Rejected) and not isinstance(one, _KeptBefore)
        ]
        await self._rejected.keep(rejected, self._clock())
        self._rejections.add(_monotonic(), rejected)
        return decoded

    def _read_again(self, consumer: AIOKafkaConsumer, *batches: _Batch | None) -> None:
        """Go back to the first messages of batches, the earliest of which is given first."""
        self._forget()
        for batch in reversed(batches):
            if batch is not None and batch.assignment == self._assignment:
                for partition, offset in batch.firsts.items():
                    consumer.seek(partition, offset)

    def _forget(self) -> None:
        """Nothing is known of what was read and not committed."""
        self._kept.clear()
        self._idle = False

    async def _check_for_stall(self, consumer: AIOKafkaConsumer) -> None:
        """Raises KafkaError when there are messages for this consumer, which it doesn't get."""
        mine = consumer.assignment()
        waiting = [one for one in await self._ask_lag() if one.lag]
        if any(TopicPartition(one.topic, one.partition) in mine for one in waiting):
            raise KafkaError(f"messages wait, and none came in {_STALLED_SECONDS:.0f} s")

    async def _ask_lag(self) -> list[PartitionLag]:
        # What was sent before this instant is below the ends.
        asked_at = self._clock()
        answer = []
        for partition, progress in (await self._cluster.progress()).items():
            done = progress.committed
            position = progress.begin if done is None else max(done.offset, progress.begin)
            if position < progress.end:
                position = max(position, await self._position_if_idle(partition))
            behind = max(0, progress.end - position)
            known = [self._through.get(partition), _time_of(done) if behind else asked_at]
            through = max((time for time in known if time is not None), default=None)
            if through is not None:
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

    async def _position_if_idle(self, partition: TopicPartition) -> int:
        """Up to where this consumer has read, if all that it has read is committed; else 0.

        It is past what was committed where no messages follow, but the marks of a transaction.
        """
        consumer = self._consumer
        if consumer is None or partition not in consumer.assignment():
            return 0
        position: int = await consumer.position(partition)
        return position if self._idle else 0


class _RecentRejections:
    """Says once a minute what was rejected, not once a message. The time, in s, is handed in."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._unreported: Counter[RejectionReason] = Counter()
        self._example: RejectedMessage | None = None
        self._next_report = 0.0

    def add(self, now: float, messages: Sequence[RejectedMessage]) -> None:
        if messages:
            self._counts.append((now, len(messages)))
            self._unreported.update(message.reason for message in messages)
            self._example = messages[-1]

    def count(self, now: float) -> int:
        """How many there were in the last minute."""
        while self._counts and self._counts[0][0] <= now - _MINUTE:
            self._counts.popleft()
        return sum(count for _, count in self._counts)

    def report(self, now: float) -> None:
        if self._example is None or now < self._next_report:
            return
        logger.warning(
            "%d Kafka messages are no events; they are kept in rejected_events (%s), the last from"
            " %s/%d at offset %d: %s",
            self._unreported.total(),
            ", ".join(f"{reason} {count}" for reason, count in sorted(self._unreported.items())),
            self._example.topic,
            self._example.partition,
            self._example.offset,
            self._example.detail,
        )
        self._unreported.clear()
        self._example = None
        self._next_report = now + _MINUTE


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _time_of(committed: OffsetAndMetadata | None) -> datetime | None:
    """The time of the last message that was committed."""
    if committed is None or not committed.metadata.isdecimal():
        return None
    return datetime.fromtimestamp(int(committed.metadata) / 1000, UTC)


async def _finish(writing: asyncio.Task[None]) -> None:
    """Wait for a batch, but not for ever: what is not committed is delivered again."""
    done, _ = await asyncio.wait([writing], timeout=_FINISH_SECONDS)
    if not done:
        writing.cancel()
        logger.warning("the last batch is not committed; it will be read again")
    elif not writing.cancelled() and (error := writing.exception()):
        logger.warning("the last batch is not committed; it will be read again: %s", error)


async def _leave(consumer: AIOKafkaConsumer) -> None:
    try:
        await consumer.stop()
    except KAFKA_FAULTS as error:
        logger.debug("the group was not left: %r", error)
