"""Events on their way into the store: one by one, and as columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
import numpy as np

from app.core.block import Array, Block, Column
from app.schemas.events import EventType

# As in viewing_events.
TYPE_CODES = {EventType.START: 1, EventType.PROGRESS: 2, EventType.FINISH: 3}

UUID_BYTES = 16

ROW = np.dtype(
    [
        ("id", "u1", UUID_BYTES),
        ("user_id", "u1", UUID_BYTES),
        ("movie_id", "u1", UUID_BYTES),
        ("event_type", "i1"),
        ("event_time", "<u4"),
        ("position_seconds", "<u4"),
        ("session_id", "u1", UUID_BYTES),
        ("in_session", "?"),
        ("repeats_any_of_day", "?"),
    ]
)
"""An event but for its metadata. Ids are UUIDs in the order of `UUID.bytes`."""

_KEY = np.dtype([("id", "u1", UUID_BYTES), ("event_time", "<u4")])

_NIL = bytes(UUID_BYTES)


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored.

    Attributes:
        event_time: whole seconds since 1970-01-01 UTC.
        metadata: JSON text of an object.
        repeats_any_of_day: it came with an id but no time of its own, and so repeats whatever has
            that id in the 24 hours before it.
    """

    id: UUID
    user_id: UUID
    movie_id: UUID
    event_type: EventType
    event_time: int
    position_seconds: int
    session_id: UUID | None
    metadata: str
    repeats_any_of_day: bool


@dataclass(frozen=True, slots=True)
class Events:
    """Many events, as columns.

    Attributes:
        rows: of type ROW, an element an event.
        metadata: of each, JSON text of an object.
    """

    rows: Array
    metadata: list[bytes]

    def __len__(self) -> int:
        return len(self.metadata)

    @staticmethod
    def of(events: Iterable[Event]) -> "Events":
        listed = list(events)
        rows = np.array([_row(event) for event in listed], ROW)
        return Events(rows, [event.metadata.encode() for event in listed])

    @staticmethod
    def joined(parts: Sequence["Events"]) -> "Events":
        """All of them, in their order."""
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate([part.rows for part in parts])
        return Events(rows, [text for part in parts for text in part.metadata])

    def those(self, wanted: Array) -> "Events":
        """The events of which the array of bool says so."""
        if wanted.all():
            return self
        kept = [text for text, is_wanted in zip(self.metadata, wanted, strict=True) if is_wanted]
        return Events(self.rows[wanted], kept)

    def at(self, places: Array) -> "Events":
        """The events at these places, in this order."""
        return Events(self.rows[places], [self.metadata[place] for place in places])

    def keys(self) -> list[bytes]:
        """Of each event its id and time: events with equal ones are the same event."""
        keys = np.empty(len(self), _KEY)
        keys["id"], keys["event_time"] = self.rows["id"], self.rows["event_time"]
        whole: list[bytes] = keys.view(f"V{_KEY.itemsize}").tolist()
        return whole

    def block(self, batch_id: int) -> Block:
        """The columns of viewing_events, all of one batch."""
        rows = self.rows
        return {
            "id": Column("UUID", rows["id"]),
            "user_id": Column("UUID", rows["user_id"]),
            "movie_id": Column("UUID", rows["movie_id"]),
            "event_type": Column("Int8", rows["event_type"]),
            "event_time": Column("UInt32", rows["event_time"]),
            "position_seconds": Column("UInt32", rows["position_seconds"]),
            "session_id": Column("UUID", rows["session_id"], filled=rows["in_session"]),
            "metadata": Column("String", self.metadata),
            "batch_id": Column("UInt64", np.full(len(self), batch_id, np.uint64)),
        }


def key_of(event_id: UUID, event_time: int) -> bytes:
    """As in `Events.keys`."""
    return event_id.bytes + event_time.to_bytes(4, "little")


def _row(event: Event) -> tuple[object, ...]:
    in_session = event.session_id is not None
    return (
        _bytes(event.id),
        _bytes(event.user_id),
        _bytes(event.movie_id),
        TYPE_CODES[event.event_type],
        event.event_time,
        event.position_seconds,
        _bytes(event.session_id),
        in_session,
        event.repeats_any_of_day,
    )


def _bytes(value: UUID | None) -> Array:
    return np.frombuffer(_NIL if value is None else value.bytes, np.uint8)
