"""Many events at a time, as columns: what `decode` does, in a fifth of the time.

Most producers write their events alike: UUIDs in small letters, numbers as numbers. For those the
work of an event is a few array operations. An event that is written in any other way, and one that
may have to be rejected, is handed to `decode_event`, which alone says what an event is.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import numpy as np

from app.core.block import Array
from app.ingest.decode import (
    MAX_AHEAD,
    RETENTION,
    Rejected,
    RejectionError,
    compact_metadata,
    decode_event,
    id_digest,
    microseconds_of,
    moment_of,
)
from app.ingest.events import ROW, TYPE_CODES, Event, Events
from app.schemas.events import MAX_POSITION_SECONDS, Action, EventType, RejectionReason

_Uuid = Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
_POSITION = msgspec.Meta(ge=0, le=MAX_POSITION_SECONDS)


class _Sent(msgspec.Struct, gc=False):
    """A viewing event, of whose fields only the JSON types are checked."""

    user_id: _Uuid
    movie_id: _Uuid
    event_type: str | msgspec.UnsetType = msgspec.UNSET
    action: str | msgspec.UnsetType = msgspec.UNSET
    timestamp: str | msgspec.UnsetType = msgspec.UNSET
    position_seconds: Annotated[int, _POSITION] | Annotated[float, _POSITION] = 0
    session_id: _Uuid | None = None
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event_id: _Uuid | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Sent).decode

_UNSAID, _WRONG = 0, -1
# What event_type and action say together, by both; where they disagree, or are unknown: nothing.
_SAID: dict[tuple[object, object], int] = {(msgspec.UNSET, msgspec.UNSET): _UNSAID}
for _action in Action:
    _code = TYPE_CODES[_action.event_type]
    _SAID[_action.event_type.value, msgspec.UNSET] = _code
    _SAID[msgspec.UNSET, _action.value] = _code
    _SAID[_action.event_type.value, _action.value] = _code

_NAMES = {code: kind.value for kind, code in TYPE_CODES.items()}


@dataclass(frozen=True, slots=True)
class Decoded:
    """What each of many pieces of bytes is.

    Attributes:
        events: those that are events, in their order.
        places: the place of each of them among the pieces.
        rejected: the others, by their places.
    """

    events: Events
    places: Array
    rejected: Mapping[int, Rejected]

    @staticmethod
    def of(pieces: Sequence[Event | Rejected]) -> "Decoded":
        """Of what each piece is."""
        events = {n: one for n, one in enumerate(pieces) if isinstance(one, Event)}
        rejected = {n: one for n, one in enumerate(pieces) if isinstance(one, Rejected)}
        return Decoded(Events.of(events.values()), np.array(list(events), np.int64), rejected)

    def __len__(self) -> int:
        return len(self.events) + len(self.rejected)

    def reasons(self) -> Iterator[RejectionReason]:
        return (one.reason for one in self.rejected.values())

    def without(self, rejected: Mapping[int, Rejected]) -> "Decoded":
        """The same, but for pieces that are rejected whatever they are."""
        kept = ~np.isin(self.places, list(rejected))
        return Decoded(self.events.those(kept), self.places[kept], {**self.rejected, **rejected})


def decode_events(
    raws: Sequence[bytes],
    now: datetime,
    topic_types: Sequence[EventType] | None = None,
    oldest: datetime | None = None,
) -> Decoded:
    """Read many events; of each it says what `decode_event` says of it alone.

    Args:
        now, topic_types, oldest: as there; of Kafka messages the type for each.
    """
    if oldest is None:
        oldest = now - RETENTION
    plain, plain_places, odd_places = _read(raws)
    codes = None
    if topic_types is not None:
        codes = np.array([TYPE_CODES[topic_types[place]] for place in plain_places], np.int8)
    usual, rows, metadata = _columns(plain, now, codes, oldest) if plain else (_NONE, _NO_ROWS, [])
    events = Events(rows, metadata).those(usual)
    places = np.array(plain_places, np.int64)
    odd_places += places[~usual].tolist()
    places = places[usual]
    rejected: dict[int, Rejected] = {}
    odd: dict[int, Event] = {}
    for place in sorted(odd_places):
        one = decode_event(raws[place], now, topic_types[place] if topic_types else None, oldest)
        if isinstance(one, Event):
            odd[place] = one
        else:
            rejected[place] = one
    if odd:
        places = np.concatenate([places, np.array(list(odd), np.int64)])
        events = Events.joined([events, Events.of(odd.values())])
        order = np.argsort(places)  # of events that are the same, the first counts
        events, places = events.at(order), places[order]
    return Decoded(events, places, rejected)


_NONE = np.zeros(0, np.bool_)
_NO_ROWS = np.zeros(0, ROW)


def _read(raws: Sequence[bytes]) -> tuple[list[_Sent], list[int], list[int]]:
    """Those that have the usual JSON types, their places, and the places of the others."""
    plain: list[_Sent] = []
    places: list[int] = []
    odd: list[int] = []
    for place, raw in enumerate(raws):
        try:
            if not raw.isascii():
                raw.decode()  # msgspec does not look into the strings that it skips
            plain.append(_decode(raw))
            places.append(place)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            odd.append(place)
    return plain, places, odd


def _columns(
    sent: Sequence[_Sent], now: datetime, topic_codes: Array | None, oldest: datetime
) -> tuple[Array, Array, list[bytes]]:
    """Which of them are written as usual, and what they are: rows of ROW, and their metadata.

    Rows and metadata of the others mean nothing.
    """
    now_microseconds = microseconds_of(now)
    users = [one.user_id for one in sent]
    movies = [one.movie_id for one in sent]
    sessions = [one.session_id or "" for one in sent]
    ids = [one.event_id or "" for one in sent]
    codes, usual = _codes(sent, topic_codes)
    # A Kafka message without a time is no event; another is of now.
    undated = now_microseconds if topic_codes is None else _NO_TIME
    moments = [_microseconds(one.timestamp, undated) for one in sent]
    microseconds = np.array(moments, np.int64)
    usual &= microseconds <= now_microseconds + _MAX_AHEAD
    usual &= microseconds >= microseconds_of(oldest)
    positions = np.array([one.position_seconds for one in sent], np.float64)
    usual &= (positions >= 0) & (positions <= MAX_POSITION_SECONDS)
    metadata = _all_metadata(sent, usual)

    rows = np.zeros(len(sent), ROW)
    rows["id"], has_id = _uuids(ids, usual)
    rows["user_id"], _ = _uuids(users, usual)
    rows["movie_id"], _ = _uuids(movies, usual)
    rows["session_id"], rows["in_session"] = _uuids(sessions, usual)
    rows["event_type"] = codes
    rows["event_time"][usual] = microseconds[usual] // 1_000_000
    rows["position_seconds"][usual] = positions[usual]
    dated = np.array([one.timestamp is not msgspec.UNSET for one in sent])
    rows["repeats_any_of_day"] = has_id & ~dated
    # As in derive_id, whose text of a UUID is the usual one.
    digests = [
        id_digest(f"{user}|{movie}|{_NAMES.get(code)}|{moment}|{position}|{session}")
        for user, movie, code, moment, position, session, given in zip(
            users, movies, codes.tolist(), moments, rows["position_seconds"].tolist(), sessions,
            ids, strict=True,
        )
        if not given
    ]  # fmt: skip
    rows["id"][~has_id] = _version_5(digests)
    return usual, rows, metadata


def _codes(sent: Sequence[_Sent], topic_codes: Array | None) -> tuple[Array, Array]:
    """What kind of event each is, and where that is clear."""
    codes = np.array([_SAID.get((one.event_type, one.action), _WRONG) for one in sent], np.int8)
    if topic_codes is None:
        return codes, codes > _UNSAID
    return topic_codes, (codes == topic_codes) | (codes == _UNSAID)


def _microseconds(timestamp: str | msgspec.UnsetType, undated: int) -> int:
    if timestamp is msgspec.UNSET:
        return undated
    try:
        return microseconds_of(moment_of(timestamp))
    except RejectionError:
        return _NO_TIME


_NO_TIME = -1
_MICROSECOND = timedelta(microseconds=1)
_MAX_AHEAD = MAX_AHEAD // _MICROSECOND


def _all_metadata(sent: Sequence[_Sent], usual: Array) -> list[bytes]:
    """The metadata of each. Takes those out of `usual` whose metadata is refused."""
    # Much of it is the same: a device, a version.
    compact: dict[bytes, bytes] = {b"": b"{}"}
    texts = [b"" if one.metadata is msgspec.UNSET else bytes(one.metadata) for one in sent]
    for text in set(texts) - compact.keys():
        with suppress(RejectionError):
            compact[text] = compact_metadata(msgspec.Raw(text)).encode()
    if any(text not in compact for text in texts):
        usual &= np.array([text in compact for text in texts])
    return [compact.get(text, b"") for text in texts]


def _uuids(texts: Sequence[str], usual: Array) -> tuple[Array, Array]:
    """Their bytes, and where there is a text at all.

    Takes those out of `usual` that are not written in small letters with hyphens.
    """
    there = np.array([text != "" for text in texts])
    joined = "".join([text or _NIL for text in texts])
    letters = np.frombuffer(joined.encode("latin-1", "replace"), np.uint8).reshape(-1, 36)
    digits = _DIGITS[letters[:, _DIGIT_PLACES]]
    usual &= (letters[:, _HYPHEN_PLACES] == ord("-")).all(axis=1)
    usual &= (digits < 16).all(axis=1)
    return digits[:, 0::2] << 4 | digits[:, 1::2], there


_NIL = "00000000-0000-0000-0000-000000000000"
_HYPHEN_PLACES = [8, 13, 18, 23]
_DIGIT_PLACES = [place for place in range(36) if place not in _HYPHEN_PLACES]
_DIGITS = np.full(256, 255, np.uint8)  # of every other character
for _digit, _letter in enumerate(b"0123456789abcdef"):
    _DIGITS[_letter] = _digit


def _version_5(digests: Sequence[bytes]) -> Array:
    """UUIDs of version 5 of the digests (RFC 9562, section 5.5)."""
    ids = np.frombuffer(bytearray(b"".join(digests)), np.uint8).reshape(-1, 16)
    ids[:, 6] = ids[:, 6] & 0x0F | 0x50
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80
    return ids
