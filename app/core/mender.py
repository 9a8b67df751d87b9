"""Puts a store in order of which the disk has refused a part: what is broken, and what was of it.

How it is found that there is something to mend, and when all is well again, is the engine's part
(docs/decisions/09-writes-the-disk-refused.md).
"""

import logging
import shutil
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from app.core.clickhouse_client import Parameters, Row, load_query
from app.core.errors import StoreError, StoreUnavailableError
from app.core.schema import mark_unfilled

logger = logging.getLogger(__name__)

MERGE_TREES = """
SELECT name, engine_full
FROM system.tables
WHERE database = currentDatabase()
  AND engine LIKE '%MergeTree'
"""

# A part that was made so long before something was refused may be broken.
_DAMAGE_SECONDS = 600
# Where broken parts are moved.
_BROKEN = "broken"


class Execute(Protocol):
    """`ClickHouseClient.execute`, as part of writing."""

    async def __call__(self, sql: str, parameters: Parameters | None = None, /) -> list[Row]: ...


class Mender:
    """Mends the tables of one store, between two flushes.

    Args:
        path: the store's directory.
    """

    def __init__(self, execute: Execute, path: Path) -> None:
        self._execute = execute
        self._path = path

    async def move_broken_parts_aside(self, whole_until: float) -> None:
        """Into the folder `broken`; those they were merged of take their place.

        Args:
            whole_until: when nothing had been refused yet, in seconds since 1970.
        """
        # Again: what has come back may be broken too.
        while await self._move_some(whole_until - _DAMAGE_SECONDS):
            pass

    async def _move_some(self, since: float) -> bool:
        """Returns whether there were any that the engine had taken for whole."""
        broken = defaultdict(list)
        for part in await self._parts_since(since):
            if not await self._is_whole(part):
                broken[part["table"]].append(part["path"])
        for table in await self._execute(MERGE_TREES):
            name = table["name"]
            await self._execute(f"DETACH TABLE {name} SYNC")
            try:
                for path in broken[name]:
                    self._move(name, Path(path))
            finally:
                await self._execute(f"ATTACH TABLE {name}")
        for part in await self.parts_found_broken():
            self._move(part["table"], Path(part["path"]))
        # A part may be made again under the name of one that was broken.
        await self._execute("SYSTEM DROP MARK CACHE")
        return any(broken.values())

    async def parts_found_broken(self) -> list[Row]:
        """`table` and `path` of those that the engine found broken when it read a table."""
        return await self._execute(
            "SELECT table, path FROM system.detached_parts"
            " WHERE database = currentDatabase() AND startsWith(reason, 'broken')"
        )

    async def empty_rollups(self, first_kept: date) -> None:
        """Have the rollups filled anew, but for what is about days before the first that is kept.

        What a lost part held, rollups may have, or the other way round.
        """
        for rollup in await self._execute(load_query("rollups")):
            await mark_unfilled(self._execute, rollup["table"])
            await self._empty(rollup["table"], f"toDate({rollup['times'][0]})", first_kept)

    def remove_broken(self) -> None:
        """Remove what was moved aside."""
        shutil.rmtree(self._path / _BROKEN, ignore_errors=True)

    async def _empty(self, table: str, first_day: str, first_kept: date) -> None:
        """Take the rows away that begin on days of which all events are there."""
        older = f"SELECT 1 FROM {table} WHERE {first_day} < {{first_kept:Date}} LIMIT 1"
        if await self._execute(older, {"first_kept": first_kept}):
            await self._execute(
                f"ALTER TABLE {table} DELETE WHERE {first_day} >= toDate('{first_kept}')"
                " SETTINGS mutations_sync = 1"
            )
        else:
            # Takes no room on the disk, which may have none.
            await self._execute(f"TRUNCATE TABLE {table} SYNC")

    async def _parts_since(self, since: float) -> list[Row]:
        return await self._execute(
            "SELECT table, name, path FROM system.parts WHERE active"
            " AND database = currentDatabase() AND modification_time >= {since:DateTime}",
            {"since": max(int(since), 0)},
        )

    async def _is_whole(self, part: Row) -> bool:
        try:
            checks = await self._execute(f"CHECK TABLE {part['table']} PART '{part['name']}'")
        except (StoreError, StoreUnavailableError):
            return False
        return all(check["is_passed"] for check in checks)

    def _move(self, table: str, part: Path) -> None:
        logger.error("a part of %s is broken: %s", table, part.name)
        aside = self._path / _BROKEN
        aside.mkdir(exist_ok=True)
        part.rename(aside / f"{table}-{uuid4().hex[:8]}-{part.name}")
