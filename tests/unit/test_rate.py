"""How many events a second a sender may send."""

import pytest

from app.core.errors import EventRateError
from app.ingest.rate import EventRate


def test_a_sender_may_send_as_many_as_are_in_its_bucket_and_one_batch_into_debt() -> None:
    now = 0.0
    rate = EventRate(10, lambda: now)
    rate.take("a", 4)
    rate.take("a", 5)
    rate.take("a", 31)  # 1 is left: the batch is let in
    for wait in (rate.check, lambda sender: rate.take(sender, 1)):
        with pytest.raises(EventRateError) as raised:
            wait("a")
        assert raised.value.seconds == 4  # 30 events of debt, and then there has to be something
    rate.check("b")
    now = 3.0
    with pytest.raises(EventRateError) as raised:
        rate.check("a")
    assert raised.value.seconds == 1
    now = 3.1
    rate.take("a", 1)
    now = 100.0
    rate.take("a", 9)  # no more than a second's worth has come together
    rate.take("a", 1)
    with pytest.raises(EventRateError):
        rate.take("a", 1)


def test_without_a_rate_any_number_is_let_in() -> None:
    rate = EventRate(None)
    for _ in range(3):
        rate.take(None, 10**9)
        rate.check(None)
