"""The one way into the store: collect, drop what is there already, insert, then acknowledge."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import numpy as np

from app.core.block import Array
from app.core.clickhouse_client import ClickHouseClient, Fence, load_query, open_clickhouse
from app.core.config import Settings
from app.core.errors import (
    AnalyticsError,
    StoreUnavailableError,
    UserErasedError,
    WriteBufferFullError,
)
from app.ingest.events import UUID_BYTES, Events, key_of
from app.ingest.lease import Lease, Turn, lease_for
from app.ingest.removal import drop_unrecorded_copies
from app.ingest.retention import Retention, apply_retention
from app.ingest.rollups import fill_new_rollups, load_rollups
from app.ingest.swap import drop_drafts
from app.ingest.tombstones import Tombstones

logger = logging.getLogger(__name__)

_DAY_SECONDS = 24 * 60 * 60
_SETTLE_SECONDS = 2.0
# Clients that send at the same time are not farther apart than this.
_PAUSE_SECONDS = 0.002
# So many ids are asked for faster as text in a query than as a table beside it.
_FEW_EVENTS = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Submission:
    """Events that are acknowledged together: `stored` gets an array of bool, or an error."""

    events: Events
    limited: bool
    arrived: float
    stored: asyncio.Future[Array]


@dataclass(frozen=True, slots=True)
class _Errand:
    """Something that is done in a turn of its own: `done` gets its result, or an error."""

    work: Callable[[Turn], Awaitable[Any]]
    done: asyncio.Future[Any]


class _Flush(NamedTuple):
    submissions: int
    seconds: float


class Writer:
    """Group commit for any number of callers. There is one in a process.

    Flushes follow one another, also those of other processes that write to the same store; what
    arrives meanwhile forms the next one. Each has a number, the `batch_id` of its rows. After a
    flush that was cut short, by a fault here or by the death of a process, the rollups are brought
    to the events before anything else is written.

    Args:
        store: connected, with its tables.
        lease: gives the turns to write.
        batch_events: a batch is flushed as soon as it holds so many events,
        batch_age: or when its first event has waited so many seconds.
        buffer_events: events that may wait or be under way; past that, `write` refuses.
        clock: the present time, for events that repeat whatever had their id in the last day.
        retention: of the store.
    """

    def __init__(
        self,
        store: ClickHouseClient,
        lease: Lease,
        *,
        batch_events: int,
        batch_age: float,
        buffer_events: int,
        clock: Callable[[], datetime],
        retention: Retention = Retention(),  # noqa: B008 - it can't be changed
    ) -> None:
        self._store = store
        self._lease = lease
        self._batch_events = batch_events
        self._batch_age = batch_age
        self._buffer_events = buffer_events
        self._clock = clock
        self.tombstones = Tombstones(store)
        """Who was erased. `write` takes no event of theirs."""
        self.retention = retention
        self._waiting: deque[_Submission] = deque()
        self._waiting_events = 0
        self._errands: deque[_Errand] = deque()
        # Those that wait or are under way, and were let in while there was room.
        self._limited_events = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._last_flush = _Flush(0, 0.0)
        self._version = 0
        # Whether something may be left to repair.
        self._torn = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.on_flush: Callable[[int, float, bool], None] = lambda *_: None
        """Told of each flush: its events, how many seconds it took, and whether it failed."""

    @property
    def buffered_events(self) -> int:
        """Events that wait or are being written, of those that `buffer_events` limits."""
        return self._limited_events

    @property
    def version(self) -> int | None:
        """Another number after each change of the store; None where others change it too."""
        return self._version if self._store.exclusive else None

    def oldest(self, now: datetime) -> datetime:
        """The earliest time of an event that may be stored at the instant `now`."""
        return self.retention.oldest(now)

    async def start(self) -> None:
        """Repair what was cut short before, fill what is new, then take events.

        Raises:
            StoreUnavailableError, StoreError: the store can't be brought into order.
        """
        if not await self._mend():
            await self._refill()
        self._task = asyncio.create_task(self._run(), name="writer")

    async def write(self, events: Events, *, limited: bool = True) -> Array:
        """Have events stored; returns when they are, and every query sees them.

        Args:
            limited: refused when there is no room. Otherwise it takes none of the room of others:
                for a caller that hands in one batch at a time and nothing else meanwhile.

        Returns:
            An array of bool: of each event, whether it was stored; else it repeats one that is.

        Raises:
            WriteBufferFullError: there is no room; none of them was taken.
            StoreUnavailableError, StoreError: some may be stored, some not; sending all of them
                again stores the rest.
            UserErasedError: the user of one of them was erased since `tombstones` were asked; none
                is stored.
        """
        if not len(events):
            return np.zeros(0, np.bool_)
        if self._closing:
            raise StoreUnavailableError("the service is stopping")
        if limited and self._limited_events + len(events) > self._buffer_events:
            raise self._full_error()
        loop = asyncio.get_running_loop()
        submission = _Submission(events, limited, loop.time(), loop.create_future())
        self._limited_events += len(events) if limited else 0
        self._waiting.append(submission)
        self._waiting_events += len(events)
        self._arrived.set()
        if self._waiting_events >= self._batch_events:
            self._full.set()
        return await submission.stored

    def check_room(self) -> None:
        """Raises WriteBufferFullError where not even one event would be taken now."""
        if self._limited_events >= self._buffer_events:
            raise self._full_error()

    def _full_error(self) -> WriteBufferFullError:
        return WriteBufferFullError(f"{self._buffer_events} events are waiting to be written")

    async def in_turn(self, work: Callable[[Turn], Awaitable[T]]) -> T:
        """Do something between two flushes, while nobody else writes.

        Events wait meanwhile. When it fails, the rollups are brought to the events before anything
        else is written, as after a flush that was cut short; so it is when the process dies.

        Args:
            work: holds what it writes to the turn's fence.

        Raises:
            StoreUnavailableError, StoreError: there is no turn now.
            Whatever the work raises.
        """
        if self._closing:
            raise StoreUnavailableError("the service is stopping")
        errand = _Errand(work, asyncio.get_running_loop().create_future())
        self._errands.append(errand)
        self._arrived.set()
        result: T = await errand.done
        return result

    async def snapshot(self) -> Path:
        """A copy of the store as it is between two flushes.

        Raises:
            BackupRefusedError, StoreUnavailableError, StoreError: as the store does.
        """
        if not self._store.exclusive:
            return await self._store.snapshot()  # says how it is done there

        async def copy(_: Turn) -> Path:
            return await self._store.snapshot()

        return await self.in_turn(copy)

    async def close(self) -> None:
        """Refuse new events, flush those that wait, and stop."""
        self._closing = True
        self._arrived.set()
        self._full.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting or self._errands or not self._closing:
            if self._errands:
                await self._do(self._errands.popleft())
                if not self._waiting and not self._errands and not self._closing:
                    self._arrived.clear()
            if not self._waiting:
                if self._errands or self._closing:
                    continue
                await self._wait_for_events()
                continue
            await self._wait_for_more()
            batch = self._next_batch()
            began = asyncio.get_running_loop().time()
            failed = False
            try:
                taken, outcomes = await self._flush(batch)
                self._version += 1
            except Exception as error:
                self._version += 1  # some of it may be stored
                self._torn = failed = True
                self.tombstones.doubt()
                _log_failure("a batch is not stored", error)
                _fail(batch, error)
                if self._closing:  # whoever waits for the end has waited for one
                    _fail(self._waiting, error)
                    self._waiting.clear()
            else:
                _acknowledge(taken, outcomes)
            seconds = asyncio.get_running_loop().time() - began
            self._last_flush = _Flush(len(batch), seconds)
            self._limited_events -= sum(len(one.events) for one in batch if one.limited)
            self.on_flush(sum(len(one.events) for one in batch), seconds, failed)

    async def _do(self, errand: _Errand) -> None:
        try:
            await self._mend()
            turn = await self._lease.take()
            result = await errand.work(turn)
            await self._lease.give_back()
        except Exception as error:
            self._torn = True
            self.tombstones.doubt()
            _log_failure("what was to be done between two flushes is not done", error)
            if not errand.done.done():
                errand.done.set_exception(error)
        else:
            if not errand.done.done():
                errand.done.set_result(result)
        finally:
            self._version += 1

    async def _mend(self) -> bool:
        return await self._store.mend(
            self._refill, self.retention.first_whole_day(self._clock()), self._make_room
        )

    async def _make_room(self) -> None:
        await drop_drafts(self._store)
        await drop_unrecorded_copies(self._store)

    async def _refill(self) -> None:
        """Repair what was cut short, and fill the rollups that lack what was there before them."""
        turn = await self._lease.take()
        if self._store.exclusive:
            await drop_drafts(self._store)
        await fill_new_rollups(self._store, turn.fence)
        await self.tombstones.refresh(turn.fence)
        await self._lease.give_back()

    async def _wait_for_events(self) -> None:
        # What a writer has left behind is repaired soon, though nobody may come to write.
        if await _wait(self._arrived, _SETTLE_SECONDS):
            return
        try:
            if await self._mend():
                self._version += 1
            await self._lease.settle()
            if self._torn:
                self._version += 1
                self._torn = False
        except Exception as error:
            _log_failure("what was cut short is not repaired yet", error)

    async def _wait_for_more(self) -> None:
        """Until the batch is large or old enough; what came during the last flush may be now."""
        clock = asyncio.get_running_loop().time
        age = clock() - self._waiting[0].arrived
        if age < self._batch_age:
            await _wait(self._full, self._batch_age - age)
        # Several who were answered together send their next together. While they come one after
        # another, half a flush is worth waiting: else they part into groups that wait in turns.
        until = clock() + self._last_flush.seconds / 2
        came = 0 if self._last_flush.submissions > 1 else len(self._waiting)
        while came < len(self._waiting) and clock() < until and not self._full.is_set():
            came = len(self._waiting)
            await _wait(self._full, _PAUSE_SECONDS)

    def _next_batch(self) -> list[_Submission]:
        batch: list[_Submission] = []
        size = 0
        while self._waiting and (not batch or size < self._batch_events):
            submission = self._waiting.popleft()
            batch.append(submission)
            size += len(submission.events)
        self._waiting_events -= size
        if not self._waiting and not self._errands and not self._closing:
            self._arrived.clear()
        if self._waiting_events < self._batch_events and not self._closing:
            self._full.clear()
        return batch

    async def _flush(self, batch: list[_Submission]) -> tuple[list[_Submission], Array]:
        """Returns those that may be acknowledged, and of each of their events, if it was stored."""
        await self._mend()
        turn = await self._lease.take()
        # In the turn: who is erased later is removed with what is stored now.
        await self.tombstones.refresh(turn.fence)
        taken = []
        for submission in batch:
            if self.tombstones.among(submission.events).any():
                _fail([submission], UserErasedError("the user was erased"))
            else:
                taken.append(submission)
        outcomes = np.zeros(0, np.bool_)
        if taken:
            outcomes = await self._store_new(Events.joined([one.events for one in taken]), turn)
        await self._give_back()
        return taken, outcomes

    async def _store_new(self, events: Events, turn: Turn) -> Array:
        block = events.block(turn.number)
        await self._store.stage(block, fence=turn.fence)
        new = await self._are_new(events, turn.fence)
        if new.any():
            if not new.all():
                await self._store.stage(events.those(new).block(turn.number), fence=turn.fence)
            await self._store.insert_staged("viewing_events", block, fence=turn.fence)
        return new

    async def _give_back(self) -> None:
        try:
            await self._lease.give_back()
        except AnalyticsError as error:  # what was to be done is done nevertheless
            logger.warning("the turn to write is not given back: %s", error)

    async def _are_new(self, events: Events, fence: Fence | None) -> Array:
        """Of each staged event, whether neither the store nor an earlier one is the same."""
        known = await self._stored(events, fence)
        undated = events.rows["repeats_any_of_day"]
        last_seen = await self._stored_today(events.rows["id"][undated], fence)
        keys = events.keys()
        if not known and not last_seen and not undated.any() and len(set(keys)) == len(keys):
            return np.ones(len(events), np.bool_)
        outcomes = np.zeros(len(events), np.bool_)
        for place, (key, time, repeats_any_of_day) in enumerate(
            zip(keys, events.rows["event_time"].tolist(), undated.tolist(), strict=True)
        ):
            of_id = key[:UUID_BYTES]
            repeated = key in known or (
                repeats_any_of_day and last_seen.get(of_id, 0) >= time - _DAY_SECONDS
            )
            outcomes[place] = not repeated
            known.add(key)
            last_seen[of_id] = max(last_seen.get(of_id, 0), time)
        return outcomes

    async def _stored(self, events: Events, fence: Fence | None) -> set[bytes]:
        """The keys of the staged events that the store has, and of others."""
        if len(events) > _FEW_EVENTS:
            rows = await self._store.execute(load_query("stored_incoming"), ahead=True, fence=fence)
        else:
            about = {
                "ids": [UUID(bytes=bytes(one)) for one in events.rows["id"]],
                "times": np.unique(events.rows["event_time"]).tolist(),
            }
            rows = await self._store.execute(
                load_query("stored_events"), about, ahead=True, fence=fence
            )
        return {key_of(UUID(row["id"]), row["event_time"]) for row in rows}

    async def _stored_today(self, ids: Array, fence: Fence | None) -> dict[bytes, int]:
        """The last time of each id in the last 24 hours, for ids that have one."""
        wanted = list({UUID(bytes=bytes(one)) for one in ids})
        if not wanted:
            return {}
        rows = await self._store.execute(
            load_query("stored_ids_since"),
            {"ids": wanted, "since": int(self._clock().timestamp()) - _DAY_SECONDS},
            ahead=True,
            fence=fence,
        )
        return {UUID(row["id"]).bytes: row["last_time"] for row in rows}


@asynccontextmanager
async def opened_writer(
    settings: Settings, clock: Callable[[], datetime]
) -> AsyncIterator[tuple[ClickHouseClient, Writer]]:
    """The store, with its tables, and the writer for it; what a dead process left is repaired.

    Raises:
        ConfigurationError, StoreUnavailableError, StoreError: the store can't be opened.
    """
    async with AsyncExitStack() as stack:
        store = open_clickhouse(settings)
        stack.push_async_callback(store.close)
        await store.connect()
        await store.ensure_database()
        await store.ensure_tables()
        retention = await apply_retention(
            store,
            [rollup.table for rollup in await load_rollups(store)],
            settings.event_retention_days,
            settings.rollup_retention_days,
            clock(),
        )
        writer = Writer(
            store,
            lease_for(store),
            batch_events=settings.write_batch_events,
            batch_age=settings.write_batch_age_ms / 1000,
            buffer_events=settings.write_buffer_events,
            clock=clock,
            retention=retention,
        )
        stack.push_async_callback(writer.close)
        await writer.start()
        yield store, writer


def _log_failure(what: str, error: Exception) -> None:
    if isinstance(error, AnalyticsError):
        logger.warning("%s: %s", what, error)
    else:
        logger.error("%s", what, exc_info=error)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _fail(batch: Iterable[_Submission], error: Exception) -> None:
    for submission in batch:
        if not submission.stored.done():
            submission.stored.set_exception(error)


def _acknowledge(batch: Iterable[_Submission], outcomes: Array) -> None:
    start = 0
    for submission in batch:
        end = start + len(submission.events)
        # Its caller may have gone away; the events stay.
        if not submission.stored.done():
            submission.stored.set_result(outcomes[start:end])
        start = end
