"""What the rest of the service may ask of the store, whichever engine stands behind it."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from app.core.block import Block
from app.core.config import Settings
from app.core.errors import BackupRefusedError
from app.core.gate import Gate
from app.core.schema import SQL_FOLDER

Value = str | int | float | date | UUID
Parameters = Mapping[str, Value | Sequence[Value]]
Row = dict[str, Any]
Refill = Callable[[], Awaitable[None]]

# An insert has happened when it returns, and is never dropped for being the same as one before: the
# engine's own window loses data when killed at the wrong moment (a token is logged before its part
# is in place). Two names for the same, of which a server knows one or both.
INSERT_SETTINGS = {"async_insert": 0, "deduplicate_insert": "disable", "insert_deduplicate": 0}


INCOMING = "incoming"
"""The table that staged rows are in."""


@cache
def load_query(name: str) -> str:
    """The text of `clickhouse/queries/{name}.sql`."""
    return (SQL_FOLDER / "queries" / f"{name}.sql").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Fence:
    """What statements are held to, where another process may take the right to write away.

    Attributes:
        table: what writes fails, with nothing written, once there is no table of this name.
        mark: what the statements are found by while they run (`log_comment`).
    """

    table: str
    mark: str

    @property
    def condition(self) -> str:
        """For the WHERE of an INSERT … SELECT. The engine looks for the table before it begins."""
        return f"(SELECT count() FROM {self.table}) = 0"


class ClickHouseClient(ABC):
    """A ClickHouse with one database of ours in it.

    All methods but `close` may run at the same time as each other, from one event loop, which they
    never block. Driver exceptions stop here:

    Raises:
        StoreUnavailableError: from any method: try again later.
        StoreError: when a statement or rows are at fault: never.
    """

    exclusive: bool
    """Whether no other process can write to it."""
    database: str
    cluster: str | None = None
    session: object = None
    """Another one when the connection that writes was made anew: the server may have restarted."""
    gate: Gate
    """Shared by each answer, which may take several queries. Who has it alone may change what is
    stored in several statements: no answer of this process sees some of it."""

    @abstractmethod
    async def connect(self) -> None:
        """Open the store. Raises ConfigurationError when the settings can't lead to one."""

    @abstractmethod
    async def ensure_database(self) -> None:
        """Create the database unless it is there. To be called once, before any table is named.

        Raises:
            ConfigurationError: it isn't there, and may not be created.
        """

    @abstractmethod
    async def ensure_tables(self) -> None:
        """Bring the database to `clickhouse/schema.sql`; nothing changes when it is there."""

    @abstractmethod
    async def execute(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        ahead: bool = False,
        fence: Fence | None = None,
    ) -> list[Row]:
        """Run one statement with its `{name:Type}` parameters bound.

        Unless it is fenced, it may be run a second time, when the connection broke meanwhile.

        Args:
            ahead: as part of writing, which doesn't wait behind the queries of readers, and sees
                what was staged.
            fence: the statement carries its mark; one that writes has to contain its condition.

        Returns:
            A dict a row by column name. UUIDs and dates come as text, 64-bit integers as int.
        """

    @abstractmethod
    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Insert rows, on the disk when it returns (unless CLICKHOUSE_FSYNC is off).

        When it raises, any number of the rows may have been inserted, or may be yet.
        Times are whole seconds since 1970-01-01 UTC. A String may be given as bytes, whatever they
        are; then in every row.
        """

    @abstractmethod
    async def stage(self, block: Block, *, fence: Fence | None = None) -> None:
        """Hand rows over: as the table `incoming`, statements that are part of writing see them.

        Until the next block is staged.
        """

    @abstractmethod
    async def insert_staged(
        self, table: str, columns: Iterable[str], *, fence: Fence | None = None
    ) -> None:
        """Insert the rows that were staged, as `insert` does."""

    async def mend(
        self,
        refill: Refill,  # noqa: ARG002 - for those that need it
        first_kept: date,  # noqa: ARG002
        make_room: Refill,  # noqa: ARG002
    ) -> bool:
        """Bring the store into order, if it may have lost something of what it took.

        To be called by who writes, between two writes, often: it is cheap where all is well. Until
        it returns, readers get StoreUnavailableError rather than figures that may be wrong.

        Args:
            refill: fills the rollups that are marked as unfilled, and repairs the last batch.
            first_kept: the first UTC day of which every event is still stored. Figures of days
                before can't be made anew, and stay.
            make_room: removes what was begun and will not be finished, for the disk may be full.

        Returns:
            Whether there was anything to do.
        """
        return False

    async def snapshot(self) -> Path:
        """A copy of the whole store, that a service can be started on, as hard links beside it.

        To be called by who writes, between two writes. Whoever gets it moves it away; what is left
        is removed when the store is opened again.

        Raises:
            BackupRefusedError: this store can't; the text says how it is done.
        """
        raise BackupRefusedError(
            "the store is a ClickHouse server: back it up there, with its statement BACKUP DATABASE"
        )

    async def remove_broken(self) -> None:  # noqa: B027 - for an engine that has any
        """Remove what was found broken and moved aside: it may hold what is to be forgotten."""

    def warnings(self) -> list[str]:
        """What somebody should look at, though the store answers; one sentence each."""
        return []

    @abstractmethod
    async def ping(self) -> bool:
        """Whether the store answers within 2 seconds, however busy it is with other queries."""

    @abstractmethod
    async def close(self) -> None:
        """Wait for what is running, then let go of the store. Harmless when it isn't open."""


def open_clickhouse(settings: Settings) -> ClickHouseClient:
    """The client that the settings ask for, not connected yet."""
    # Imported here: each takes some 100 to 300 ms, and the other is not needed.
    if settings.clickhouse_host is not None:
        from app.core.clickhouse_server import ClickHouseServer

        return ClickHouseServer(settings)
    from app.core.clickhouse_embedded import EmbeddedClickHouse

    return EmbeddedClickHouse(
        settings.clickhouse_path,
        settings.clickhouse_database,
        readers=settings.clickhouse_readers,
        query_seconds=settings.clickhouse_query_timeout,
        query_memory=settings.clickhouse_query_memory,
        fsync=settings.clickhouse_fsync,
    )


# Error codes of the engine that say "not now".
_NOT_NOW = frozenset(
    {
        # The disk is full or gone.
        74, 75, 76, 243, 1000, 1001,
        # Time-outs, and limits on what runs at a time: queries, memory, rows, parts.
        158, 159, 160, 202, 209, 241, 252, 439, 745,
        # Read-only for a while, or for this user: nothing that a request could do otherwise.
        164, 242,
        # Cancelled, aborted, or out of luck with a lock.
        236, 394, 473,
        # Shards, replicas and Keeper out of reach.
        198, 210, 225, 279, 285, 286, 289, 319, 999,
        # The user is not let in (any more).
        192, 193, 194, 516,
    }
)  # fmt: skip


def may_succeed_later(code: int) -> bool:
    """Whether the engine's error code stands for something that passes."""
    return code in _NOT_NOW
