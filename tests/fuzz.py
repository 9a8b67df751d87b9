"""Bytes that a sender could get wrong, or wants to be wrong: `python -m tests.fuzz --inputs N`.

Events are written in odd ways, then damaged. Whatever it is, the decoders say that it is an event
or reject it; both say the same; and what is an event keeps the rules of one.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.core.errors import AnalyticsError
from app.ingest.decode import Rejected, decode_event
from app.ingest.decode_many import decode_events
from app.ingest.events import Event, Events
from app.ingest.intake import split_json, split_lines
from app.schemas.events import MAX_METADATA_BYTES, MAX_POSITION_SECONDS, EventType

NOW = datetime(2026, 6, 15, 12, 0, 0, 250_000, tzinfo=UTC)
FIELDS = (
    "user_id", "movie_id", "event_type", "action", "timestamp", "position_seconds", "session_id",
    "metadata", "event_id",
)  # fmt: skip
UUIDS = (
    '"0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4"', '"5A4F8CDE-3F0B-5A0E-9A4C-8D1F0F1F6B7E"',
    '"5a4f8cde3f0b5a0e9a4c8d1f0f1f6b7e"', '"00000000-0000-0000-0000-000000000000"',
)  # fmt: skip
ODD = (
    "null", "true", "0", "-0.0", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity",
    "1" * 400, "-" + "9" * 400, "0." + "3" * 400, "1" * 400 + ".5", "1e99999999999",
    "4294967295.999", "18446744073709551616", "9223372036854775808", "-9223372036854775809",
    "00", "+1", ".5", "1.",
    '""', '"\\u0000"', '"\\ud83d"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\udcff"', '"\u2028"',
    '"\ufeff"', '"\\x"', '"\n"', "'x'", "[]", "{}", "[" * 3000, '{"a":' * 3000,
    "[" * 500 + "]" * 500, '{"a":' * 400 + "1" + "}" * 400, '{"a":"' + "x" * 16_400 + '"}',
    '{"a" : [1 , 2.0e3, "é", "\\u00e9"]}', '{"a":1,"a":2}', '"' + "x" * 5000 + '"', "\ufeff1", "",
    '"missing required field `user_id`"', '"at `$.user_id`"',
    '"\'); DROP TABLE viewing_events; --"', '"é0000000-0000-0000-0000-00000000000"',
    '"00000000-0000-0000-0000-00000000000G"',
)  # fmt: skip
SPACES = ("", "", "", " ", "\n", "\r\n", "\t", "\u00a0", "\x00", "\ufeff")
PIECES = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\0")


def good_value(dice: random.Random, field: str) -> str:
    if field.endswith("_id"):
        return dice.choice(UUIDS)
    if field == "event_type":
        return dice.choice(('"start"', '"progress"', '"finish"', '"st\\u0061rt"'))
    if field == "action":
        return dice.choice(('"stream_start"', '"stream_progress"', '"stream_stop"'))
    if field == "position_seconds":
        return dice.choice((str(dice.randrange(2**32)), "12.75", "1e3", "0", "4294967295"))
    if field == "metadata":
        return dice.choice(("{}", '{"device": "tv"}', '{ "a" : { "b" : [ ] } }'))
    moment = NOW + timedelta(seconds=dice.choice((0, -1, 299, 301, -dice.randrange(400 * 86_400))))
    text = moment.isoformat()
    return f'"{dice.choice((text, text.replace("+00:00", "Z"), text[:19], text[:19] + "+23:59"))}"'


def written_event(dice: random.Random) -> bytes:
    """An event as JSON: right, odd, or damaged."""
    fields = [name for name in FIELDS if name in FIELDS[:3] or dice.random() < 0.4]
    pairs = [(name, good_value(dice, name)) for name in fields]
    while dice.random() < 0.4:
        place = dice.randrange(len(pairs) + 1)
        name = dice.choice((*FIELDS, "unknown", "user_id ", "\\u0075ser_id", ""))
        value = dice.choice(ODD) if dice.random() < 0.7 else good_value(dice, dice.choice(FIELDS))
        # Beside the one that is there, in its place, or without it.
        pairs[place : place + dice.choice((0, 1))] = [(name, value)] * (dice.random() < 0.9)
    dice.shuffle(pairs)
    space = dice.choice(SPACES) if dice.random() < 0.2 else ""
    text = ",".join(f'{space}"{name}"{space}:{space}{value}{space}' for name, value in pairs)
    raw = bytearray(f"{{{text}}}".encode("utf-8", "surrogateescape"))
    while dice.random() < 0.2 and raw:
        place = dice.randrange(len(raw))
        damage = dice.randrange(4)
        if damage == 0:
            raw[place] = dice.randrange(256)
        elif damage == 1:
            del raw[place : place + dice.choice((1, 2, 1000))]
        elif damage == 2:
            raw[place:place] = dice.choice(PIECES)
        else:
            raw = raw[:place] * dice.choice((1, 2))
    return bytes(raw)


def check_many(raws: list[bytes], topic_types: list[EventType] | None) -> Iterator[str]:
    """Both decoders on the same bytes. Yields what each is."""
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
    for one in each:
        if isinstance(one, Rejected):
            assert one.detail
            yield one.reason
        else:
            assert_is_an_event(one)
            yield "event"


def assert_is_an_event(event: Event) -> None:
    assert all(isinstance(one, UUID) for one in (event.id, event.user_id, event.movie_id))
    assert 0 <= event.position_seconds <= MAX_POSITION_SECONDS
    ago = NOW.timestamp() - event.event_time
    assert -300 - 1 < ago < 365 * 86_400 + 1
    assert len(event.metadata.encode()) <= MAX_METADATA_BYTES
    # What Python reads, but for depths that it can't.
    if len(event.metadata) < 1000:
        assert isinstance(json.loads(event.metadata), dict)


def check_body(dice: random.Random, raws: list[bytes]) -> None:
    """A body of them is taken apart, or refused with one of our errors."""
    body = dice.choice((b"[%s]", b'{"events":[%s]}', b"%s")) % dice.choice((b",", b"\n")).join(raws)
    for split in (split_json, split_lines):
        with suppress(AnalyticsError):
            decode_events(list(map(bytes, split(body))), NOW)


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """How often which of so many inputs was what. Raises when one of them shows a fault."""
    dice = random.Random(seed)
    seen: Counter[str] = Counter()
    while seen.total() < inputs:
        raws = [written_event(dice) for _ in range(min(40, inputs - seen.total()))]
        types = [dice.choice(list(EventType)) for _ in raws] if dice.random() < 0.3 else None
        try:
            seen.update(check_many(raws, types))
            check_body(dice, raws[: dice.randrange(8)])
        except Exception as fault:
            for raw in raws:
                try:
                    list(check_many([raw], types and types[:1]))
                except Exception:
                    raise AssertionError(f"seed {seed}: {raw[:2000]!r}") from fault
            raise
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    flags = parser.parse_args()
    began = time.monotonic()
    seen = fuzz(flags.inputs, flags.seed)
    for what, count in seen.most_common():
        print(f"{what:20} {count:>10}")
    print(f"seed {flags.seed}, {time.monotonic() - began:.0f} s: no faults")


if __name__ == "__main__":
    main()
