"""ClickHouse inside this process (chDB). The only importer of chdb."""

import asyncio
import fcntl
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, TextIO, TypeVar
from uuid import UUID

import msgspec
from chdb.state.sqlitelike import Connection

from app.core.clickhouse_client import ClickHouseClient, Parameters, Row, Value
from app.core.errors import ConfigurationError, StoreError, StoreUnavailableError

# The engine's error codes that say "not now": time-out, memory limit, no disk space, too many
# parts, too many queries, read-only, and the failed system calls behind a full or vanished disk.
_TRY_AGAIN = {74, 75, 76, 158, 159, 160, 164, 202, 209, 210, 241, 243, 252, 1000, 1001}

_PING_SECONDS = 2.0

# Of a table, in the order in which clickhouse/schema.sql has them.
_FSYNC_SETTINGS = ("fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge")

T = TypeVar("T")

# deduplicate_insert: the engine's own window loses data when killed at the wrong moment (a token
# is logged before its part is in place). async_insert: an insert has happened when it returns.
_INSERT_SETTINGS = "SETTINGS async_insert = 0, deduplicate_insert = 'disable'"

_decode_row = msgspec.json.Decoder(Row).decode
_encode_rows = msgspec.json.Encoder().encode_lines


class EmbeddedClickHouse(ClickHouseClient):
    """The engine on a directory of its own, which no other process can open meanwhile.

    A chDB connection runs one query at a time, so every thread has its own: `readers` threads for
    queries, one for all that belongs to writing, one for pings, which therefore never wait for
    each other.
    """

    def __init__(self, path: Path, database: str, *, readers: int = 4, fsync: bool = True) -> None:
        self._path = path
        self._database = database
        self._fsync = fsync
        self._lock_file: TextIO | None = None
        self._has_database = False
        self._thread = threading.local()
        self._connections: list[Connection] = []
        self._readers = ThreadPoolExecutor(readers, "clickhouse-read")
        self._writer = ThreadPoolExecutor(1, "clickhouse-write")
        self._pinger = ThreadPoolExecutor(1, "clickhouse-ping")

    async def connect(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self._path / "service.lock").open("w")
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        await self.execute(f"CREATE DATABASE IF NOT EXISTS `{self._database}`")
        self._has_database = True

    async def ensure_tables(self) -> None:
        await super().ensure_tables()
        await self._apply_fsync()

    async def _apply_fsync(self) -> None:
        """Bring tables that were made with another CLICKHOUSE_FSYNC to the present one."""
        wanted = ", ".join(f"{name} = {int(self._fsync)}" for name in _FSYNC_SETTINGS)
        tables = await self.execute(
            "SELECT name FROM system.tables WHERE database = currentDatabase()"
            " AND engine LIKE '%MergeTree' AND engine_full NOT LIKE {setting:String}",
            {"setting": f"%{wanted}%"},
        )
        for table in tables:
            await self.execute(f"ALTER TABLE {table['name']} MODIFY SETTING {wanted}")

    async def execute(
        self, sql: str, parameters: Parameters | None = None, *, ahead: bool = False
    ) -> list[Row]:
        def query() -> list[Row]:
            bound = {name: _as_text(value) for name, value in (parameters or {}).items()}
            result = self._connection().query(sql, "JSONEachRow", params=bound)
            return [_decode_row(line) for line in result.bytes().splitlines()]

        return await self._run(self._writer if ahead else self._readers, query)

    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        statement = (
            f"INSERT INTO {table} ({', '.join(columns)}) {_INSERT_SETTINGS}"
            " FORMAT JSONCompactEachRow\n"
        )

        def send() -> None:
            # Not send_insert, though it is faster: it returns as if all were well when the engine
            # has refused the rows (too many parts, no memory) or failed in a materialized view.
            # Bytes, which chDB takes though it doesn't say so: not all of them need be text.
            query: Any = statement.encode() + _encode_rows(_without_bytes(rows))
            self._connection().query(query)

        await self._run(self._writer, send)

    async def ping(self) -> bool:
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._run(self._pinger, lambda: self._connection().query("SELECT 1"))
        except (TimeoutError, StoreError, StoreUnavailableError):
            return False
        return True

    async def close(self) -> None:
        for threads in (self._pinger, self._readers, self._writer):
            await asyncio.to_thread(threads.shutdown)
        while self._connections:
            with suppress(RuntimeError):
                self._connections.pop().close()
        if self._lock_file is not None:
            self._lock_file.close()

    def _connection(self) -> Connection:
        """The calling thread's connection."""
        connection: Connection | None = getattr(self._thread, "connection", None)
        if connection is None:
            connection = Connection(str(self._path))
            self._connections.append(connection)
            self._thread.connection = connection
        if self._has_database and not getattr(self._thread, "in_database", False):
            connection.query(f"USE `{self._database}`")
            self._thread.in_database = True
        return connection

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
        except RuntimeError as error:  # chDB raises nothing else, and so does a pool that is shut
            raise _translate(error) from error


def _translate(error: RuntimeError) -> StoreError | StoreUnavailableError:
    text = str(error)
    if "after shutdown" in text:
        return StoreUnavailableError("the store is closed")
    codes = re.findall(r"\bCode: (\d+)", text)
    if codes and int(codes[-1]) in _TRY_AGAIN:
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


def _as_text(value: Value | Sequence[Value]) -> str:
    """A parameter as the engine takes it: the escaped text form of its type."""
    if isinstance(value, str | int | date | UUID):
        return _escape(str(value))
    if any(isinstance(item, str) for item in value):
        quoted = (f"'{_escape(str(item))}'" for item in value)
        return f"[{','.join(quoted)}]"
    # Numbers, UUIDs and dates: JSON but for the quotes, and written ten times as fast.
    return msgspec.json.encode(value).decode().replace('"', "'")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\t", "\\t").replace("\n", "\\n")
