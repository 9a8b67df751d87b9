"""What is happening now, told to all who are connected: one look at the store serves all."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from app.core.clickhouse_client import ClickHouseClient, load_query
from app.core.errors import AnalyticsError
from app.schemas.broadcast import Snapshot, Today, Unavailable
from app.services.analytics_service import AnalyticsService, completion_rate
from app.services.live import watched_now

logger = logging.getLogger(__name__)

# Nobody is told more often than this.
_BETWEEN_SECONDS = 1.0
# Without anything written, what is watched now still changes: sessions fall silent, days end.
_STILL_SECONDS = 5.0
# How often it is seen whether anything was written. It costs a comparison of two numbers.
_LOOK_SECONDS = 0.05
# What `events_per_second` is the mean of.
RATE_SECONDS = 60


class Listener:
    """One who is connected. Of messages that it has not been sent yet, it keeps the newest."""

    def __init__(self) -> None:
        self._message: str | None = None
        self._ended = False
        self._arrived = asyncio.Event()

    async def next(self) -> str | None:
        """The next message; None when there will be no more."""
        await self._arrived.wait()
        if self._ended:
            return None
        self._arrived.clear()
        return self._message

    def put(self, message: str) -> None:
        self._message = message
        self._arrived.set()

    def end(self) -> None:
        self._ended = True
        self._arrived.set()


@dataclass
class _Zone:
    """Those who listen to days in one time zone. Times are those of the event loop, in seconds."""

    listeners: set[Listener] = field(default_factory=set)
    new: set[Listener] = field(default_factory=set)
    told: str | None = None
    told_at: float = float("-inf")
    looked_at: float = float("-inf")
    version: int | None = None


class Broadcast:
    """Looks at the store while somebody listens, and tells what has changed, at most once a second.

    Args:
        clock: the present time, aware; what "recent" is told by.
        version: what the store is at, another number after each write; None where that can't be
            known, because other processes write too: then the store is asked every second.
    """

    def __init__(
        self,
        service: AnalyticsService,
        store: ClickHouseClient,
        clock: Callable[[], datetime],
        version: Callable[[], int | None],
    ) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._version = version
        self._zones: dict[str, _Zone] = {}
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def listeners(self) -> int:
        return sum(len(zone.listeners) for zone in self._zones.values())

    @contextmanager
    def listening(self, timezone: str) -> Iterator[Listener]:
        """A listener, whose first message comes at once: what is so now."""
        listener = Listener()
        if self._stopped:
            listener.end()
            yield listener
            return
        zone = self._zones.setdefault(timezone, _Zone())
        zone.listeners.add(listener)
        zone.new.add(listener)
        self._joined.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="live")
        try:
            yield listener
        finally:
            zone.listeners.discard(listener)
            zone.new.discard(listener)
            if not zone.listeners and self._zones.get(timezone) is zone:
                del self._zones[timezone]

    def stop(self) -> None:
        """Let everybody go. To be called in the event loop."""
        self._stopped = True
        self._joined.set()
        for zone in self._zones.values():
            for listener in zone.listeners:
                listener.end()

    async def close(self) -> None:
        """Stop, and wait until the store is asked nothing any more."""
        self.stop()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._zones and not self._stopped:
            self._joined.clear()
            # One after another: however many zones are asked for, the store has one look at a time.
            for timezone, zone in list(self._zones.items()):
                if self._is_due(zone):
                    await self._look(timezone, zone)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._joined.wait()
            except TimeoutError:
                pass

    def _is_due(self, zone: _Zone) -> bool:
        now = asyncio.get_running_loop().time()
        if zone.new:
            return True
        if now < max(zone.told_at, zone.looked_at) + _BETWEEN_SECONDS:
            return False
        version = self._version()
        return version is None or version != zone.version or now >= zone.looked_at + _STILL_SECONDS

    async def _look(self, timezone: str, zone: _Zone) -> None:
        clock = asyncio.get_running_loop().time
        zone.version = self._version()  # before asking: what is written meanwhile is a change
        zone.looked_at = clock()
        joined, zone.new = zone.new, set()
        message: Snapshot | Unavailable
        try:
            message = await self._snapshot(timezone)
        except AnalyticsError as error:
            logger.debug("nothing to tell: %s", error)
            message = Unavailable()
        except Exception as error:
            logger.error("nothing to tell", exc_info=error)
            message = Unavailable()
        # The time alone is no change.
        told = message.model_dump_json(exclude={"as_of": True, "now": {"as_of"}})
        text = message.model_dump_json()
        changed = told != zone.told
        if changed and clock() < zone.told_at + _BETWEEN_SECONDS:
            # Only those who have just come are told; the others hear of it when a second is over.
            changed = False
            zone.version = None
            zone.looked_at = zone.told_at
        for listener in zone.listeners if changed else joined:
            listener.put(text)
        if changed:
            zone.told, zone.told_at = told, clock()

    async def _snapshot(self, timezone: str) -> Snapshot:
        recent = {"now": int(self._clock().timestamp()), "seconds": RATE_SECONDS}
        now, trends, hours, [rate] = await asyncio.gather(
            watched_now(self._service, self._service.second()),
            self._service.get_viewing_trends(1, timezone),
            self._service.get_peak_hours(1, timezone),
            self._store.execute(load_query("recent_events"), recent),
        )
        [today] = trends.items
        return Snapshot(
            as_of=now.as_of,
            now=now,
            events_per_second=round(rate["events"] / RATE_SECONDS, 2),
            today=Today(
                date=today.date,
                total_views=today.starts,
                finishes=today.finishes,
                events_count=sum(hour.events_count for hour in hours.items),
                unique_viewers=today.unique_users,
                completion_rate=completion_rate(today.starts, today.finishes),
            ),
        )
