"""What the rest of the service may ask of the store, whichever engine stands behind it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from app.core.config import Settings
from app.core.errors import ConfigurationError

SQL_FOLDER = Path(__file__).parents[2] / "clickhouse"

Value = str | int | date | UUID
Parameters = Mapping[str, Value | Sequence[Value]]
Row = dict[str, Any]


@cache
def load_query(name: str) -> str:
    """The text of `clickhouse/queries/{name}.sql`."""
    return (SQL_FOLDER / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def schema_statements() -> list[str]:
    """The statements of `clickhouse/schema.sql`, in order."""
    text = (SQL_FOLDER / "schema.sql").read_text(encoding="utf-8")
    return [statement.strip() for statement in text.split(";\n") if statement.strip()]


class ClickHouseClient(ABC):
    """A ClickHouse with one database of ours in it.

    All methods but `close` may run at the same time as each other, from one event loop, which they
    never block. Driver exceptions stop here:

    Raises:
        StoreUnavailableError: from any method: try again later.
        StoreError: from `execute` and `insert`: never.
    """

    @abstractmethod
    async def connect(self) -> None:
        """Open the store. Raises ConfigurationError when the settings can't lead to one."""

    @abstractmethod
    async def ensure_database(self) -> None:
        """Create the database unless it is there. To be called once, before any table is named."""

    @abstractmethod
    async def execute(
        self, sql: str, parameters: Parameters | None = None, *, ahead: bool = False
    ) -> list[Row]:
        """Run one statement with its `{name:Type}` parameters bound.

        Args:
            ahead: as part of writing, which doesn't wait behind the queries of readers.

        Returns:
            A dict a row by column name. UUIDs and dates come as text, 64-bit integers as int.
        """

    @abstractmethod
    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Insert rows, on the disk when it returns (unless CLICKHOUSE_FSYNC is off).

        When it raises, any number of the rows may have been inserted. Times are whole seconds since
        1970-01-01 UTC. A String may be given as bytes, whatever they are; then in every row.
        """

    @abstractmethod
    async def ping(self) -> bool:
        """Whether the store answers at once, however busy it is with other queries."""

    @abstractmethod
    async def close(self) -> None:
        """Wait for what is running, then let go of the store. Harmless when it isn't open."""

    async def ensure_tables(self) -> None:
        """Bring the database to `clickhouse/schema.sql`; nothing changes when it is there."""
        for statement in schema_statements():
            await self.execute(statement)


def open_clickhouse(settings: Settings) -> ClickHouseClient:
    """The client that the settings ask for, not connected yet."""
    if settings.clickhouse_host is not None:
        raise ConfigurationError(
            "CLICKHOUSE_HOST: this version has the embedded engine only; unset the variable"
        )
    from app.core.clickhouse_embedded import EmbeddedClickHouse  # 300 ms, unneeded with a server

    return EmbeddedClickHouse(
        settings.clickhouse_path,
        settings.clickhouse_database,
        readers=settings.clickhouse_readers,
        fsync=settings.clickhouse_fsync,
    )
