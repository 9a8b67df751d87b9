"""ClickHouse inside this process (chDB). The only importer of chdb."""

import fcntl
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import msgspec
from chdb.state.sqlitelike import Connection

from app.core.block import Block, native
from app.core.clickhouse_client import (
    INCOMING,
    INSERT_SETTINGS,
    Fence,
    Parameters,
    Row,
    may_succeed_later,
)
from app.core.clickhouse_threads import ThreadedClickHouse
from app.core.clickhouse_values import as_text, escape
from app.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from app.core.schema import apply_schema

# What suits an engine that shares its processors with the service. Not in clickhouse/schema.sql: a
# server need not know all of it.
_TABLE_SETTINGS = {
    # A part of fewer bytes is one file instead of some twenty: a flush takes 0.7 of the time.
    "min_bytes_for_full_part_storage": 10 * 1024 * 1024,
    # More parts at a time, and so fewer times: 0.7 of the work for an event, all in all.
    "merge_selector_base": 12,
    "min_parts_to_merge_at_once": 10,
}

_INCOMING = re.compile(rf"\b{INCOMING}\b")

_INSERT_SETTINGS = ", ".join(f"{name} = {value!r}" for name, value in INSERT_SETTINGS.items())

_decode_row = msgspec.json.Decoder(Row).decode
_encode_rows = msgspec.json.Encoder().encode_lines


class EmbeddedClickHouse(ThreadedClickHouse[Connection]):
    """The engine on a directory of its own, which no other process can open meanwhile."""

    exclusive = True

    def __init__(
        self,
        path: Path,
        database: str,
        *,
        readers: int = 4,
        query_seconds: float = 30.0,
        query_memory: int = 1024**3,
        fsync: bool = True,
    ) -> None:
        super().__init__(database, readers)
        self._reader_limits = (
            f"SET max_execution_time = {query_seconds}, max_memory_usage = {query_memory}"
        )
        self._path = path
        self._fsync = fsync
        self._lock_file: TextIO | None = None
        # Where staged rows are, as SQL names them: the engine reads bytes from files alone.
        self._incoming_file = path / "incoming.native"
        self._incoming = f"file('{escape(str(self._incoming_file))}', Native)"

    async def connect(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            lock_file = (self._path / "service.lock").open("w")
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock_file.close()
                raise
            self._lock_file = lock_file
        except BlockingIOError:
            raise ConfigurationError(
                f"CLICKHOUSE_PATH: {self._path} is in use by another process; "
                "stop that one, or give this one a directory of its own"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"CLICKHOUSE_PATH: {self._path} cannot be written: {error.strerror}"
            ) from None
        try:
            await self._run(self._readers, self._connection)
        except (StoreError, StoreUnavailableError) as error:
            raise ConfigurationError(
                f"CLICKHOUSE_PATH: no store can be opened in {self._path}: {error}"
            ) from error

    async def ensure_database(self) -> None:
        await self.execute(f"CREATE DATABASE IF NOT EXISTS `{self.database}`")
        self._has_database = True

    async def ensure_tables(self) -> None:
        await apply_schema(self.execute, self.database, None)
        await self._apply_settings()

    async def _apply_settings(self) -> None:
        """Bring every table to the present CLICKHOUSE_FSYNC, and its parts to what is best here."""
        fsync = int(self._fsync)
        values = {
            "fsync_after_insert": fsync,
            "fsync_part_directory": fsync,
            "min_rows_to_fsync_after_merge": fsync,
            **_TABLE_SETTINGS,
        }
        settings = [f"{name} = {value}" for name, value in values.items()]
        tables = await self.execute(
            "SELECT name, engine_full FROM system.tables"
            " WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
        )
        for table in tables:
            if not all(setting in table["engine_full"] for setting in settings):
                await self.execute(
                    f"ALTER TABLE {table['name']} MODIFY SETTING {', '.join(settings)}"
                )

    async def execute(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        ahead: bool = False,
        fence: Fence | None = None,
    ) -> list[Row]:
        assert fence is None  # nobody else can write

        if ahead:
            sql = _INCOMING.sub(lambda _: self._incoming, sql)

        def query() -> list[Row]:
            bound = {name: as_text(value) for name, value in (parameters or {}).items()}
            result = self._connection().query(sql, "JSONEachRow", params=bound)
            return [_decode_row(line) for line in result.bytes().splitlines()]

        return await self._run(self._threads(ahead), query)

    async def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
    ) -> None:
        statement = (
            f"INSERT INTO {table} ({', '.join(columns)}) SETTINGS {_INSERT_SETTINGS}"
            " FORMAT JSONCompactEachRow\n"
        )

        def send() -> None:
            # Not send_insert, though it is faster: it returns as if all were well when the engine
            # has refused the rows (too many parts, no memory) or failed in a materialized view.
            # Bytes, which chDB takes though it doesn't say so: not all of them need be text.
            query: Any = statement.encode() + _encode_rows(_without_bytes(rows))
            self._connection().query(query)

        await self._run(self._writer, send)

    async def stage(self, block: Block, *, fence: Fence | None = None) -> None:
        assert fence is None
        await self._run(self._writer, lambda: self._incoming_file.write_bytes(native(block)))

    async def insert_staged(
        self, table: str, columns: Iterable[str], *, fence: Fence | None = None
    ) -> None:
        assert fence is None
        names = ", ".join(columns)
        statement = (
            f"INSERT INTO {table} ({names}) SETTINGS {_INSERT_SETTINGS}"
            f" SELECT {names} FROM {self._incoming}"
        )
        await self._run(self._writer, lambda: self._connection().query(statement))

    async def close(self) -> None:
        await super().close()
        if self._lock_file is not None:
            self._incoming_file.unlink(missing_ok=True)
            self._lock_file.close()

    def _open(self) -> Connection:
        return Connection(str(self._path))

    def _limit(self, connection: Connection) -> None:
        connection.query(self._reader_limits)

    def _use_database(self, connection: Connection) -> None:
        connection.query(f"USE `{self.database}`")

    def _ping(self, connection: Connection) -> None:
        connection.query("SELECT 1")

    def _drop(self, connection: Connection) -> None:
        with suppress(RuntimeError):
            connection.close()

    def _translate(self, error: Exception) -> Exception:
        if not isinstance(error, RuntimeError):  # chDB raises nothing else
            return error
        text = str(error)
        codes = re.findall(r"\bCode: (\d+)", text)
        if codes and may_succeed_later(int(codes[-1])):
            return StoreUnavailableError(text)
        return StoreError(text)


def _without_bytes(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """The rows with JSON in the place of bytes, in columns that hold bytes."""
    places = [place for place, value in enumerate(rows[0]) if isinstance(value, bytes)]
    if not places:
        return rows
    return [
        [_json_of(value) if place in places else value for place, value in enumerate(row)]
        for row in rows
    ]


# What the engine's parser of JSON strings doesn't take as it is; all other bytes it does.
_ESCAPES = [(b"\\", b"\\\\"), (b'"', b'\\"')] + [(bytes([n]), b"\\u%04x" % n) for n in range(32)]


def _json_of(value: bytes) -> msgspec.Raw:
    """A JSON string of any bytes, as the engine reads it: they need not be UTF-8."""
    for byte, escaped in _ESCAPES:
        value = value.replace(byte, escaped)
    return msgspec.Raw(b'"' + value + b'"')
