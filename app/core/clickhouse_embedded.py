"""ClickHouse inside this process (chDB). The only importer of chdb."""

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

import msgspec
from chdb.state.sqlitelike import Connection

from app.core.block import Block, native
from app.core.clickhouse_client import (
    INCOMING,
    INSERT_SETTINGS,
    Fence,
    Parameters,
    Refill,
    Row,
    may_succeed_later,
)
from app.core.clickhouse_threads import ThreadedClickHouse
from app.core.clickhouse_values import as_text, escape
from app.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from app.core.mender import MERGE_TREES, Mender
from app.core.schema import OLD_PARTS_SECONDS, apply_schema

# What suits an engine that shares its processors with the service. Not in clickhouse/schema.sql: a
# server need not know all of it.
_TABLE_SETTINGS = {
    # A part of fewer bytes is one file instead of some twenty: a flush takes 0.7 of the time.
    "min_bytes_for_full_part_storage": 10 * 1024 * 1024,
    # More parts at a time, and so fewer times: 0.7 of the work for an event, all in all.
    "merge_selector_base": 12,
    "min_parts_to_merge_at_once": 10,
    # Stores from before had more.
    "old_parts_lifetime": OLD_PARTS_SECONDS,
    # Else a hundred threads are started for it, and stay.
    "concurrent_part_removal_threshold": 1_000_000,
}

# Room for merges, and for what else has to be written when no more events are taken.
_LEAST_FREE_BYTES = 32 * 1024 * 1024
# What an insert takes on the disk for a byte of rows, at most: events, projections, rollups.
_WRITTEN_FOR_A_BYTE = 4

# The engine's inserts and merges may end as if all were well though the disk had no room for some
# of their files. Nothing but this counter tells (docs/decisions/09-writes-the-disk-refused.md).
_REFUSED_WRITES = (
    "SELECT value FROM system.events WHERE event = 'WriteBufferFromFileDescriptorWriteFailed'"
)
# Each insert looks; without one, so often at most.
_LOOK_SECONDS = 1.0
_DAMAGED = "the disk has refused what was written to it"

_ALL_TABLES = (
    "SELECT name, engine, metadata_path, data_paths FROM system.tables"
    " WHERE database = currentDatabase()"
)
# Of what is in a folder: one of these in every store; and those that may be in any.
_OURS = {"service.lock", "metadata"}
_NOBODYS = {"lost+found"}
# How the names of snapshots begin.
_FROZEN = "backup_"

logger = logging.getLogger(__name__)

# Statements, after comments, that write rows to tables, or put them elsewhere.
_CHANGES = re.compile(
    r"(?:\s|--[^\n]*\n)*(?:INSERT\b|ALTER TABLE \S+ (?:ATTACH|DELETE|DROP|REPLACE)\b)"
)
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
        self._damaged = False
        self._mending = False
        self._has_whole_parts = False
        self._damage_mark = path / "damaged"
        self._mender = Mender(partial(self.execute, ahead=True), path)
        # When all was last in order: the counter of refused writes, and the time.
        self._known_refused = 0
        self._whole_until = time.time()
        self._looked_at = 0.0
        # Where staged rows are, as SQL names them: the engine reads bytes from files alone.
        self._incoming_file = path / "incoming.native"
        self._incoming = f"file('{escape(str(self._incoming_file))}', Native)"

    async def connect(self) -> None:
        try:
            self._refuse_foreign_files()
            self._path.mkdir(parents=True, exist_ok=True)
            lock_file = (self._path / "service.lock").open("w")
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock_file.close()
                raise
            self._lock_file = lock_file
            for left in (self._path / "shadow").glob(f"{_FROZEN}*"):
                shutil.rmtree(left)
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
            self._known_refused = await self._run(self._writer, self._refused_writes)
        except (StoreError, StoreUnavailableError) as error:
            raise ConfigurationError(
                f"CLICKHOUSE_PATH: no store can be opened in {self._path}: "
                f"{' '.join(str(error).split())}"
            ) from error

    def _refuse_foreign_files(self) -> None:
        """Nothing is written to a folder that something else has its files in."""
        if not self._path.exists():
            return
        there = {file.name for file in self._path.iterdir()} - _NOBODYS
        if there and not there & _OURS:
            raise ConfigurationError(
                f"CLICKHOUSE_PATH: {self._path} has files of something else "
                f"({min(there)}, say); give the service a directory of its own"
            )

    async def ensure_database(self) -> None:
        await self.execute(f"CREATE DATABASE IF NOT EXISTS `{self.database}`")
        self._has_database = True

    async def ensure_tables(self) -> None:
        await apply_schema(self.execute, self.database, None)
        await self._apply_settings()
        if self._damage_mark.exists() or await self._mender.parts_found_broken():
            logger.error("%s", _DAMAGED)
            self._damaged = True
            with suppress(FileNotFoundError):
                self._whole_until = self._damage_mark.stat().st_mtime

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
        for table in await self.execute(MERGE_TREES, ahead=True):
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
            changes = _CHANGES.match(sql) is not None
            damaged = self._damaged
            if damaged and not (ahead and (self._mending or not changes)):
                raise StoreUnavailableError(_DAMAGED)
            refused = self._refused_writes() if damaged and changes else 0
            answer = self._ask(sql, bound)
            # What mends the store is held up by nothing but what is refused meanwhile.
            if changes and (
                self._refused_writes() > refused if damaged else self._look_for_damage()
            ):
                raise StoreUnavailableError(_DAMAGED)
            return [_decode_row(line) for line in answer.splitlines()]

        return await self._run(self._threads(ahead), query)

    def _ask(self, statement: Any, bound: Mapping[str, str] | None = None) -> bytes:
        """The answer as lines of JSON, or nothing."""
        try:
            answer: bytes = self._connection().query(statement, "JSONEachRow", params=bound).bytes()
        except RuntimeError as error:
            # Rows of a query that fails half-way come out of the connection before its next answer.
            with suppress(RuntimeError):
                self._renew_connection()
            if self._look_for_damage():
                raise StoreUnavailableError(f"{_DAMAGED}: {error}") from error
            raise
        return answer

    def _write(self, statement: Any) -> None:
        self._ask(statement)
        if self._look_for_damage():
            raise StoreUnavailableError(_DAMAGED)

    def _look_for_damage(self) -> bool:
        """Whether the disk has refused something since the store was last in order."""
        if self._damaged:
            return True
        if self._refused_writes() <= self._known_refused:
            self._whole_until = time.time()
            self._looked_at = time.monotonic()
            return False
        logger.error("%s", _DAMAGED)
        self._damaged = True
        self._has_whole_parts = False
        with suppress(OSError):  # for the next start, should this process die before it is mended
            self._damage_mark.touch()
        return True

    def _refused_writes(self) -> int:
        """How often a file could not be written, since the process began."""
        answer = self._connection().query(_REFUSED_WRITES, "CSV").bytes()
        return int(answer or 0)

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
            self._write(statement.encode() + _encode_rows(_without_bytes(rows)))

        self._require_space(0)
        await self._run(self._writer, send)

    async def stage(self, block: Block, *, fence: Fence | None = None) -> None:
        assert fence is None

        def write() -> None:
            rows = native(block)
            self._require_space(len(rows))
            self._incoming_file.write_bytes(rows)

        await self._run(self._writer, write)

    async def insert_staged(
        self, table: str, columns: Iterable[str], *, fence: Fence | None = None
    ) -> None:
        assert fence is None
        names = ", ".join(columns)
        statement = (
            f"INSERT INTO {table} ({names}) SETTINGS {_INSERT_SETTINGS}"
            f" SELECT {names} FROM {self._incoming}"
        )
        await self._run(self._writer, lambda: self._write(statement))

    def _require_space(self, size: int) -> None:
        """Raises StoreUnavailableError when the disk is too full to write so many bytes of rows."""
        free = self._free_bytes()
        if free is not None and free < _LEAST_FREE_BYTES + _WRITTEN_FOR_A_BYTE * size:
            raise StoreUnavailableError(f"the disk of {self._path} is full")

    def _free_bytes(self) -> int | None:
        """On the disk, for this user; None when it doesn't say."""
        try:
            disk = os.statvfs(self._path)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None

    def warnings(self) -> list[str]:
        free = self._free_bytes()
        if free is None or free >= _LEAST_FREE_BYTES:
            return []
        return ["the disk of the store is full: events are refused"]

    async def mend(self, refill: Refill, first_kept: date, make_room: Refill) -> bool:
        if not self._damaged and time.monotonic() < self._looked_at + _LOOK_SECONDS:
            return False
        if not await self._run(self._writer, self._look_for_damage):
            return False
        self._mending = True
        try:
            await self._put_in_order(refill, first_kept, make_room)
        finally:
            self._mending = False
        return True

    async def _put_in_order(self, refill: Refill, first_kept: date, make_room: Refill) -> None:
        refused = await self._run(self._writer, self._refused_writes)
        if not self._has_whole_parts:
            # At once: what was merged is there for old_parts_lifetime only.
            await self._mender.move_broken_parts_aside(self._whole_until)
            self._has_whole_parts = True
        try:
            await make_room()
            self._require_space(0)
            await self._mender.empty_rollups(first_kept)
            await refill()
        finally:
            if await self._run(self._writer, self._refused_writes) > refused:
                self._has_whole_parts = False  # of what was just written
        if not self._has_whole_parts:
            raise StoreUnavailableError(_DAMAGED)
        self._known_refused = refused
        self._damaged = False
        self._damage_mark.unlink(missing_ok=True)
        logger.warning("the store is in order again")

    async def remove_broken(self) -> None:
        await self._run(self._writer, self._mender.remove_broken)

    async def snapshot(self) -> Path:
        return await self._run(self._writer, self._freeze)

    def _freeze(self) -> Path:
        """Parts never change, so that links to them are a copy; the rest are a few small files."""
        name = f"{_FROZEN}{uuid4().hex}"
        frozen = self._path / "shadow" / name
        try:
            shutil.copytree(self._path / "metadata", frozen / "metadata", symlinks=True)
            for line in self._ask(_ALL_TABLES).splitlines():
                self._freeze_table(_decode_row(line), name, frozen)
            if self._look_for_damage():
                raise StoreUnavailableError(_DAMAGED)
        except Exception:
            shutil.rmtree(frozen, ignore_errors=True)
            raise
        return frozen

    def _freeze_table(self, table: Row, name: str, frozen: Path) -> None:
        definition = frozen / table["metadata_path"]
        definition.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path / table["metadata_path"], definition)
        if table["engine"].endswith("MergeTree"):
            self._ask(f"ALTER TABLE {table['name']} FREEZE WITH NAME '{name}'")
            data = Path(table["data_paths"][0])
            copied = frozen / data.relative_to(self._path)
            copied.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / "format_version.txt", copied / "format_version.txt")

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
        if self._damaged:
            raise StoreUnavailableError(_DAMAGED)
        connection.query("SELECT 1")

    def _drop(self, connection: Connection) -> None:
        with suppress(RuntimeError):
            connection.close()

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, OSError):
            return StoreUnavailableError(f"{self._path}: {error.strerror}")
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
