"""A little of `make fuzz`, with the same inputs each time."""

from tests.fuzz import fuzz


def test_odd_and_damaged_events_are_read_or_rejected_by_both_decoders_alike() -> None:
    seen = fuzz(20_000, seed=1)
    assert len(seen) == 7  # an event, and every reason for a rejection
    assert min(seen["event"], seen["not_json"], seen["invalid_field"]) > 1000
