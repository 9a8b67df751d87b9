"""What the rollups lack after an insert was cut short, and adding it.

An insert puts its rows into viewing_events first and then into each rollup in turn, so a rollup can
lag behind the events but never lead. Flushes follow one another, so only rows of batches that were
not completed can be missing. Which rollups there are, and what they hold, is asked of the store:
another one in `clickhouse/schema.sql` needs nothing here.
"""

import logging
import re
from dataclasses import dataclass

from app.core.clickhouse_client import ClickHouseClient, Fence, Row, load_query
from app.core.errors import StoreError
from app.core.schema import UNFILLED

logger = logging.getLogger(__name__)

_EVENTS = "viewing_events"
AN_EVENT = f"event_time IN (SELECT min(event_time) FROM {_EVENTS})"
"""SQL: the condition for the first event, or a few: enough to see what rows an event makes."""
_STATE = re.compile(r"AggregateFunction\((\w+(?:\([^()]*\))?), ")


@dataclass(frozen=True, slots=True)
class Rollup:
    """A table, the SELECT over the events that fills it, and its columns by their part in it.

    Attributes:
        functions: what each state is of, with its parameters: `uniqCombined64(17)`.
        time: the key that says when, or from when on, a row is about.
    """

    table: str
    source: str
    keys: tuple[str, ...]
    sums: tuple[str, ...]
    states: tuple[str, ...]
    functions: tuple[str, ...]
    time: str

    @property
    def columns(self) -> str:
        """All of them, for SQL."""
        return ", ".join((*self.keys, *self.sums, *self.states))

    @property
    def first_day(self) -> str:
        """SQL: the first UTC day that a row is about."""
        return f"toDate({self.time})"

    @property
    def spans_days(self) -> bool:
        """Whether a row may be about several UTC days, as many as its column `days` says."""
        return "days" in self.keys

    @property
    def every_day(self) -> str:
        """SQL: each UTC day that a row is about, a row for each."""
        days = " + arrayJoin(range(days))" if self.spans_days else ""
        return f"{self.first_day}{days}"

    @property
    def is_of_days(self) -> str:
        """SQL: whether a row is about one of the UTC days in the parameter `of_days`."""
        if not self.spans_days:
            return f"has({{of_days:Array(Date)}}, {self.first_day})"
        return (
            f"arrayExists(day -> day >= {self.first_day} AND day < {self.first_day} + days,"
            " {of_days:Array(Date)})"
        )

    def source_of(self, condition: str) -> str:
        """The SELECT of the events alone for which the condition holds."""
        events = f"(SELECT * FROM {_EVENTS} WHERE {condition})"
        return self.source.replace(_EVENTS, events, 1)


async def load_rollups(store: ClickHouseClient, fence: Fence | None = None) -> list[Rollup]:
    """All rollups of the store's database over viewing_events.

    Raises:
        StoreError: one doesn't have the form that `clickhouse/schema.sql` asks for.
    """
    rows = await store.execute(load_query("rollups"), ahead=True, fence=fence)
    return [_rollup(row) for row in rows]


def _rollup(row: Row) -> Rollup:
    kinds = [_STATE.match(kind) for kind in row["state_types"]]
    if len(row["times"]) != 1:
        raise StoreError(f"the ORDER BY of the rollup {row['table']} must have one date or time")
    return Rollup(
        row["table"],
        row["source"],
        tuple(row["keys"]),
        tuple(row["sums"]),
        tuple(row["states"]),
        tuple(kind[1] for kind in kinds if kind),
        row["times"][0],
    )


async def repair_rollup(
    store: ClickHouseClient, rollup: Rollup, first: int, last: int, fence: Fence | None = None
) -> None:
    """Add what the events say and the rollup doesn't, for every key that the batches touch.

    Doing it again adds nothing, and being killed half-way leaves the rest to the next time: sums
    are compared before they are added, and a state that is merged twice counts once.

    Args:
        first, last: numbers of batches, both inclusive.
    """
    statement = repair_statement(rollup, "1" if fence is None else fence.condition)
    await store.execute(
        statement, {"first_batch": first, "last_batch": last}, ahead=True, fence=fence
    )


async def fill_new_rollups(store: ClickHouseClient, fence: Fence | None) -> None:
    """Give rollups that are new to a store the events that it had before them.

    Being killed half-way leaves it to the next start, which may do some of it again.
    """
    unfilled = await store.execute(load_query("unfilled_rollups"), ahead=True, fence=fence)
    new = {row["table"] for row in unfilled}
    for rollup in await load_rollups(store, fence) if new else []:
        if rollup.table not in new:
            continue
        logger.info("filling the new rollup %s", rollup.table)
        first = 0
        for row in await store.execute(load_query("batch_spans"), ahead=True, fence=fence):
            await repair_rollup(store, rollup, first, row["last_batch"], fence)
            first = row["last_batch"] + 1
        await store.execute(f"DROP TABLE IF EXISTS {UNFILLED}{rollup.table}", ahead=True)


def repair_statement(rollup: Rollup, condition: str = "1") -> str:
    """The INSERT that repairs; it adds nothing where the condition doesn't hold."""
    keys = ", ".join(rollup.keys)
    columns = rollup.columns
    of_source = rollup.source_of("batch_id BETWEEN {first_batch:UInt64} AND {last_batch:UInt64}")
    if not rollup.sums:
        # Nothing to compare: what the batches hold is merged in, be it there or not.
        return f"""
            INSERT INTO {rollup.table} ({columns})
            SELECT {columns} FROM ({of_source}) WHERE {condition}
        """
    touched = f"SELECT {keys} FROM ({of_source})"
    sums = ", ".join(f"sum({rollup.table}.{column}) AS {column}" for column in rollup.sums)
    # Never negative, though retention may have taken events that the rollup still counts.
    missing = [
        f"greatest(toInt64(there.{column}) - toInt64(here.{column}), 0) AS {column}"
        for column in rollup.sums
    ]
    values = ", ".join(
        [
            *(f"there.{key}" for key in rollup.keys),
            *missing,
            *(f"there.{state}" for state in rollup.states),
        ]
    )
    lacks = " OR ".join(f"there.{column} > here.{column}" for column in rollup.sums)
    return f"""
        INSERT INTO {rollup.table} ({columns})
        SELECT {values}
        FROM (SELECT * FROM ({rollup.source}) WHERE ({keys}) IN ({touched})) AS there
        LEFT JOIN
        (
            SELECT {keys}, {sums}
            FROM {rollup.table}
            WHERE ({keys}) IN ({touched})
            GROUP BY {keys}
        ) AS here USING ({keys})
        WHERE ({lacks}) AND {condition}
    """
