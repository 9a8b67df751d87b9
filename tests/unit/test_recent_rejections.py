"""What the log and /health say of Kafka messages that are no events."""

import logging

import pytest

from app.ingest.rejections import RejectedMessage
from app.kafka_consumer.consumer import _RecentRejections
from app.schemas.events import RejectionReason


def messages(count: int, reason: RejectionReason) -> list[RejectedMessage]:
    return [RejectedMessage("topic", 0, n, reason, "detail", b"") for n in range(count)]


def test_the_log_has_all_of_them_and_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    recent = _RecentRejections()
    with caplog.at_level(logging.WARNING):
        recent.add(100.0, messages(3, RejectionReason.NOT_JSON))
        for second in range(1, 50):
            recent.add(100.0 + second, messages(2, RejectionReason.TOO_OLD))
        recent.add(155.0, ())
        assert len(caplog.records) == 1
        recent.add(160.0, ())
        recent.add(300.0, ())
        recent.add(301.0, messages(1, RejectionReason.NOT_JSON))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" ", 1)[0] for line in lines] == ["3", "98", "1"]
    assert "too_old 98" in lines[1]


def test_the_last_minute_is_counted() -> None:
    recent = _RecentRejections()
    recent.add(100.0, messages(3, RejectionReason.NOT_JSON))
    recent.add(130.0, messages(4, RejectionReason.NOT_JSON))
    assert [recent.count(now) for now in (131.0, 159.9, 160.0, 189.9, 190.0)] == [7, 7, 4, 4, 0]
