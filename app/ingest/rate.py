"""How many events a second a sender may send."""

import math
import time
from collections.abc import Callable, Hashable

from app.core.errors import EventRateError


class EventRate:
    """A token bucket for each sender, which holds what it may send in one second.

    How many events a request has is known when it is decoded: so a request is let in while there
    is anything in the bucket, and takes what it has, if need be into debt.

    Args:
        per_second: events; None for any number.
        clock: seconds, monotonic.
    """

    def __init__(self, per_second: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        # Of each sender: what was in the bucket, and when. Senders have keys: they are few.
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def check(self, sender: Hashable) -> None:
        """Raises EventRateError while the sender has sent too much."""
        if self._per_second is not None:
            self._refuse_debt(self._level(self._per_second, sender), self._per_second)

    def take(self, sender: Hashable, events: int) -> None:
        """Let so many events of a sender in. Raises EventRateError, and takes none, as `check`."""
        if self._per_second is None:
            return
        level = self._level(self._per_second, sender)
        self._refuse_debt(level, self._per_second)
        self._buckets[sender] = (level - events, self._clock())

    def _level(self, per_second: int, sender: Hashable) -> float:
        now = self._clock()
        level, since = self._buckets.get(sender, (float(per_second), now))
        return min(per_second, level + (now - since) * per_second)

    @staticmethod
    def _refuse_debt(level: float, per_second: int) -> None:
        if level <= 0:
            seconds = math.floor(-level / per_second) + 1
            raise EventRateError(f"{per_second} events a second may be sent", seconds)
