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
from app.services.analytics_service import AnalyticsService
from app.services.live import watched_now
from app.services.totals import overview

logger = logging.getLogger(__name__)

# Nobody is told more often than this, and the store is asked no more often unless somebody comes.
_BETWEEN_SECONDS = 1.0
# Without anything written, what is watched now still changes: sessions fall silent, days end.
_STILL_SECONDS = 5.0
# How often it is seen whether anything was written. It costs a comparison of two numbers.
_LOOK_SECONDS = 0.05
# A store that is silent for so long is said to be away.
_PATIENCE_SECONDS = 5.0
# A snapshot names so many films: a large cinema's would be a megabyte, each second, to everyone.
MAX_FILMS = 100
# What `events_per_second` is the mean of.
RATE_SECONDS = 60


class Listener:
    """One who is connected. Of messages that it has not been sent yet, it keeps the newest."""

    def __init__(self) -> None:
        self._message: str | None = None
        self._given_at = float("-inf")
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()

    async def next(self) -> str | None:
        """The next message, not sooner than a second after the last; None if there will be none."""
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(self._given_at + _BETWEEN_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            await self._arrived.wait()
        if self._ended.is_set():
            return None
        self._arrived.clear()
        self._given_at = clock()
        return self._message

    def put(self, message: str) -> None:
        self._message = message
        self._arrived.set()

    def end(self) -> None:
        self._ended.set()
        self._arrived.set()


@dataclass
class _Zone:
    """Those who listen to days in one time zone.

    Attributes:
        new: of the listeners, those who have not been told anything yet.
        message: what was told last; `content`: what of it counts as news.
        version: what the store was at, before it was asked for that, at `looked_at` (seconds of the
            event loop's clock).
    """

    listeners: set[Listener] = field(default_factory=set)
    new: set[Listener] = field(default_factory=set)
    message: str = ""
    content: str = ""
    version: int | None = None
    looked_at: float = float("-inf")


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
        age = asyncio.get_running_loop().time() - zone.looked_at
        version = self._version()
        if version is not None and version == zone.version and age < _STILL_SECONDS:
            # Nothing has changed, not for those who have just come either.
            self._tell_new(zone)
            return False
        return bool(zone.new) or age >= _BETWEEN_SECONDS

    async def _look(self, timezone: str, zone: _Zone) -> None:
        zone.version = self._version()  # before asking: what is written meanwhile is a change
        zone.looked_at = asyncio.get_running_loop().time()
        asking = asyncio.create_task(self._snapshot(timezone))
        if not (await asyncio.wait({asking}, timeout=_PATIENCE_SECONDS))[0]:
            for waiting in self._zones.values():
                self._tell(waiting, Unavailable())
            await asyncio.wait({asking})
        error = asking.exception()
        if error is None:
            self._tell(zone, asking.result())
            return
        if not isinstance(error, AnalyticsError):
            logger.error("nobody can be told what is happening", exc_info=error)
        self._tell(zone, Unavailable())

    def _tell(self, zone: _Zone, message: Snapshot | Unavailable) -> None:
        zone.message = message.model_dump_json()
        # The time alone is no news.
        content = message.model_dump_json(exclude={"as_of": True, "now": {"as_of"}})
        if content == zone.content:
            self._tell_new(zone)
            return
        zone.content = content
        zone.new.clear()
        for listener in zone.listeners:
            listener.put(zone.message)

    def _tell_new(self, zone: _Zone) -> None:
        for listener in zone.new:
            listener.put(zone.message)
        zone.new.clear()

    async def _snapshot(self, timezone: str) -> Snapshot:
        end = int(self._clock().timestamp()) + 1
        recent = {"start": end - RATE_SECONDS, "end": end}
        async with self._store.gate.shared():
            now, today, [rate] = await asyncio.gather(
                watched_now(self._service, self._service.second()),
                overview(self._service, 1, timezone, False),
                self._store.execute(load_query("events_between"), recent),
            )
        return Snapshot(
            as_of=now.as_of,
            now=now.model_copy(update={"movies": now.movies[:MAX_FILMS]}),
            events_per_second=round(rate["events"] / RATE_SECONDS, 2),
            today=Today(
                date=today.period_end,
                total_views=today.total_views,
                finishes=today.finishes,
                events_count=today.events_count,
                unique_viewers=today.unique_viewers,
                completion_rate=today.completion_rate,
            ),
        )
