"""Whether the rollups say what the events say, day by day, and their repair where they don't.

Every row of every rollup is compared with what its SELECT makes of the events now: whether it is
there, each sum, and each state by the numbers of ids in it, in what it should be, and in both
together, which are the same only where the ids are.

A row about several days is compared with the rows of one day that it is made of, which are compared
with the events: days can then be read one after another, however long the rows are.

Projections are no part of it: they are written with the events' parts, and come and go with them.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter

from app.core.clickhouse_client import ClickHouseClient, Parameters, Row
from app.core.errors import UnderWayError
from app.ingest.lease import Turn
from app.ingest.pieces import OF_DAYS, events_by_day, joined
from app.ingest.rebuild import InTurn, rebuild
from app.ingest.rollups import AN_EVENT, Rollup, load_rollups
from app.schemas.admin import Audit, Difference, Repair

logger = logging.getLogger(__name__)

_DAY = timedelta(days=1)
# Rows that should not be there may be of any day: the last piece has no end.
_END = date(2106, 2, 6)
_EPOCH = date(1970, 1, 1)


class Auditor:
    """Audits and repairs the rollups of a store, one call at a time.

    Args:
        in_turn: of the process's writer.
        first_kept: the first day of which every event is still stored.
        clock: the present time.
    """

    def __init__(
        self,
        store: ClickHouseClient,
        in_turn: InTurn,
        first_kept: Callable[[], date],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._in_turn = in_turn
        self._first_kept = first_kept
        self._clock = clock
        self._busy = False

    async def audit(self, days: int) -> Audit:
        """Compare the last so many UTC days with the events, as far as these are kept.

        Changes nothing. What is written meanwhile is no difference: where there seems to be one it
        is looked for again between two flushes, which wait for that.

        Raises:
            UnderWayError: another audit or repair is under way in this process.
            StoreUnavailableError, StoreError
        """
        with self._alone():
            return await self._audit(days)

    async def repair(self, days: int) -> Repair:
        """Rebuild what an audit of these days finds wrong, and look at it again.

        Raises:
            UnderWayError: another audit or repair is under way in this process.
            NotOnClusterError: with CLICKHOUSE_CLUSTER.
            StoreUnavailableError, StoreError
        """
        with self._alone():
            began = self._now()
            found = await self._audit(days)
            for rollup in await load_rollups(self._store):
                wrong = {one.day for one in found.differences if one.rollup == rollup.table}
                await rebuild(
                    self._store,
                    [rollup],
                    wrong,
                    in_turn=self._in_turn,
                    first_kept=self._first_kept(),
                )
            left = await self._audit(days) if found.differences else found
            return Repair(
                repaired=found.differences,
                differences=left.differences,
                took_seconds=round(self._now() - began, 3),
            )

    async def _audit(self, days: int) -> Audit:
        began = self._now()
        today = self._clock().astimezone(UTC).date()
        first = max(self._first_kept(), today - (days - 1) * _DAY)
        last = today + _DAY  # the clock of who sends an event may be ahead
        rollups = await load_rollups(self._store)
        events = await events_by_day(self._store, first, last)
        differences: list[Difference] = []
        for rollup in rollups:
            for piece in await self._pieces(rollup, first, last, events):
                differences += await self._differences(piece)
        wrong = sorted({(one.rollup, str(one.day)) for one in differences})
        for table, days_of_table in groupby(wrong, key=itemgetter(0)):
            days_there = [day for _, day in days_of_table]
            logger.warning(
                "%s differs from the events on %d days from %s on",
                table, len(days_there), days_there[0],
            )  # fmt: skip
        return Audit(
            first_day=first,
            last_day=today,
            days=(today - first).days + 1,
            rollups=[rollup.table for rollup in rollups],
            differences=differences,
            took_seconds=round(self._now() - began, 3),
        )

    async def _pieces(
        self, rollup: Rollup, first: date, last: date, events: Mapping[date, int]
    ) -> list["_Piece"]:
        days = [first + n * _DAY for n in range((last - first).days + 1)]
        ranges = joined((day, day, events.get(day, 0)) for day in days)
        spans = await self._spans(rollup)
        pieces: list[_Piece] = [_Days(rollup, spans, *between) for between in _open(ranges)]
        for span in spans:
            # Those that begin with a day that is kept.
            starts = [day for day in days if _place_in_span(day, span) == 0]
            ranges = joined(
                (
                    start,
                    start + (span - 1) * _DAY,
                    sum(events.get(start + n * _DAY, 0) for n in range(span)),
                )
                for start in starts
            )
            pieces += [_Spans(rollup, span, *between) for between in _open(ranges)]
        return pieces

    async def _spans(self, rollup: Rollup) -> list[int]:
        """Of how many days rows are, other than one."""
        if not rollup.spans_days:
            return []
        rows = await self._store.execute(
            f"SELECT DISTINCT days FROM ({rollup.source_of(AN_EVENT)}) WHERE days > 1 ORDER BY days"
        )
        return [row["days"] for row in rows]

    async def _differences(self, piece: "_Piece") -> list[Difference]:
        # The limits of a reader's query are not for this one.
        sql = f"{piece.comparison} SETTINGS max_execution_time = 0"
        rows = await self._store.execute(sql, piece.about)
        if not rows:
            return []
        days = [date.fromisoformat(row["day"]) for row in rows]
        again = piece.narrowed(days[0], days[-1])
        certain = await self._in_turn(partial(self._look, again))
        return [one for row in certain for one in again.differences(row)]

    async def _look(self, piece: "_Piece", turn: Turn) -> list[Row]:
        return await self._store.execute(
            piece.comparison, piece.about, ahead=True, fence=turn.fence
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            raise UnderWayError("another audit or repair is under way")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _open(ranges: list[tuple[date, date]]) -> list[tuple[date, date]]:
    """The same, but without an end."""
    return [*ranges[:-1], *((first, _END) for first, _ in ranges[-1:])]


def _place_in_span(day: date, span: int) -> int:
    """How many days after the first of its rows of so many days a day is."""
    return (day - _EPOCH).days % span


class _Piece(ABC):
    """Some rows of a rollup, and what they should be."""

    def __init__(self, rollup: Rollup, first: date, last: date) -> None:
        self.rollup = rollup
        self.about: Parameters = {"first_day": first, "last_day": last}

    @property
    @abstractmethod
    def expected(self) -> str:
        """SQL: the rows as they should be."""

    @property
    @abstractmethod
    def found(self) -> str:
        """SQL: the condition for those of the rollup."""

    @abstractmethod
    def narrowed(self, first: date, last: date) -> "_Piece":
        """The part in which there seem to be differences, about days from one to another."""

    @property
    def comparison(self) -> str:
        """SQL: a row for each day of which rows differ."""
        rollup = self.rollup
        keys = ", ".join(rollup.keys)
        values = ["countIf(side = 0) AS expected_rows", "countIf(side = 1) AS found_rows"]
        differ = ["expected_rows = 0", "found_rows = 0"]
        for column in rollup.sums:
            values += [
                f"sumIf(both.{column}, side = 0) AS expected_{column}",
                f"sumIf(both.{column}, side = 1) AS found_{column}",
            ]
            differ.append(f"expected_{column} != found_{column}")
        for column, function in zip(rollup.states, rollup.functions, strict=True):
            name, bracket, parameters = function.partition("(")
            merged = f"{name}Merge{bracket}{parameters}(both.{column})"
            of_side = f"{name}MergeIf{bracket}{parameters}(both.{column}, side = "
            values += [
                f"{of_side}0) AS expected_{column}",
                f"{of_side}1) AS found_{column}",
                f"{merged} AS united_{column}",
            ]
            differ += [
                f"expected_{column} != found_{column}",
                f"united_{column} != found_{column}",
            ]
        totals = [
            f"sum({side}_{column}) AS all_{side}_{column}"
            for column in (*rollup.sums, *rollup.states)
            for side in ("expected", "found")
        ]
        return f"""
            SELECT
                day,
                countIf({" OR ".join(differ)}) AS different,
                {"".join(f"{total}, " for total in totals)}
                countIf(expected_rows > 0) AS all_expected_rows,
                countIf(found_rows > 0) AS all_found_rows
            FROM
            (
                SELECT {keys}, {rollup.first_day} AS day, {", ".join(values)}
                FROM
                (
                    SELECT 0 AS side, {rollup.columns} FROM ({self.expected})
                    UNION ALL
                    SELECT 1 AS side, {rollup.columns} FROM {rollup.table} WHERE {self.found}
                ) AS both
                GROUP BY {keys}
            )
            GROUP BY day
            HAVING different > 0
            ORDER BY day
        """

    def differences(self, row: Row) -> list[Difference]:
        """What a row of the comparison says."""

        def one(what: str, expected: int, found: int) -> Difference:
            return Difference(
                day=row["day"], rollup=self.rollup.table, what=what, expected=expected, found=found
            )

        columns = ("rows", *self.rollup.sums, *self.rollup.states)
        pairs = [(what, row[f"all_expected_{what}"], row[f"all_found_{what}"]) for what in columns]
        differing = [one(*pair) for pair in pairs if pair[1] != pair[2]]
        return [one("rows that differ", 0, row["different"]), *differing]


class _Days(_Piece):
    """Rows of one day each, to be compared with the events."""

    def __init__(self, rollup: Rollup, spans: Sequence[int], first: date, last: date) -> None:
        super().__init__(rollup, first, last)
        self._spans = spans

    @property
    def expected(self) -> str:
        source = self.rollup.source_of(OF_DAYS)
        return f"SELECT * FROM ({source}) WHERE days = 1" if self._spans else source

    @property
    def found(self) -> str:
        between = f"{self.rollup.first_day} BETWEEN {{first_day:Date}} AND {{last_day:Date}}"
        # So that one of another number of days, which nobody has made, is found too.
        spans = ", ".join(map(str, self._spans))
        return f"{between} AND days NOT IN ({spans})" if spans else between

    def narrowed(self, first: date, last: date) -> "_Days":
        return _Days(self.rollup, self._spans, first, last)


class _Spans(_Piece):
    """Rows of so many days each, to be compared with those of one day."""

    def __init__(self, rollup: Rollup, days: int, first: date, last: date) -> None:
        super().__init__(rollup, first, last)
        self._days = days
        self.about = {**self.about, "span": days}

    @property
    def expected(self) -> str:
        rollup = self.rollup
        others = [key for key in rollup.keys if key not in ("days", rollup.time)]
        keys = ", ".join(others)
        values = ", ".join((*others, *rollup.states))
        return f"""
            SELECT
                {values},
                {{span:UInt16}} AS days,
                row_time - toIntervalDay(toUInt32(toDate(row_time)) % {{span:UInt16}})
                    AS {rollup.time}
            FROM (SELECT {values}, {rollup.time} AS row_time FROM {rollup.table} WHERE days = 1)
            WHERE toDate(row_time) BETWEEN {{first_day:Date}} AND {{last_day:Date}}
              AND ({keys}) IN
                  (SELECT {keys} FROM ({rollup.source_of(AN_EVENT)}) WHERE days = {{span:UInt16}})
        """

    @property
    def found(self) -> str:
        between = f"{self.rollup.first_day} BETWEEN {{first_day:Date}} AND {{last_day:Date}}"
        return f"{between} AND days = {{span:UInt16}}"

    def narrowed(self, first: date, last: date) -> "_Spans":
        start = first - _place_in_span(first, self._days) * _DAY
        end = last + (self._days - 1 - _place_in_span(last, self._days)) * _DAY
        return _Spans(self.rollup, self._days, start, end)
