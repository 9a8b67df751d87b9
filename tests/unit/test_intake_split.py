"""A request's body is cut into events, each as its own bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import MalformedBodyError, UnexpectedBodyError
from app.ingest.decode import Rejected, decode_event
from app.ingest.events import Event
from app.ingest.intake import split_json, split_lines
from app.schemas.events import RejectionReason
from tests.conftest import NOW

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e99, 1e99) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def elements(body: bytes) -> list[bytes]:
    return [bytes(raw) for raw in split_json(body)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", []),
        (b" \r\n\t[ ] \n", []),
        (b'{"events":[]}', []),
        (b'[{"a":1},{"b":2}]', [b'{"a":1}', b'{"b":2}']),
        (b'\n{ "events" : [ {"a": 1} ,\n2 ] } ', [b'{"a": 1}', b"2"]),
        (b'{"version":[3],"events":[1],"sent":"now"}', [b"1"]),
        (b'[5,null,"x",[6],[],true]', [b"5", b"null", b'"x"', b"[6]", b"[]", b"true"]),
        ("[1.0,1e2,12345678901234567890123,\"é\"]".encode(),
         [b"1.0", b"1e2", b"12345678901234567890123", '"é"'.encode()]),
        (b'["\xff",2]', [b'"\xff"', b"2"]),
    ],
)  # fmt: skip
def test_an_array_or_the_events_of_an_object_are_cut(body: bytes, expected: list[bytes]) -> None:
    assert elements(body) == expected


@given(st.lists(json_values, max_size=5), st.sampled_from([None, 1]))
def test_whatever_is_in_the_array_comes_out_in_order(values: list[Any], indent: int | None) -> None:
    for body in (values, {"about": values[:1], "events": values}):
        cut = elements(json.dumps(body, indent=indent).encode())
        assert [json.loads(raw) for raw in cut] == values


# A string that was cut in the middle of an emoji; RFC 8259 allows it, many parsers don't.
HALF_AN_EMOJI = b'{"title":"\\ud83d"}'


@pytest.mark.parametrize(
    "envelope", [b"[%s]", b'{"events":[%s]}', b'{"x":"\\ud800","events":[%s]}']
)
@pytest.mark.parametrize(
    "neighbour",
    [
        b'{"a":1}', b'{"a":[1.0,1e2,12345678901234567890123]}', b'{"a":1e999}', b'{"a":1,"a":2}',
        '{"a":"é"}'.encode(), b'{ "a" : "\\u00e9" }', b'{"a":"\xff"}', b'{"a":%s}' % (b"1" * 5000),
        b'"],[\\""', b"[]",
    ],
    ids=lambda raw: repr(raw[:30]),
)  # fmt: skip
def test_half_an_emoji_does_not_change_its_neighbours(envelope: bytes, neighbour: bytes) -> None:
    body = envelope % b" , ".join([neighbour, HALF_AN_EMOJI, neighbour])
    first, broken, last = elements(body)
    assert first == last == neighbour
    rejected = decode_event(broken, NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.NOT_JSON


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"[", b"[1", b"[1,]", b"[,1]", b"[1 2]", b"[1]x", b"[1][2]", b"5 5", b"nul",
        b"[NaN]", b"[-Infinity]", b"[01]", b"['a']", b"{", b'{"events":[1]', b'{"events":[1],}',
        b'{"events":5,"x":nope}', b'["\t"]', b"\xef\xbb\xbf[1]", b"\xff", b"\x0c[1]",
        "[1]".encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000,
        b'["\\ud800"', b'["\\ud800",]', b'["\\ud800",NaN]', b'["\\ud800"]x', b'{"x":"\\ud800"',
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        split_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"5", b"null", b"true", b'"[]"', b"{}", b'{"Events":[]}', b'{"event":[]}',
        b'{"events":null}', b'{"events":{}}', b'{"events":"[]"}', b'"\\ud800"',
        b'{"x":"\\ud800"}', b'{"x":"\\ud800","events":5}', b'{"events":5,"x":"\\ud800"}',
    ],
)  # fmt: skip
def test_json_of_another_form_is_unexpected(body: bytes) -> None:
    with pytest.raises(UnexpectedBodyError):
        split_json(body)


@given(st.binary() | json_values.map(json.dumps).map(str.encode))
def test_any_body_is_cut_or_refused(body: bytes) -> None:
    try:
        cut = elements(body)
    except (MalformedBodyError, UnexpectedBodyError):
        return
    assert all(raw in body for raw in cut)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"\n\r\n \t\n", []),
        (b'{"a":1}', [b'{"a":1}']),
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'\r\n{"a":1}\r\n\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\nno JSON\n\xff\n{"b":2}', [b'{"a":1}', b"no JSON", b"\xff", b'{"b":2}']),
        # Other characters that some take for the end of a line may stand in a JSON string.
        ('{"a":"\u2028\u0085"}\n5'.encode(), ['{"a":"\u2028\u0085"}'.encode(), b"5"]),
    ],
)
def test_lines_are_cut_at_line_feeds_and_empty_ones_dropped(
    body: bytes, expected: list[bytes]
) -> None:
    assert [bytes(raw).strip() for raw in split_lines(body)] == expected


@given(st.lists(json_values, max_size=5), st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\r\n"]))
def test_every_json_value_has_a_line_of_its_own(values: list[Any], end: str) -> None:
    body = "".join(json.dumps(value, ensure_ascii=False) + end for value in values)
    assert [json.loads(raw) for raw in split_lines(body.encode())] == values


@pytest.mark.parametrize("text", [r"\ud83d\ude00", r"\\ud83d", r"\\\ud83d\ude00", r"\u00e9\\"])
def test_whole_characters_stay_as_they_are(text: str) -> None:
    raw = f'{{"title":"{text}"}}'.encode()
    assert elements(b"[%s]" % raw) == [raw]


@pytest.mark.parametrize("text", [r"\ud83d", r"\ude00", r"\ude00\ud83d", r"\\\ud83d", r"\ud83d\n"])
def test_half_characters_are_found_wherever_they_stand(text: str) -> None:
    good = b'{"user_id":"\\ud83d\\ude00"}'
    first, second = elements(b'[{"title":"%s"},%s]' % (text.encode(), good))
    assert second == good
    rejected = decode_event(first, NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.NOT_JSON


@pytest.mark.parametrize(
    "start", [b"[1,", b'{"events":5,"deep":', b'{"events":[],"cut":"\\ud83d","deep":']
)
def test_what_is_nested_too_deep_is_malformed(start: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        split_json(start + b"[" * 100_000 + b"]" * 100_001)


def test_an_event_of_any_depth_is_decoded_or_rejected() -> None:
    for depth in range(800, 1100):
        raw = b'{"user_id":"%s","movie_id":"%s","event_type":"start","metadata":{"a":%s%s}}' % (
            b"0" * 32, b"1" * 32, b"[" * depth, b"]" * depth,
        )  # fmt: skip
        assert isinstance(decode_event(raw, NOW), Event | Rejected)
