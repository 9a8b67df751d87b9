"""What is an event and what is not, field by field; and which events are the same."""

import json
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import product
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ingest.decode import Rejected, decode_event
from app.ingest.decode_many import decode_events
from app.ingest.events import Event, Events
from app.schemas.events import EventType, RejectionReason

NOW = datetime(2026, 6, 15, 12, 0, 0, 250_000, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NAMESPACE = UUID("6f7a1b0e-8c52-4d39-9e1d-3b5c0a7f2d64")
USER = UUID("0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4")
FILM = UUID("5a4f8cde-3f0b-5a0e-9a4c-8d1f0f1f6b7e")
LEAST = {"user_id": f'"{USER}"', "movie_id": f'"{FILM}"', "event_type": '"start"'}
ACTIONS = {"start": "stream_start", "progress": "stream_progress", "finish": "stream_stop"}
JUNK = ('""', '"junk"', "true", "[]", "{}")
NO_UUIDS = (*JUNK, "5", f'"{{{USER}}}"', f'" {USER}"', f'"urn:uuid:{USER}"', f'"{USER}0"',
            f'"{USER}"'.replace("c", "g"), f'"{USER}"'.replace("-", "", 1))  # fmt: skip
# Values that look like the parser's own messages about fields.
MESSAGES = ('"at `$.x`"', '"at `$.user_id`"', '"missing required field `x`"')
WRONG = {
    "user_id": (*NO_UUIDS, "null"), "movie_id": (*NO_UUIDS, "null"),
    "session_id": NO_UUIDS, "event_id": (*NO_UUIDS, "null"),
    "event_type": (*JUNK, *MESSAGES, "5", "null", '"Start"', '"stream_start"'),
    "action": (*JUNK, *MESSAGES, "5", "null", '"start"', '"stream_finish"'),
    "metadata": ("[]", "null", '"{}"', "5", "true"),
    "position_seconds": (
        *JUNK, "null", '"5"', "false", "-1", "-0.5", "-1e-9", "4294967296", "4294967295.5", "1e10",
        "1e400", "18446744073709551616",
    ),
    "timestamp": (
        *JUNK, "null", "1781521200", "1781521200.5", '"1781521200"', '"2026-01-01"',
        '"2026-06-14T23:59:60Z"', '"2026-06-14T24:00:00Z"', '"2026-06-14T24:00:00"',
        '"2026-02-29T00:00:00Z"', '"2026-13-01T00:00:00Z"', '"0000-01-01T00:00:00Z"',
        '"2026-06-15T11:00:00+05:99"', '"2026-06-15T11:00:00+24:00"', '"2026-06-15T11:00:00+02"',
        '"2026-06-15T11:00:00+0200"', '"2026-06-15T11:00:00+00:00:30"', '"2026-06-15T11:00Z"',
        '"2026-06-15T11:00:00.Z"', '"2026-06-15T11:00:00,5Z"', '"20260615T110000Z"',
        '"2026-W25-1T11:00:00Z"', '"2026-06-15T11:00:00Z "', '"2026-06-15T11:00:00Z\\n"',
        '"2026-06-15T11:00:00 Z"', '"２０２６-06-15T11:00:00Z"', '"2026-06-15T11:00:0٧Z"',
    ),
}  # fmt: skip


class Viewing(NamedTuple):
    """What an event's id is derived from."""

    user: UUID = USER
    film: UUID = FILM
    kind: str = "start"
    moment: datetime = NOW
    position: int = 0
    session: UUID | None = None

    def expected_id(self) -> UUID:
        microseconds = (self.moment - EPOCH) // MICROSECOND
        values = (self.user, self.film, self.kind, microseconds, self.position, self.session or "")
        return uuid5(NAMESPACE, "|".join(map(str, values)))


def written(fields: dict[str, str]) -> bytes:
    """The JSON object of fields whose values are JSON texts."""
    return "{{{}}}".format(",".join(f'"{key}":{value}' for key, value in fields.items())).encode()


def accepted(raw: bytes | msgspec.Raw) -> Event:
    event = decode_event(raw, NOW)
    assert isinstance(event, Event), event
    return event


def decoded(**fields: str) -> Event:
    return accepted(written({**LEAST, **fields}))


def rejected(raw: bytes) -> tuple[str, str | None]:
    rejection = decode_event(raw, NOW)
    assert isinstance(rejection, Rejected), rejection
    return rejection.reason, rejection.field


def test_the_least_event_has_the_defaults_of_the_rest() -> None:
    event = decoded()
    assert (event.user_id, event.movie_id, event.event_type) == (USER, FILM, "start")
    assert event.id == Viewing().expected_id()
    assert event.event_time == 1781524800
    assert (event.position_seconds, event.session_id, event.metadata) == (0, None, "{}")
    assert accepted(msgspec.Raw(written(LEAST))) == event


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_wrong_field_is_rejected_by_its_name(field: str, value: str) -> None:
    assert rejected(written({**LEAST, field: value})) == ("invalid_field", field)


def test_ids_of_user_and_film_are_required() -> None:
    for missing in ("user_id", "movie_id"):
        fields = {key: LEAST[key] for key in LEAST if key != missing}
        assert rejected(written(fields)) == ("invalid_field", missing)


@pytest.mark.parametrize("field", ["user_id", "movie_id", "session_id", "event_id"])
@pytest.mark.parametrize("text", [str(USER), str(USER).upper(), USER.hex])
def test_uuids_are_read_in_either_case_and_without_hyphens(field: str, text: str) -> None:
    event = decoded(**{field: f'"{text}"'})
    assert getattr(event, "id" if field == "event_id" else field) == USER


@pytest.mark.parametrize(("kind", "action"), list(product([None, *ACTIONS], [None, *ACTIONS])))
def test_event_type_and_action_agree_or_one_is_given(kind: str | None, action: str | None) -> None:
    fields = {"user_id": LEAST["user_id"], "movie_id": LEAST["movie_id"]}
    fields |= {"event_type": f'"{kind}"'} if kind else {}
    fields |= {"action": f'"{ACTIONS[action]}"'} if action else {}
    if kind is None and action is None:
        assert rejected(written(fields)) == ("invalid_field", "event_type")
    elif None not in (kind, action) and kind != action:
        assert rejected(written(fields)) == ("type_mismatch", "action")
    else:
        assert accepted(written(fields)).event_type == (kind or action)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("-0", 0), ("-0.0", 0), ("12.999", 12), ("0.5", 0), ("1e3", 1000), ("1.55E1", 15),
     ("4294967294.9", 4294967294), ("4294967295", 4294967295), ("4294967295.0", 4294967295)],
)  # fmt: skip
def test_positions_lose_their_fraction(value: str, seconds: int) -> None:
    assert decoded(position_seconds=value).position_seconds == seconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-15T11:00:07", datetime(2026, 6, 15, 11, 0, 7)),
        ("2026-06-15T11:00:07Z", datetime(2026, 6, 15, 11, 0, 7)),
        ("2026-06-15t11:00:07z", datetime(2026, 6, 15, 11, 0, 7)),
        ("2026-06-15 11:00:07-00:00", datetime(2026, 6, 15, 11, 0, 7)),
        ("2026-06-15T01:00:07+05:45", datetime(2026, 6, 14, 19, 15, 7)),
        ("2026-06-14T23:00:07-03:30", datetime(2026, 6, 15, 2, 30, 7)),
        ("2026-01-01T00:30:00+01:00", datetime(2025, 12, 31, 23, 30)),
        ("2026-06-15T11:00:07.05+02:00", datetime(2026, 6, 15, 9, 0, 7, 50_000)),
        ("2026-06-15T11:00:07.000001999", datetime(2026, 6, 15, 11, 0, 7, 1)),
        *((f"2026-06-14T23:59:59.{'9' * digits}Z",
           datetime(2026, 6, 14, 23, 59, 59, int(f"{'9' * digits:0<6}"[:6])))
          for digits in range(1, 10)),
    ],
)  # fmt: skip
def test_timestamps_are_instants_cut_to_the_second(text: str, moment: datetime) -> None:
    event, moment = decoded(timestamp=f'"{text}"'), moment.replace(tzinfo=UTC)
    assert event.event_time == int(moment.replace(microsecond=0).timestamp())
    assert event.id == Viewing(moment=moment).expected_id()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-06-15T12:05:00.250000Z", None), ("2026-06-15T12:05:00.2500009Z", None),
        ("2026-06-15T12:05:00.250001Z", "in_future"), ("2026-06-15T14:05:01+02:00", "in_future"),
        ("9999-12-31T23:59:59-23:59", "in_future"), ("2025-06-15T12:00:00.250000Z", None),
        ("2025-06-15T12:00:00.249999Z", "too_old"), ("2025-06-15T05:00:00-07:00", "too_old"),
        ("0001-01-01T00:00:00+23:59", "too_old"),
    ],
)  # fmt: skip
def test_times_from_365_days_ago_to_5_minutes_ahead(text: str, reason: str | None) -> None:
    raw = written({**LEAST, "timestamp": f'"{text}"'})
    if reason is None:
        assert accepted(raw).event_time == int(datetime.fromisoformat(text).timestamp())
    else:
        assert rejected(raw) == (reason, "timestamp")


@pytest.mark.parametrize(
    ("value", "kept"),
    [('\n{ "a" : [ 1 ,\t"x  y" ] }\r ', '{"a":[1,"x  y"]}'), *((text, text) for text in (
        "{}", '{"a":1.0,"b":1e2,"c":12345678901234567890123,"d":1e999}',
        '{"a":"\\u00e9é \\u0000"}', '{"b":[1,{"c":null}],"a":" { } ","a":-0}'))],
)  # fmt: skip
def test_metadata_is_kept_as_written_but_for_spaces_between_tokens(value: str, kept: str) -> None:
    assert decoded(metadata=value).metadata == kept


@pytest.mark.parametrize("letter", ["x", "é"])
def test_metadata_has_at_most_16384_bytes_beside_those_spaces(letter: str) -> None:
    largest = letter * ((16384 - len('{"a":""}')) // len(letter.encode()))
    for text in (f'{{"a":"{largest}"}}', f'{{   "a"  :  "{largest}"  }}'):
        assert decoded(metadata=text).metadata == f'{{"a":"{largest}"}}'
    raw = written({**LEAST, "metadata": f'{{"a":"{largest}x"}}'})
    assert rejected(raw) == ("metadata_too_large", "metadata")


@pytest.mark.parametrize(("named", "dated"), list(product([False, True], repeat=2)))
def test_an_event_id_without_a_time_repeats_any_of_the_day(named: bool, dated: bool) -> None:
    fields = {"event_id": f'"{USER}"'} if named else {}
    fields |= {"timestamp": '"2026-06-15T11:00:00Z"'} if dated else {}
    assert decoded(**fields).repeats_any_of_day is (named and not dated)


EVENT, BAD = written(LEAST), written({**LEAST, "user_id": "5"})


@pytest.mark.parametrize("raw", [
    b"", b" ", b"{", EVENT[:-1], EVENT[:40], b"\xef\xbb\xbf" + EVENT, EVENT + b"\n" + EVENT,
    EVENT + b"x", EVENT[:-1] + b",}", b"[1,]", b"NaN", b"[" * 100_000, b'{"a":' * 100_000,
    written({**LEAST, "x": "NaN"}), written({**LEAST, "metadata": '{"a":-Infinity}'}),
    written({**LEAST, "position_seconds": "NaN"}), written({**LEAST, "position_seconds": "01"}),
    written({**LEAST, "x": "[" * 100_000 + "]" * 100_000}), EVENT.decode().encode("utf-16"),
    EVENT[:-1] + b',"x":"\xff"}', EVENT[:-1] + b',"x":"\xed\xa0\x80"}', EVENT[:-1] + b',"x":"\t"}',
    EVENT[:-1] + b',"metadata":{"a":"\xc3"}}', BAD[:-1], BAD + b"x", BAD[:-1] + b',"x":nope}',
    BAD[:-1] + b',"x":"\xff"}', BAD[:-1] + b',"x":' + b"[" * 100_000,
], ids=lambda raw: repr(raw[-30:]))  # fmt: skip
def test_what_is_not_json_is_said_to_be_that_and_nothing_else(raw: bytes) -> None:
    assert rejected(raw) == ("not_json", None)


@pytest.mark.parametrize("raw", [b"5", b"null", b'"x"', b"[]", b"[" + EVENT + b"]", b"true"])
def test_json_that_is_no_object_is_an_invalid_field(raw: bytes) -> None:
    assert rejected(raw) == ("invalid_field", None)


@pytest.mark.parametrize("field", WRONG)
@pytest.mark.parametrize("value", ['"a-mark"', '["a-mark"]', '"a-mark', '"at `$.mark"'])
def test_a_rejection_does_not_say_what_was_sent(field: str, value: str) -> None:
    rejection = decode_event(written({**LEAST, field: value}), NOW)
    assert isinstance(rejection, Rejected)
    assert "mark" not in f"{rejection.detail} {rejection.field}"


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e99, 1e99) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
json_texts = json_values.map(json.dumps)
some_fields = st.dictionaries(st.sampled_from(list(WRONG)), json_texts)


@given(st.binary() | json_texts.map(str.encode) | some_fields.map(lambda f: written(LEAST | f)))
def test_whatever_is_sent_is_an_event_or_a_rejection(raw: bytes) -> None:
    assert isinstance(decode_event(raw, NOW), Event | Rejected)


viewings = st.builds(
    Viewing, st.uuids(), st.uuids(), st.sampled_from(list(ACTIONS)),
    st.integers(1, 364 * 86_400_000_000).map(lambda ago: NOW - ago * MICROSECOND),
    st.integers(0, 4294967293), st.none() | st.uuids(),
)  # fmt: skip


@st.composite
def notations(draw: st.DrawFn, viewing: Viewing) -> bytes:
    """One of the ways to write the same event."""

    def uuid(value: UUID) -> str:
        return draw(st.sampled_from([f'"{value}"', f'"{value}"'.upper(), f'"{value.hex}"']))

    minutes = draw(st.just(0) | st.integers(-1439, 1439))
    local = viewing.moment.astimezone(timezone(timedelta(minutes=minutes)))
    text = local.isoformat(draw(st.sampled_from("Tt ")), "microseconds")
    time, zone = text[:-6], text[-6:]
    time = draw(st.sampled_from([time, time + "999", time.rstrip("0").rstrip(".")]))
    zone = zone if minutes else draw(st.sampled_from(["Z", "z", "", "+00:00", "-00:00"]))
    position = str(viewing.position) + draw(st.sampled_from(["", ".0", ".75", "e0"]))
    types = {"event_type": f'"{viewing.kind}"', "action": f'"{ACTIONS[viewing.kind]}"'}
    fields = {
        **draw(st.sampled_from([types, *({key: types[key]} for key in types)])),
        "user_id": uuid(viewing.user), "movie_id": uuid(viewing.film),
        "timestamp": f'"{time}{zone}"', "position_seconds": position,
        "session_id": uuid(viewing.session) if viewing.session else "null",
        "metadata": json.dumps(draw(st.dictionaries(st.text(), st.integers()))),
        "unknown": json.dumps(draw(json_values)),
    }  # fmt: skip
    return written(dict(draw(st.permutations(list(fields.items())))))


@given(st.data(), viewings)
def test_every_notation_of_an_event_has_the_documented_id(data: Any, viewing: Viewing) -> None:
    assert accepted(data.draw(notations(viewing))).id == viewing.expected_id()


@given(st.data(), viewings)
def test_events_that_differ_in_one_field_differ_in_their_ids(data: Any, one: Viewing) -> None:
    others = [
        one._replace(user=UUID(int=one.user.int ^ 1)),
        one._replace(film=UUID(int=one.film.int ^ 1)),
        one._replace(kind="start" if one.kind == "finish" else "finish"),
        one._replace(moment=one.moment + MICROSECOND),
        one._replace(position=one.position + 1),
        one._replace(session=UUID(int=one.session.int ^ 1 if one.session else 0)),
    ]
    other = data.draw(st.sampled_from(others))
    ids = [accepted(data.draw(notations(viewing))).id for viewing in (one, other)]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("topic_type", [None, *EventType])
@pytest.mark.parametrize("event_type", [None, *EventType])
@pytest.mark.parametrize("action", [None, *ACTIONS])
def test_all_that_say_what_an_event_is_must_agree(
    topic_type: EventType | None, event_type: EventType | None, action: str | None
) -> None:
    sent = {name: LEAST[name] for name in ("user_id", "movie_id")}
    sent["timestamp"] = f'"{NOW.isoformat()}"'
    if event_type is not None:
        sent["event_type"] = f'"{event_type}"'
    if action is not None:
        sent["action"] = f'"{ACTIONS[action]}"'
    said = {str(kind) for kind in (topic_type, event_type, action) if kind is not None}
    decoded = decode_event(written(sent), NOW, topic_type)
    if len(said) == 1:
        assert isinstance(decoded, Event)
        assert {decoded.event_type} == said
    else:
        assert isinstance(decoded, Rejected)
        expected = RejectionReason.TYPE_MISMATCH if said else RejectionReason.INVALID_FIELD
        assert decoded.reason is expected


def test_a_message_needs_a_time_of_its_own() -> None:
    """With a default it would be another event when it is delivered again."""
    decoded = decode_event(written(LEAST), NOW, EventType.START)
    assert isinstance(decoded, Rejected)
    assert (decoded.reason, decoded.field) == (RejectionReason.INVALID_FIELD, "timestamp")


def assert_many_are_as_each(raws: list[bytes], topic_types: list[EventType] | None = None) -> None:
    each = [
        decode_event(raw, NOW, topic_types[n] if topic_types else None)
        for n, raw in enumerate(raws)
    ]
    many = decode_events(raws, NOW, topic_types)
    events = [one for one in each if isinstance(one, Event)]
    expected = Events.of(events)
    assert many.events.rows.tobytes() == expected.rows.tobytes()
    assert many.events.metadata == expected.metadata
    assert many.places.tolist() == [n for n, one in enumerate(each) if isinstance(one, Event)]
    assert many.rejected == {n: one for n, one in enumerate(each) if isinstance(one, Rejected)}
    assert len(many) == len(raws)


def usual(viewing: Viewing, **fields: str) -> bytes:
    """As most producers write it."""
    least = {
        "user_id": f'"{viewing.user}"', "movie_id": f'"{viewing.film}"',
        "event_type": f'"{viewing.kind}"', "position_seconds": str(viewing.position),
        "timestamp": f'"{viewing.moment.isoformat()}"',
        "session_id": f'"{viewing.session}"' if viewing.session else "null",
    }  # fmt: skip
    return written(least | fields)


def with_fields(viewing: Viewing, fields: dict[str, str]) -> bytes:
    return usual(viewing, **fields)


@given(st.data(), st.lists(viewings, max_size=8))
def test_many_are_decoded_as_each_alone(data: Any, several: list[Viewing]) -> None:
    raws = [
        data.draw(
            notations(viewing)
            | st.just(usual(viewing))
            | some_fields.map(partial(with_fields, viewing))
            | json_texts.map(str.encode)
            | st.binary()
        )
        for viewing in several
    ]
    assert_many_are_as_each(raws)
    assert_many_are_as_each(raws, [data.draw(st.sampled_from(EventType)) for _ in raws])


@pytest.mark.parametrize("topic_type", [None, *EventType])
def test_odd_ones_among_many_are_decoded_as_each_alone(topic_type: EventType | None) -> None:
    right = usual(Viewing(session=USER), metadata='{"device": "tv"}')
    raws = [right]
    for field, values in WRONG.items():
        raws += [usual(Viewing(), **{field: value}) for value in values]
    for moment in (NOW + timedelta(minutes=5), NOW - timedelta(days=365)):
        raws += [usual(Viewing(moment=moment + n * MICROSECOND)) for n in (-1, 0, 1)]
    raws += [
        usual(Viewing(), position_seconds=value) for value in ("4294967295", "0.999", "-0.0", "1e3")
    ]
    raws += [
        usual(Viewing(), metadata=value)
        for value in ('{"a": "\\ud800"}', '{"a": "é"}', '{"a": %s}' % ("[" * 2000), "{}")
    ]
    raws += [usual(Viewing(), event_id=f'"{FILM}"'), written(LEAST)]
    raws += [written({**LEAST, "event_id": f'"{FILM}"'}), usual(Viewing(), action='"stream_stop"')]
    raws += [usual(Viewing(), user_id=f'"{text}"') for text in (str(USER).upper(), "é" * 36)]
    raws.append(right)
    types = None if topic_type is None else [topic_type] * len(raws)
    assert_many_are_as_each(raws, types)
    for raw in raws:
        assert_many_are_as_each([raw], types and types[:1])
