"""From bytes to an event, or to a rejection with its reason. Pure: the time is handed in."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from app.ingest.events import Event
from app.schemas.events import (
    MAX_METADATA_BYTES,
    MAX_POSITION_SECONDS,
    EventType,
    RejectionReason,
    ViewingEvent,
)

RETENTION = timedelta(days=365)
MAX_AHEAD = timedelta(minutes=5)

# Namespace of derived event ids (UUIDv5, RFC 9562). With another, every repeat would be new.
ID_NAMESPACE = UUID("6f7a1b0e-8c52-4d39-9e1d-3b5c0a7f2d64")

# RFC 3339, which allows a space for the T; the offset may be missing, which means UTC.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-5][0-9])?"
)
_ID_PREFIX = ID_NAMESPACE.bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_RULES = {
    "user_id": "user_id must be a UUID",
    "movie_id": "movie_id must be a UUID",
    "event_type": "event_type must be start, progress or finish",
    "action": "action must be stream_start, stream_progress or stream_stop",
    "timestamp": "timestamp must be a date and time as in RFC 3339",
    "position_seconds": f"position_seconds must be a number from 0 to {MAX_POSITION_SECONDS}",
    "session_id": "session_id must be a UUID or null",
    "metadata": "metadata must be a JSON object",
    "event_id": "event_id must be a UUID",
}
# At the end of what msgspec says; before it there may be what was sent.
_NAMED_FIELD = re.compile(r"(?:(missing required field) `|at `\$\.)(\w+)`\Z")

_decoder = msgspec.json.Decoder(ViewingEvent)
_last_decoder = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Fields",
        [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in _RULES],
    )
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that are no event. `field` names the culprit where there is one."""

    reason: RejectionReason
    detail: str
    field: str | None = None


def decode_event(
    raw: bytes | msgspec.Raw,
    now: datetime,
    topic_type: EventType | None = None,
    oldest: datetime | None = None,
) -> Event | Rejected:
    """Read one event.

    Args:
        now: what too late and too old are told by, and the time of an event that has none.
        topic_type: of a Kafka message, what its topic says it is. Such a message needs a time of
            its own: it may be delivered again later, and has to be the same event then.
        oldest: what is before it is too old; 365 days before `now` unless given.
    """
    try:
        return _decode(raw, now, topic_type, now - RETENTION if oldest is None else oldest)
    except RejectionError as rejection:
        return rejection.rejected


class RejectionError(Exception):
    def __init__(self, reason: RejectionReason, detail: str, field: str | None = None) -> None:
        self.rejected = Rejected(reason, detail, field)


def _decode(
    raw: bytes | msgspec.Raw, now: datetime, topic_type: EventType | None, oldest: datetime
) -> Event:
    sent = _parse(bytes(raw))
    event_type = _event_type(sent, topic_type)
    if sent.timestamp is not msgspec.UNSET:
        moment = moment_of(sent.timestamp)
    elif topic_type is None:
        moment = now
    else:
        raise RejectionError(RejectionReason.INVALID_FIELD, "timestamp is required", "timestamp")
    microseconds = microseconds_of(moment)
    if moment - now > MAX_AHEAD:
        raise RejectionError(
            RejectionReason.IN_FUTURE, "timestamp is more than 5 minutes ahead", "timestamp"
        )
    if moment < oldest:
        raise RejectionError(
            RejectionReason.TOO_OLD, "timestamp is older than events are kept", "timestamp"
        )
    position = int(sent.position_seconds)
    metadata = compact_metadata(sent.metadata)
    return Event(
        id=(
            derive_id(
                sent.user_id, sent.movie_id, event_type, microseconds, position, sent.session_id
            )
            if sent.event_id is msgspec.UNSET
            else sent.event_id
        ),
        user_id=sent.user_id,
        movie_id=sent.movie_id,
        event_type=event_type,
        event_time=microseconds // 1_000_000,
        position_seconds=position,
        session_id=sent.session_id,
        metadata=metadata,
        repeats_any_of_day=(sent.timestamp is msgspec.UNSET and sent.event_id is not msgspec.UNSET),
    )


def derive_id(
    user_id: UUID,
    movie_id: UUID,
    event_type: EventType,
    microseconds: int,
    position_seconds: int,
    session_id: UUID | None,
) -> UUID:
    """The UUIDv5 of an event that came without an id, from its parsed values.

    `microseconds` since 1970-01-01 UTC. The name that is hashed is the values as text, in this
    order, with `|` between them and nothing for no session.
    """
    digest = id_digest(
        f"{user_id}|{movie_id}|{event_type}|{microseconds}|{position_seconds}|{session_id or ''}"
    )
    return UUID(bytes=digest, version=5)


def id_digest(name: str) -> bytes:
    """The 16 bytes that a UUIDv5 is made of. What uuid.uuid5 does, in half its time."""
    return hashlib.sha1(_ID_PREFIX + name.encode(), usedforsecurity=False).digest()[:16]


def _parse(raw: bytes) -> ViewingEvent:
    try:
        # msgspec does not look into the strings that it skips.
        raw.decode()
        return _decoder.decode(raw)
    except msgspec.ValidationError:
        _check_json(raw)
        return _parse_last(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _not_json() from None


def _parse_last(raw: bytes) -> ViewingEvent:
    """Of a field that stands twice the last one counts, whatever the others are."""
    try:
        fields = msgspec.structs.asdict(_last_decoder.decode(raw))
    except msgspec.ValidationError:
        raise RejectionError(
            RejectionReason.INVALID_FIELD, "an event must be a JSON object"
        ) from None
    there = [
        b'"%s":%s' % (name.encode(), bytes(value))
        for name, value in fields.items()
        if value is not msgspec.UNSET
    ]
    try:
        return _decoder.decode(b"{%s}" % b",".join(there))
    except msgspec.ValidationError as error:
        named = _NAMED_FIELD.search(str(error))
        assert named is not None  # it is an object
        field = named[2]
        detail = f"{field} is required" if named[1] else _RULES[field]
        raise RejectionError(RejectionReason.INVALID_FIELD, detail, field) from None


def _check_json(raw: bytes) -> None:
    """A wrong field is reported before the text is read to its end: it may be no JSON at all."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        raise _not_json() from None


def _not_json() -> RejectionError:
    return RejectionError(RejectionReason.NOT_JSON, "not JSON in UTF-8")


def _event_type(sent: ViewingEvent, topic_type: EventType | None) -> EventType:
    """What kind of event it is; all that say so, event_type, action and topic, must agree."""
    kind, field = sent.event_type, "event_type"
    if sent.action is not msgspec.UNSET:
        if kind not in (msgspec.UNSET, sent.action.event_type):
            raise RejectionError(
                RejectionReason.TYPE_MISMATCH, "event_type and action disagree", "action"
            )
        kind, field = sent.action.event_type, "action"
    if topic_type is None:
        if kind is msgspec.UNSET:
            raise RejectionError(
                RejectionReason.INVALID_FIELD, "event_type or action is required", "event_type"
            )
        return kind
    if kind not in (msgspec.UNSET, topic_type):
        raise RejectionError(
            RejectionReason.TYPE_MISMATCH, f"{field} and the topic disagree", field
        )
    return topic_type


def microseconds_of(moment: datetime) -> int:
    """Since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(timestamp: str) -> datetime:
    """The instant of an RFC 3339 text; digits after the microsecond are cut off."""
    try:
        if _RFC_3339.fullmatch(timestamp) is None:
            raise ValueError
        moment = datetime.fromisoformat(timestamp.upper())
    except ValueError:
        raise RejectionError(
            RejectionReason.INVALID_FIELD, _RULES["timestamp"], "timestamp"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def compact_metadata(raw: msgspec.Raw | msgspec.UnsetType) -> str:
    if raw is msgspec.UNSET:
        return "{}"
    text = bytes(raw)
    if not text.startswith(b"{"):
        raise RejectionError(RejectionReason.INVALID_FIELD, _RULES["metadata"], "metadata")
    compact = msgspec.json.format(text, indent=-1)
    if len(compact) > MAX_METADATA_BYTES:
        raise RejectionError(
            RejectionReason.METADATA_TOO_LARGE,
            f"metadata is over {MAX_METADATA_BYTES} bytes of JSON",
            "metadata",
        )
    return compact.decode()
