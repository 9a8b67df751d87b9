"""The HTTP door's way in: the body of a request becomes events, and events a receipt."""

import asyncio
import io
import re
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from itertools import islice

import msgspec

from app.core.block import Array
from app.core.errors import (
    BodyTooLargeError,
    BusyError,
    EventRejectedError,
    MalformedBodyError,
    UnexpectedBodyError,
    UserErasedError,
)
from app.ingest.decode import decode_event
from app.ingest.decode_many import Decoded, decode_events
from app.ingest.doors import Tally
from app.ingest.events import Event
from app.ingest.rate import EventRate
from app.ingest.writer import Writer
from app.schemas.events import (
    MAX_BATCH_EVENTS,
    BatchReceipt,
    EventReceipt,
    Rejection,
    RejectionReason,
)

# Bodies over this are decoded in a thread: they would hold up everyone else for milliseconds.
INLINE_BYTES = 32 * 1024

# A body of 16 MiB can take a multiple of that while it is decoded.
_LARGE_AT_ONCE = 2
# Who waits longer is refused: else, under overload, all are answered when they have given up.
_PATIENCE_SECONDS = 5.0

RawEvents = Sequence[bytes | msgspec.Raw]


class _Envelope(msgspec.Struct):
    events: list[msgspec.Raw]


_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class Intake:
    """Takes request bodies; what a receipt calls stored is stored.

    Args:
        rate: how many events each sender may send; a sender is whatever tells one from another.

    Raises:
        EventRateError: the sender has sent too many.
        WriteBufferFullError, StoreUnavailableError, StoreError: as Writer.write does.
    """

    def __init__(self, writer: Writer, clock: Callable[[], datetime], rate: EventRate) -> None:
        self.tally = Tally()
        self._rate = rate
        self._writer = writer
        self._clock = clock
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    def check(self, sender: Hashable = None) -> None:
        """Raises what is sure to be raised of whatever this sender sends now, before it is read."""
        self._rate.check(sender)
        self._writer.check_room()

    async def take_event(self, body: bytes, sender: Hashable = None) -> EventReceipt:
        """One event.

        Raises:
            MalformedBodyError: not JSON.
            EventRejectedError: JSON, but no event that can be stored.
        """
        now = self._clock()
        event = decode_event(body, now, oldest=self._writer.oldest(now))
        self._rate.take(sender, 1)
        decoded, outcomes = await self._store(Decoded.of([event]))
        rejected = decoded.rejected.get(0)
        if rejected is None:
            assert isinstance(event, Event)
            return EventReceipt(id=event.id, status="stored" if outcomes[0] else "duplicate")
        if rejected.reason is RejectionReason.NOT_JSON:
            raise MalformedBodyError("the body is not JSON in UTF-8")
        raise EventRejectedError(rejected.reason, rejected.detail, rejected.field)

    async def take_batch(
        self, body: bytes, *, lines: bool, sender: Hashable = None
    ) -> BatchReceipt:
        """Many events: a JSON array, an object with `events`, or (`lines`) NDJSON.

        Raises:
            MalformedBodyError: not JSON. A line of NDJSON that is not is a rejection instead.
            BusyError: it is large, and too many such bodies wait.
            UnexpectedBodyError: neither an array nor an object with an array `events`.
            BodyTooLargeError: too many events.
        """
        decoded = await self._decode(body, lines)
        self._rate.take(sender, len(decoded))
        decoded, outcomes = await self._store(decoded)
        stored = int(outcomes.sum())
        rejections = [
            Rejection(index=index, reason=one.reason, detail=one.detail)
            for index, one in sorted(decoded.rejected.items())
        ]
        return BatchReceipt(
            received=len(decoded),
            stored=stored,
            duplicates=len(decoded) - stored - len(rejections),
            rejected=len(rejections),
            rejections=rejections,
        )

    async def _store(self, decoded: Decoded) -> tuple[Decoded, Array]:
        """Store those that are events, and count them all.

        Returns:
            What they are, where users may have been erased; and which events were stored.
        """
        with self.tally.taking(len(decoded)):
            while True:
                decoded = self._writer.tombstones.refuse(decoded)
                try:
                    outcomes = await self._writer.write(decoded.events)
                    break
                except UserErasedError:  # while they waited: now the tombstones know
                    continue
            self.tally.settle(decoded.events, outcomes, decoded.reasons())
            return decoded, outcomes

    async def _decode(self, body: bytes, lines: bool) -> Decoded:
        now = self._clock()
        oldest = self._writer.oldest(now)
        if len(body) <= INLINE_BYTES:
            return _decode_batch(body, lines, now, oldest)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._large.acquire()
        except TimeoutError:
            raise BusyError("too many large bodies wait to be decoded; try again later") from None
        try:
            return await asyncio.to_thread(_decode_batch, body, lines, now, oldest)
        finally:
            self._large.release()


def _decode_batch(body: bytes, lines: bool, now: datetime, oldest: datetime) -> Decoded:
    raw_events = split_lines(body) if lines else split_json(body)
    if len(raw_events) > MAX_BATCH_EVENTS:
        raise BodyTooLargeError(f"a batch holds at most {MAX_BATCH_EVENTS} events")
    return decode_events(list(map(bytes, raw_events)), now, oldest=oldest)


def split_lines(body: bytes) -> RawEvents:
    """The lines of NDJSON; empty ones are none. Of too many, one more than a batch may have."""
    lines = (line for line in io.BytesIO(body) if not line.isspace())
    return list(islice(lines, MAX_BATCH_EVENTS + 1))


def split_json(body: bytes) -> RawEvents:
    """The elements of a JSON array, or of the array `events` of an object, each as its bytes.

    An element may still be no JSON by what is in its strings; that is found when it is decoded.
    """
    try:
        return _split(body)
    except RecursionError:
        raise _malformed() from None
    except msgspec.DecodeError:
        # msgspec gives up on the whole text where half of a surrogate pair is escaped, as programs
        # do that cut a text in the middle of an emoji. A byte that is not UTF-8 spoils only the
        # element that it is in.
        try:
            return _split(_without_lone_surrogates(body))
        except (msgspec.DecodeError, RecursionError):
            raise _malformed() from None


def _split(body: bytes) -> RawEvents:
    try:
        if body.lstrip(b" \t\r\n").startswith(b"{"):
            return _decode_envelope(body).events
        return _decode_array(body)
    except msgspec.ValidationError:
        # It may be no JSON further on, or too deep: this raises then.
        msgspec.json.decode(body, type=msgspec.Raw)
        raise UnexpectedBodyError(
            "the body must be an array of events, or an object with an array `events`"
        ) from None


_SURROGATE = re.compile(rb"(\\+)u[dD](?:([89abAB])|[c-fC-F])[0-9a-fA-F]{2}")
_LOW_SURROGATE = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_ESCAPE_BYTES = 6


def _without_lone_surrogates(body: bytes) -> bytes:
    """Escaped halves of surrogate pairs made bytes that are not UTF-8, in as many bytes."""
    spoiled = bytearray(body)
    end_of_pair = -1
    for found in _SURROGATE.finditer(body):
        begin = found.end() - _ESCAPE_BYTES
        if len(found[1]) % 2 == 0 or begin < end_of_pair:
            continue  # the backslash itself is escaped; or it is the other half
        if found[2] and _LOW_SURROGATE.match(body, found.end()):
            end_of_pair = found.end() + _ESCAPE_BYTES
        else:
            spoiled[begin : begin + _ESCAPE_BYTES] = b"\xff" * _ESCAPE_BYTES
    return bytes(spoiled)


def _malformed() -> MalformedBodyError:
    return MalformedBodyError("the body is not JSON in UTF-8")
