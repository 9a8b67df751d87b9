"""What is said again and again while Kafka or the store is away is said once a minute."""

import logging

import pytest

from app.core.logging import _OncePerMinute


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
