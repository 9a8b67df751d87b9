"""What is said once a minute, what is left out of a line, and how a request is named."""

import json
import logging

import pytest

from app.core.context import name_request
from app.core.errors import StoreUnavailableError
from app.core.logging import _JsonFormatter, _OncePerMinute, text_of


def passes(filtered: _OncePerMinute, name: str, level: int, line: int, at: float) -> bool:
    record = logging.LogRecord(name, level, "file.py", line, "text", None, None)
    record.created = at
    return bool(filtered.filter(record))


@pytest.mark.parametrize(
    "name", ["aiokafka.conn", "app.kafka_consumer.reader", "app.ingest.writer"]
)
def test_the_same_line_of_code_is_let_through_once_a_minute(name: str) -> None:
    filtered = _OncePerMinute()
    times = [1000.0, 1000.1, 1059.9, 1060.0, 1061.0]
    passed = [passes(filtered, name, logging.WARNING, 7, at) for at in times]
    assert passed == [True, False, False, True, False]
    assert passes(filtered, name, logging.WARNING, 8, 1061.0), "another line of code"


def test_what_is_no_repetition_is_always_let_through() -> None:
    filtered = _OncePerMinute()
    for _ in range(3):
        assert passes(filtered, "app.main", logging.ERROR, 7, 1000.0)
        assert passes(filtered, "app.kafka_consumer.reader", logging.INFO, 7, 1000.0)


USER = "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4"


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (f"user_id = _CAST('{USER}', 'UUID')", "user_id = _CAST('…', 'UUID')"),
        (f"Cannot parse {USER[:11]}: {USER.upper()}", "Cannot parse …: …"),
        (f"key {USER.replace('-', '')}", "key …"),
        ("Unknown table 'analytics.traffic'", "Unknown table 'analytics.traffic'"),
        ("""metadata '{"name": "Zoé"}' is wrong""", "metadata '…' is wrong"),
        ("would use 1.5 GiB, at 12:30:01", "would use 1.5 GiB, at 12:30:01"),
    ],
)  # fmt: skip
def test_of_an_error_everything_is_said_but_values(said: str, logged: str) -> None:
    assert text_of(StoreUnavailableError(said)) == logged
    record = logging.LogRecord(
        "app", logging.WARNING, "file.py", 1, "the store: %s", (StoreUnavailableError(said),), None
    )
    assert json.loads(_JsonFormatter().format(record))["message"] == f"the store: {logged}"


def test_of_an_error_that_nobody_foresaw_only_the_class_is_said() -> None:
    assert text_of(ValueError("Zoé")) == "ValueError"
    assert text_of(FileNotFoundError(2, "No such file", "/data/x")) == (
        "[Errno 2] No such file: '/data/x'"
    )


def test_a_line_that_is_logged_wrong_is_a_line_all_the_same() -> None:
    record = logging.LogRecord("lib", logging.INFO, "file.py", 1, "%d of %s", ("Zoé",), None)
    assert json.loads(_JsonFormatter().format(record))["message"] == "%d of %s"


TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (b"00-" + TRACE + b"-00f067aa0ba902b7-01", TRACE.decode()),
        (b"01-" + TRACE + b"-00f067aa0ba902b7-00-more", TRACE.decode()),
        (b"ff-" + TRACE + b"-00f067aa0ba902b7-01", None),
        (b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", None),
        (b"00-" + TRACE + b"-0000000000000000-01", None),
        (b"00-" + TRACE.upper() + b"-00f067aa0ba902b7-01", None),
        (b"00-" + TRACE, None),
        (b"", None),
        (None, None),
    ],
)
def test_a_request_is_followed_by_its_trace(traceparent: bytes | None, trace: str | None) -> None:
    assert name_request(b"mine", traceparent) == ("mine", trace)
