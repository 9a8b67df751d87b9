"""Reads the topics through one aiokafka consumer, from when it joins the group until it fails."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from app.core.config import Settings
from app.core.errors import AnalyticsError
from app.ingest.decode import Rejected
from app.ingest.decode_many import Decoded, decode_events
from app.ingest.doors import Tally
from app.ingest.rejections import RejectedEvents, RejectedMessage
from app.ingest.writer import Writer
from app.kafka_consumer.cluster import KAFKA_FAULTS
from app.schemas.events import EventType, RejectionReason

logger = logging.getLogger(__name__)

# A consumer of which nothing was heard for so long is given up: after a restart of the brokers
# aiokafka's may wait for ever.
STALLED_SECONDS = 30.0

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 5.0

# How long a stop waits for the batch that is being written.
_FINISH_SECONDS = 5.0
# How soon a new topic, and a new partition of one, is found.
_METADATA_SECONDS = 10
# How long to wait for a message before looking at what else there is.
_IDLE_SECONDS = 0.5
# As many as are taken out of what was fetched without letting others run.
_POLLED_MESSAGES = 1_000
# Of a partition in one go: with aiokafka's default of 1 MiB a message costs half as much again.
_FETCHED_BYTES = 4 * 1024 * 1024
# Messages may be large, and a batch is in memory.
_BATCH_BYTES = 32 * 1024 * 1024

_NO_VALUE = Rejected(RejectionReason.NOT_JSON, "the message has no value (a tombstone)")
_UNREADABLE = Rejected(
    RejectionReason.NOT_JSON, "the client can't read the message: a header's name is not UTF-8"
)


class _KeptBefore(Rejected):
    """A message that was rejected and kept when it was delivered before."""


@dataclass(frozen=True, slots=True)
class _UnreadableMessage:
    """Stands for a message that aiokafka can't take apart: where it is, is all that is known."""

    topic: str
    partition: int
    offset: int
    timestamp: int = -1
    value: bytes | None = None


@dataclass(slots=True)
class _Batch:
    """Messages in the order in which they came, and what they are, once that is known.

    Attributes:
        assignment: the number of the assignment in which they were read.
        firsts, nexts: for each partition, the offset of its first message, and what to commit.
        size: bytes of their values.
    """

    assignment: int
    messages: list[ConsumerRecord] = field(default_factory=list)
    decoded: Decoded = field(default_factory=lambda: Decoded.of([]))
    firsts: dict[TopicPartition, int] = field(default_factory=dict)
    nexts: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    size: int = 0

    def add(self, found: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        for partition, messages in found.items():
            last = messages[-1]
            self.messages += messages
            self.firsts.setdefault(partition, messages[0].offset)
            # The time goes along, for whoever asks how far the group is.
            self.nexts[partition] = OffsetAndMetadata(last.offset + 1, str(last.timestamp))
            self.size += sum(len(message.value or b"") for message in messages)


class Reader(ConsumerRebalanceListener):  # type: ignore[misc]  # has no types
    """Takes in messages, a batch while the next is read and decoded; made anew after a failure.

    What is in memory is at most two batches and what aiokafka has fetched ahead.

    Args:
        connection: what a client of the brokers is made with.
        types: what kind of event the messages of each topic are.
        on_rejected: told of the messages that were kept as rejected, and every so often of none.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Mapping[str, Any],
        types: Mapping[str, EventType],
        writer: Writer,
        rejected: RejectedEvents,
        tally: Tally,
        clock: Callable[[], datetime],
        on_rejected: Callable[[Sequence[RejectedMessage]], None],
    ) -> None:
        self.answered = False
        """Whether the brokers have let it read."""
        self._enough = settings.kafka_batch_events
        self._age = settings.kafka_batch_age_ms / 1000
        self._types = types
        self._writer = writer
        self._rejected = rejected
        self._tally = tally
        self._clock = clock
        self._on_rejected = on_rejected
        session = settings.kafka_session_timeout_ms
        self._consumer = AIOKafkaConsumer(
            **connection,
            group_id=settings.kafka_consumer_group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=session,
            heartbeat_interval_ms=session // 3,
            # Joining the group may take as long as the session of a member that has died.
            request_timeout_ms=session + 5_000,
            metadata_max_age_ms=_METADATA_SECONDS * 1000,
            max_partition_fetch_bytes=_FETCHED_BYTES,
            retry_backoff_ms=500,
        )
        # Held while a batch is written and committed; a revocation waits for it.
        self._taking = asyncio.Lock()
        self._assignment = 0
        self._turn = 0
        # Whether all that was read is committed.
        self._idle = False
        # Of each partition, the last message that was kept as rejected before it was first read.
        self._last_kept: dict[TopicPartition, int] = {}

    async def connect(self) -> None:
        await self._consumer.start()

    async def leave(self) -> None:
        """Leave the group, and let go of the brokers. A stop of aiokafka's may fail half-way."""
        try:
            with suppress(*KAFKA_FAULTS):
                await self._consumer.stop()
        finally:
            await self._consumer._client.close()

    async def read(self) -> None:
        """Read for ever. When it is cancelled, the batch that is being written is finished.

        Raises:
            KafkaError, OSError, TimeoutError: another reader has to go on from what is committed.
        """
        # Not before, for the start would wait until all topics are there.
        self._consumer.subscribe(list(self._types), listener=self)
        backoff = FIRST_BACKOFF_SECONDS
        last_came = _monotonic()
        written: _Batch | None = None
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                batch = await self._next_batch()
                if writing is not None and written is not None:
                    try:
                        await asyncio.shield(writing)
                    except AnalyticsError as error:
                        writing = None
                        logger.warning("the store: %s; trying again", error)
                        self._read_again(written, batch)
                        await asyncio.sleep(backoff)
                        backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
                        continue
                    writing = None
                    backoff = FIRST_BACKOFF_SECONDS
                self._idle = batch is None
                if batch is not None:
                    last_came = _monotonic()
                    written = batch
                    writing = asyncio.create_task(self._take(batch))
                elif _monotonic() - last_came > STALLED_SECONDS:
                    last_came = _monotonic()
                    await self._check_for_stall()
        finally:
            if writing is not None:
                await _finish(writing)

    async def position_if_idle(self, partition: TopicPartition) -> int:
        """Up to where it has read, if all that it has read is committed; else 0.

        It is past what was committed where no messages follow, but the marks of a transaction.
        """
        if partition not in self._consumer.assignment():
            return 0
        position: int = await self._consumer.position(partition)
        return position if self._idle else 0

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What was read of them is dropped, but the batch that is being written is finished."""
        logger.debug("no longer reading from Kafka: %s", revoked)
        self._assignment += 1
        async with self._taking:
            self._last_kept.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(assigned))
        logger.info("reading from Kafka: %s", names or "nothing; other members of the group do")

    async def _next_batch(self) -> _Batch | None:
        """What comes until it is enough, or its first is old enough; None if nothing comes.

        What is waiting already is taken until it is enough.
        """
        batch = _Batch(self._assignment)
        wait, closes = _IDLE_SECONDS, math.inf
        while len(batch.messages) < self._enough and batch.size < _BATCH_BYTES:
            most = min(self._enough - len(batch.messages), _POLLED_MESSAGES)
            found = await self._poll(wait, most)
            if batch.assignment != self._assignment:
                # What was found is of the new assignment. What was before is read again, by
                # whoever it is assigned to.
                batch = _Batch(self._assignment)
            batch.add(found)
            if not batch.messages:
                break
            closes = min(closes, _monotonic() + self._age)
            wait = max(0.0, closes - _monotonic())
            # Where more than was asked for is waiting, a small batch would only mean more of them.
            if wait == 0 and sum(map(len, found.values())) < most:
                break
        self._on_rejected(())
        if not batch.messages:
            return None
        batch.decoded = await asyncio.to_thread(self._decode, batch.messages, self._clock())
        return batch

    async def _poll(self, seconds: float, most: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What has come, waiting for so many seconds; longer while partitions are reassigned."""
        # aiokafka takes what it has fetched apart without a pause: others want to run too.
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                found = await self._poll_in_turn(most)
                if not found:
                    found = await self._wait_for_one(seconds)
        except TimeoutError:
            raise KafkaError(f"no partitions were assigned in {STALLED_SECONDS:.0f} s") from None
        self.answered = True
        self._idle = self._idle and not found
        return found

    async def _poll_in_turn(self, most: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What is there of one partition, each in its turn: a flood in one holds up no other."""
        partitions = sorted(self._consumer.assignment())
        for _ in partitions:
            self._turn += 1
            partition = partitions[self._turn % len(partitions)]
            found: dict[TopicPartition, list[ConsumerRecord]]
            try:
                found = await self._consumer.getmany(partition, max_records=most)
            except UnicodeDecodeError:
                found = await self._poll_one_by_one(partition, most)
            if found or partitions != sorted(self._consumer.assignment()):
                return found
        return {}

    async def _wait_for_one(self, seconds: float) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The first message to come: of more, those before one that can't be read would be lost."""
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        with suppress(UnicodeDecodeError):  # it is fetched again, for the next turn
            found = await self._consumer.getmany(timeout_ms=int(1000 * seconds), max_records=1)
        return found

    async def _poll_one_by_one(
        self, partition: TopicPartition, most: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The messages up to and with one that aiokafka can't read, which is passed over.

        It raises for all that it has taken out together, and forgets those before the culprit.
        """
        messages: list[ConsumerRecord] = []
        self._consumer.seek(partition, await self._consumer.position(partition))
        while len(messages) < most:
            try:
                found = await self._consumer.getmany(
                    partition, timeout_ms=int(1000 * _IDLE_SECONDS), max_records=1
                )
            except UnicodeDecodeError:
                offset = await self._consumer.position(partition)
                self._consumer.seek(partition, offset + 1)
                messages.append(_UnreadableMessage(partition.topic, partition.partition, offset))
                break
            if not found:
                break
            messages += found[partition]
        return {partition: messages} if messages else {}

    def _decode(
        self, messages: Sequence[ConsumerRecord | _UnreadableMessage], now: datetime
    ) -> Decoded:
        decoded = decode_events(
            [message.value or b"" for message in messages],
            now,
            [self._types[message.topic] for message in messages],
            self._writer.oldest(now),
        )
        without_value = {
            place: _UNREADABLE if isinstance(message, _UnreadableMessage) else _NO_VALUE
            for place, message in enumerate(messages)
            if message.value is None
        }
        return decoded.without(without_value) if without_value else decoded

    async def _take(self, batch: _Batch) -> None:
        """Keep the messages that are no events, store the others, count them, commit.

        Raises:
            StoreUnavailableError, StoreError: the batch has to be read again.
            KafkaError, TimeoutError: it is stored, but not committed.
        """
        async with self._taking:
            if batch.assignment != self._assignment:
                return  # it is read again, here or by another member
            with self._tally.taking(len(batch.messages)):
                decoded = await self._keep_rejected(batch)
                outcomes = await self._writer.write(decoded.events, limited=False)
                self._tally.settle(decoded.events, outcomes, decoded.reasons())
            async with asyncio.timeout(STALLED_SECONDS):
                await self._consumer.commit(batch.nexts)

    async def _keep_rejected(self, batch: _Batch) -> Decoded:
        """Keep the messages that are no events, unless they were kept before.

        Returns:
            What the messages are. One that was rejected stays so, though it may be an event by now:
            it is no longer in the future, say.
        """
        tombstones = self._writer.tombstones
        await tombstones.refresh()
        decoded = tombstones.refuse(await self._with_kept(batch))
        rejected = [
            RejectedMessage(
                message.topic,
                message.partition,
                message.offset,
                one.reason,
                one.detail,
                self._without_erased(message.value or b""),
            )
            for place, one in sorted(decoded.rejected.items())
            if not isinstance(one, _KeptBefore)
            for message in [batch.messages[place]]
        ]
        await self._rejected.keep(rejected, self._clock())
        self._on_rejected(rejected)
        return decoded

    def _without_erased(self, payload: bytes) -> bytes:
        """Nothing of a message in which the id of an erased user is."""
        return b"" if self._writer.tombstones.are_in(payload) else payload

    async def _with_kept(self, batch: _Batch) -> Decoded:
        """What the messages were decoded to, or else that they were kept before."""
        kept: dict[TopicPartition, Mapping[int, RejectedMessage]] = {}
        for partition, first in batch.firsts.items():
            if partition not in self._last_kept:
                self._last_kept[partition] = await self._rejected.last_kept(
                    partition.topic, partition.partition
                )
            if first <= self._last_kept[partition]:
                kept[partition] = await self._rejected.kept(
                    partition.topic, partition.partition, first, batch.nexts[partition].offset - 1
                )
        if not any(kept.values()):
            return batch.decoded
        before: dict[int, Rejected] = {}
        for place, message in enumerate(batch.messages):
            one = kept.get(TopicPartition(message.topic, message.partition), {}).get(message.offset)
            # The same offset is another message where a topic was removed and made again.
            if one is not None and one.payload == self._without_erased(message.value or b""):
                before[place] = _KeptBefore(one.reason, one.detail)
        return batch.decoded.without(before)

    def _read_again(self, *batches: _Batch | None) -> None:
        """Go back to the first messages of batches, the earliest of which is given first."""
        self._last_kept.clear()
        self._idle = False
        for batch in reversed(batches):
            if batch is not None and batch.assignment == self._assignment:
                for partition, offset in batch.firsts.items():
                    self._consumer.seek(partition, offset)

    async def _check_for_stall(self) -> None:
        """Raises KafkaError when there are messages for this consumer, which it doesn't get."""
        mine = sorted(self._consumer.assignment())
        async with asyncio.timeout(STALLED_SECONDS):
            ends = await self._consumer.end_offsets(mine)
            for partition in mine:
                if await self._consumer.position(partition) < ends[partition]:
                    raise KafkaError(f"messages wait, and none came in {STALLED_SECONDS:.0f} s")


async def _finish(writing: asyncio.Task[None]) -> None:
    """Wait for a batch, but not for ever: what is not committed is delivered again."""
    done, _ = await asyncio.wait([writing], timeout=_FINISH_SECONDS)
    if not done:
        writing.cancel()
        logger.warning("the last batch is not committed; it will be read again")
    elif not writing.cancelled() and (error := writing.exception()):
        logger.warning("the last batch is not committed; it will be read again: %s", error)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
