"""Rollups that are made anew from the events, for some days, while everything else goes on."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import date
from functools import partial
from typing import Protocol, TypeVar

from app.core.clickhouse_client import ClickHouseClient, Parameters, load_query
from app.core.errors import NotOnClusterError, StoreError, StoreUnavailableError
from app.ingest.lease import Turn
from app.ingest.pieces import OF_DAYS, pieces_of
from app.ingest.removal import is_under_way
from app.ingest.rollups import Rollup
from app.ingest.swap import Draft, drop_drafts

logger = logging.getLogger(__name__)

T = TypeVar("T")

_OF_DAYS_UP_TO_BATCH = f"{OF_DAYS} AND batch_id <= {{last_batch:UInt64}}"
_OF_BATCHES = "batch_id BETWEEN {first_batch:UInt64} AND {last_batch:UInt64}"


class InTurn(Protocol):
    """`Writer.in_turn`: does something between two flushes."""

    def __call__(self, work: Callable[[Turn], Awaitable[T]]) -> Awaitable[T]: ...


async def rebuild(
    store: ClickHouseClient,
    rollups: Sequence[Rollup],
    days: Iterable[date],
    *,
    in_turn: InTurn,
    first_kept: date,
) -> None:
    """Make each rollup exactly what the events say now, in all its rows about these UTC days.

    Events are taken and questions answered meanwhile: an answer has a rollup as it was or as it
    will be, none in between. Killed anywhere, a rollup is as it was or as it should be, at the
    latest when the next process has started; calling it again does what is left. It works on what
    is in the store when it is called: delete events before, not meanwhile.

    A row about several days is made from all of them. One that begins before `first_kept`, whose
    events are not all there, is given what they say and keeps what it has.

    Args:
        days: those before `first_kept` are left as they are.
        in_turn: of the process's writer.
        first_kept: the first day of which every event is still stored.

    Raises:
        StoreUnavailableError: also when another process has begun to rebuild meanwhile, or a user
            is being removed.
        NotOnClusterError: with CLICKHOUSE_CLUSTER.
    """
    if store.cluster is not None:
        raise NotOnClusterError("rollups can't be rebuilt on a cluster")
    wanted = sorted({day for day in days if day >= first_kept})
    if not wanted or not rollups:
        return
    about: Parameters = {"of_days": wanted, "first_kept": first_kept}

    async def begin(turn: Turn) -> tuple[list[Draft], int]:
        await _refuse_while_removing(store)
        await drop_drafts(store)
        drafts = [Draft(store, rollup, turn.number) for rollup in rollups]
        for draft in drafts:
            await draft.begin(turn.fence, about)
        if turn.fence is not None:
            # Had the turn been taken away meanwhile, a draft could have rows of later batches.
            await store.execute(f"SELECT {turn.fence.condition}", ahead=True, fence=turn.fence)
        return drafts, turn.number - 1

    await _refuse_while_removing(store)  # here too: a turn that fails interrupts what it asks for
    drafts, last = await in_turn(begin)
    try:
        await _finish(store, drafts, wanted, first_kept, last, in_turn)
    except StoreError as error:
        there = await store.execute(load_query("tables_named"), {"prefix": drafts[-1].table})
        if there:
            raise
        raise StoreUnavailableError("another process has begun to rebuild") from error
    logger.info("rebuilt %s for %d days", ", ".join(one.table for one in rollups), len(wanted))


async def _refuse_while_removing(store: ClickHouseClient) -> None:
    """The copies without the user would put back what is rebuilt."""
    if await is_under_way(store):
        raise StoreUnavailableError("a user is being removed; try again later")


async def _finish(
    store: ClickHouseClient,
    drafts: Sequence[Draft],
    wanted: Sequence[date],
    first_kept: date,
    last: int,
    in_turn: InTurn,
) -> None:
    for draft in drafts:
        await _build(store, draft, wanted, first_kept, last)
    # What was written while they were built, in two steps: the last one, in a turn, is short.
    now = await in_turn(_number_before)
    for draft in drafts:
        if now > last:
            more = {"first_batch": last + 1, "last_batch": now}
            await draft.add(_rows(draft.rollup, _OF_BATCHES), more)
    for draft in drafts:
        await in_turn(partial(_decide, draft, now + 1))


async def _number_before(turn: Turn) -> int:
    return turn.number - 1


async def _decide(draft: Draft, first: int, turn: Turn) -> None:
    condition = "1" if turn.fence is None else turn.fence.condition
    await draft.decide(
        turn.number,
        turn.fence,
        f"{_rows(draft.rollup, _OF_BATCHES)} WHERE {condition}",
        {"first_batch": first, "last_batch": turn.number - 1},
    )


async def _build(
    store: ClickHouseClient, draft: Draft, days: Sequence[date], first_kept: date, last: int
) -> None:
    rollup = draft.rollup
    about: Parameters = {"of_days": days, "first_kept": first_kept}
    read = await _days_of_rows(store, draft, about) if rollup.spans_days else days
    # Some days at a time: memory doesn't grow with the days, and sums and states can be added.
    for first_day, last_day in await pieces_of(store, read):
        await draft.add(
            f"{_rows(rollup, _OF_DAYS_UP_TO_BATCH)} WHERE {rollup.is_of_days}",
            {**about, "first_day": first_day, "last_day": last_day, "last_batch": last},
        )
    await draft.complete(
        f"NOT ({rollup.is_of_days} AND {rollup.first_day} >= {{first_kept:Date}})", about
    )


async def _days_of_rows(store: ClickHouseClient, draft: Draft, about: Parameters) -> Sequence[date]:
    """All kept days that are in a row about one of some days."""
    rollup = draft.rollup
    # Rows that are there, and those that should be: an event of each day tells which.
    an_event = (
        "event_time IN (SELECT min(event_time) FROM viewing_events"
        " WHERE has({of_days:Array(Date)}, toDate(event_time)) GROUP BY toDate(event_time))"
    )
    rows = await store.execute(
        f"SELECT DISTINCT day FROM (SELECT {rollup.every_day} AS day FROM {draft.before}"
        f" WHERE {rollup.is_of_days} UNION ALL SELECT {rollup.every_day} AS day"
        f" FROM ({rollup.source_of(an_event)}) WHERE {rollup.is_of_days}"
        ") WHERE day >= {first_kept:Date} ORDER BY day",
        about,
    )
    return [date.fromisoformat(row["day"]) for row in rows]


def _rows(rollup: Rollup, condition: str) -> str:
    return f"SELECT {rollup.columns} FROM ({rollup.source_of(condition)})"
