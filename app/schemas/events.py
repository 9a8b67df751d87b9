"""Viewing events and their receipts, as they go over the wire."""

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, Field

MAX_POSITION_SECONDS = 4_294_967_295
MAX_METADATA_BYTES = 16 * 1024
MAX_BATCH_EVENTS = 10_000
MAX_BODY_BYTES = 16 * 1024 * 1024

EVENT = "7d3a8f52-6c1e-5b0d-9f4a-2e8b1c6d5a90"

_Position = msgspec.Meta(ge=0, le=MAX_POSITION_SECONDS)


def _described(text: str, example: object, **schema: object) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra_json_schema={"examples": [example], **schema})


class EventType(StrEnum):
    START = "start"
    PROGRESS = "progress"
    FINISH = "finish"


class Action(StrEnum):
    """The same in the words of the Kafka message."""

    START = "stream_start"
    PROGRESS = "stream_progress"
    STOP = "stream_stop"

    @property
    def event_type(self) -> EventType:
        return _TYPE_OF_ACTION[self]


_TYPE_OF_ACTION = {
    Action.START: EventType.START,
    Action.PROGRESS: EventType.PROGRESS,
    Action.STOP: EventType.FINISH,
}


class ViewingEvent(msgspec.Struct, frozen=True, gc=False):
    """One viewing event as a producer sends it. Unknown fields are ignored."""

    user_id: Annotated[UUID, _described("Who watches.", "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4")]
    movie_id: Annotated[UUID, _described("What.", "5a4f8cde-3f0b-5a0e-9a4c-8d1f0f1f6b7e")]
    event_type: (
        Annotated[EventType, _described("This or `action` is required.", "progress")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    action: (
        Annotated[
            Action,
            _described("`event_type` in other words; both must agree.", "stream_progress"),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    timestamp: (
        Annotated[
            str,
            _described(
                "RFC 3339, UTC unless it has an offset; default now. At most 5 minutes ahead and "
                "365 days old. Stored to the second.",
                "2026-01-20T21:14:05Z",
                format="date-time",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    position_seconds: Annotated[
        Annotated[int, _Position] | Annotated[float, _Position],
        _described("Where in the film. Fractions are cut off.", 1260),
    ] = 0
    session_id: Annotated[
        UUID | None,
        _described("The sitting it belongs to.", "c2f0e6a4-9d3b-4b7e-8a15-6f0d2c9b7e31"),
    ] = None
    metadata: (
        Annotated[
            msgspec.Raw,
            _described(
                "Anything else, kept as JSON text; at most 16 KiB of it.",
                {"device": "tv"},
                type="object",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    event_id: (
        Annotated[
            UUID,
            _described("Your idempotency key; default: derived from the fields above.", EVENT),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class RejectionReason(StrEnum):
    """Why an event was not taken, by HTTP or by Kafka."""

    NOT_JSON = "not_json"
    INVALID_FIELD = "invalid_field"
    TYPE_MISMATCH = "type_mismatch"
    IN_FUTURE = "in_future"
    TOO_OLD = "too_old"
    METADATA_TOO_LARGE = "metadata_too_large"
    ERASED_USER = "erased_user"


class EventReceipt(BaseModel):
    """The event is in the store, on the disk."""

    id: UUID = Field(description="The event's id: yours, or the derived one.", examples=[EVENT])
    status: Literal["stored", "duplicate"] = Field(
        description="`duplicate`: it was there before; nothing was stored now.", examples=["stored"]
    )


class Rejection(BaseModel):
    index: int = Field(description="Place in the batch, from 0.", examples=[17])
    reason: RejectionReason
    detail: str = Field(description="What is wrong.", examples=["user_id must be a UUID"])


class BatchReceipt(BaseModel):
    """received = stored + duplicates + rejected; what was stored is on the disk."""

    received: int = Field(examples=[100])
    stored: int = Field(examples=[97])
    duplicates: int = Field(examples=[2])
    rejected: int = Field(examples=[1])
    rejections: list[Rejection]
