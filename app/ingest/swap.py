"""Partitions of a rollup that are made anew beside it, and take its place at once.

A draft is a table of the rollup's form, `rebuilding_<turn>_<rollup>`. Beside it lies what the
rollup held when it was begun (hard links, no copies). When the draft is as it should be it is
renamed, in a turn, to `swapping_<turn>_<rollup>`; its comment, written next, says which partitions
it stands for: from then on the swap is decided, and whoever has the turn after a failure or a death
carries it out. REPLACE PARTITION shows readers the old rows or the new ones; only an engine that
dies in the middle of it finds both when it starts, until the swap is carried out once more, before
any question.

A late statement of a process that has lost its turn names a table that is gone, and fails.
"""

import json
import re
from collections.abc import Iterable

from app.core.clickhouse_client import ClickHouseClient, Fence, Parameters, Row, load_query
from app.ingest.pieces import copied_in_pieces
from app.ingest.rollups import Rollup

_DRAFT = "rebuilding_"
_DECIDED = "swapping_"
_DECIDED_NAME = re.compile(rf"{_DECIDED}(\d+)_(\w+)")
_EMPTIED = "_emptied"


def emptied(replacement: str) -> str:
    """The name of the table that takes the partitions for which the replacement has no row."""
    return f"{replacement}{_EMPTIED}"


def take_out(partition: str, emptied_table: str) -> str:
    """What empties a partition in an ALTER TABLE, where REPLACE PARTITION refuses: without a row.

    Not DROP PARTITION: this fails when it comes late, for that table is gone with the turn.
    """
    return f"MOVE PARTITION ID '{partition}' TO TABLE {emptied_table}"


class Draft:
    """What will take the place of some partitions of a rollup.

    Attributes:
        before: the table of what was in the rollup.
        table: the table of what will be in them; empty at first.
    """

    def __init__(self, store: ClickHouseClient, rollup: Rollup, turn: int) -> None:
        self.rollup = rollup
        self.table = f"{_DRAFT}{turn}_{rollup.table}"
        self.before = f"{self.table}_before"
        self._store = store
        self._partitions: set[str] = set()

    async def begin(self, fence: Fence | None, about: Parameters) -> None:
        """Of all partitions in which a row is of the days in `about`, or should be."""
        rollup = self.rollup
        for table in (self.before, self.table):
            await self._in_turn(f"CREATE TABLE {table} AS {rollup.table}", fence)
        partitions = f"SELECT DISTINCT _partition_id AS id FROM {rollup.table}"
        rows = await self._in_turn(f"{partitions} WHERE {rollup.is_of_days}", fence, about)
        self._partitions = {row["id"] for row in rows}
        # All: a day that has no row may belong into any.
        rows = await self._in_turn(partitions, fence)
        for partition in sorted(row["id"] for row in rows):
            await self._in_turn(
                f"ALTER TABLE {self.before} ATTACH PARTITION ID '{partition}' FROM {rollup.table}",
                fence,
            )

    async def add(self, rows: str, about: Parameters, settings: str = "") -> None:
        """Insert what the statement selects, outside of a turn. Once, or it raises.

        Args:
            settings: of the statement.
        """
        fence = None if self._store.exclusive else Fence(self.table, f"{self.table} is written")
        # The limits of a reader's query are not for those that build.
        statement = f"{self._insert_into(self.table)} {rows} SETTINGS max_execution_time = 0"
        if settings:
            statement += f", {settings}"
        await self._store.execute(statement, about, fence=fence)

    async def complete(self, others: str, about: Parameters) -> None:
        """What was added are the rows of the days: add all others of their partitions.

        What is added from now on to further partitions is not swapped: the rollup has it, and more.

        Args:
            others: SQL, the condition for a row of before that stays as it is.
        """
        rows = await self._store.execute(f"SELECT DISTINCT _partition_id AS id FROM {self.table}")
        self._partitions |= {row["id"] for row in rows}
        if self._partitions:
            await self.add(
                f"SELECT {self.rollup.columns} FROM {self.before}"
                f" WHERE _partition_id IN {{partitions:Array(String)}} AND ({others})",
                {**about, "partitions": sorted(self._partitions)},
                await copied_in_pieces(self._store, self.before),
            )

    async def decide(
        self, turn: int, fence: Fence | None, last_lines: str, about: Parameters
    ) -> None:
        """Add what the statement selects, which is all that was written since; then swap.

        Args:
            last_lines: it selects nothing where the fence's condition doesn't hold.
        """
        decided = f"{_DECIDED}{turn}_{self.rollup.table}"
        await self._in_turn(f"RENAME TABLE {self.table} TO {decided}", fence)
        await self._in_turn(f"{self._insert_into(decided)} {last_lines}", fence, about)
        # Before the comment: a process that comes late with this fails at that.
        await self._in_turn(f"CREATE TABLE {emptied(decided)} AS {decided}", fence)
        await self._in_turn(
            f"ALTER TABLE {decided} MODIFY COMMENT '{json.dumps(sorted(self._partitions))}'", fence
        )
        await _carry_out(self._store, decided, self.rollup.table, self._partitions, fence)
        await self._in_turn(f"DROP TABLE {self.before} SYNC", fence)

    def _insert_into(self, table: str) -> str:
        return f"INSERT INTO {table} ({self.rollup.columns})"

    async def _in_turn(
        self, statement: str, fence: Fence | None, about: Parameters | None = None
    ) -> list[Row]:
        return await self._store.execute(statement, about, ahead=True, fence=fence)


async def drop_drafts(store: ClickHouseClient) -> None:
    """Remove what was begun and will not be finished; if somebody is at it, he fails."""
    for row in await _tables(store, _DRAFT):
        await store.execute(f"DROP TABLE IF EXISTS {row['name']} SYNC", ahead=True)


async def finish_swaps(store: ClickHouseClient, last_batch: int, fence: Fence | None) -> None:
    """Carry out the swaps that were decided by those who had the turn before, and remove the rest.

    Args:
        last_batch: the greatest number of a batch of which anything is in the store.
    """
    for row in await _tables(store, _DECIDED):
        parts = _DECIDED_NAME.fullmatch(row["name"])
        assert parts is not None  # as it is named above
        # Nothing is written in the turn of a swap but by it. What is older than a batch was carried
        # out, and its removal lost with the power.
        if row["comment"] and int(parts[1]) > last_batch:
            await _carry_out(store, row["name"], parts[2], json.loads(row["comment"]), fence)
        else:
            await store.execute(f"DROP TABLE IF EXISTS {row['name']} SYNC", ahead=True, fence=fence)


async def _carry_out(
    store: ClickHouseClient,
    decided: str,
    rollup: str,
    partitions: Iterable[str],
    fence: Fence | None,
) -> None:
    rows = await store.execute(
        f"SELECT DISTINCT _partition_id AS id FROM {decided}", ahead=True, fence=fence
    )
    filled = {row["id"] for row in rows}
    for partition in sorted(partitions):
        change = (
            f"REPLACE PARTITION ID '{partition}' FROM {decided}"
            if partition in filled
            else take_out(partition, emptied(decided))
        )
        await store.execute(f"ALTER TABLE {rollup} {change}", ahead=True, fence=fence)
    # The other one last: without it, nothing is carried out.
    for table in (emptied(decided), decided):
        await store.execute(f"DROP TABLE IF EXISTS {table} SYNC", ahead=True, fence=fence)


async def _tables(store: ClickHouseClient, prefix: str) -> list[Row]:
    return await store.execute(load_query("tables_named"), {"prefix": prefix}, ahead=True)
