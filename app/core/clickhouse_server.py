"""A ClickHouse server, over the native protocol. The only importer of clickhouse_driver."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import uuid4

from clickhouse_driver import Client
from clickhouse_driver.errors import (
    ChecksumDoesntMatchError,
    NetworkError,
    PartiallyConsumedQueryError,
    ServerException,
    SocketTimeoutError,
    UnexpectedPacketFromServerError,
    UnknownPacketFromServerError,
)
from clickhouse_driver.errors import Error as DriverError

from app.core.block import Block, structure
from app.core.clickhouse_client import (
    INCOMING,
    INSERT_SETTINGS,
    Fence,
    Parameters,
    Row,
    may_succeed_later,
)
from app.core.clickhouse_threads import ThreadedClickHouse
from app.core.clickhouse_values import Quoted, plain, sendable
from app.core.config import Settings
from app.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from app.core.schema import apply_schema, database_statement

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
# A ping has connected and been answered within twice this, or the server is down.
_HASTE_SECONDS = 0.9
_FIRST_BACKOFF_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 3.0

# What the driver raises when the connection is at fault, not what was asked or sent.
_BROKEN = (
    NetworkError,
    SocketTimeoutError,
    UnexpectedPacketFromServerError,
    UnknownPacketFromServerError,
    ChecksumDoesntMatchError,
    PartiallyConsumedQueryError,
    OSError,
    EOFError,
)

_UNKNOWN_TABLE = 60
_NOT_LET_IN = {192, 193, 194, 516}
_NOT_ALLOWED = {164, 497}

# Of a cluster: what is inserted is on its shards when the insert returns, and on most replicas of
# each; the look-up of repeated events sees all of it, on whichever replica; subqueries see all
# shards.
_CLUSTER_SETTINGS = {
    "distributed_foreground_insert": 1,
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
    # Always the same replica while it is there: another may not have all of it yet, and refuses.
    "load_balancing": "in_order",
    "distributed_product_mode": "global",
}

# What a profile of the user may say otherwise, and figures would be wrong: an answer of before, a
# part of an answer, an insert that is told to be complete and isn't.
_PINNED_SETTINGS = {
    "use_query_cache": 0,
    "materialized_views_ignore_errors": 0,
    "read_overflow_mode": "throw",
    "timeout_overflow_mode": "throw",
}
# While a batch is sent. A process that is stopped in the middle holds up the others no longer.
_UPLOAD_SETTINGS = {"receive_timeout": 10, "strings_as_bytes": True}

T = TypeVar("T")


class ClickHouseServer(ThreadedClickHouse[Client]):
    """A server that other processes may use as well."""

    exclusive = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.clickhouse_database, settings.clickhouse_readers)
        self.cluster = settings.clickhouse_cluster
        self._address = f"{settings.clickhouse_host}:{settings.clickhouse_port}"
        self._user = settings.clickhouse_user
        self._start_seconds = settings.clickhouse_connect_timeout
        self._query_seconds = settings.clickhouse_query_timeout
        # What writing takes is bounded by the size of a batch, and must not fail for its readers.
        self._reader_limits = {
            "max_execution_time": settings.clickhouse_query_timeout,
            "max_memory_usage": settings.clickhouse_query_memory,
        }
        self._client_options: dict[str, Any] = {
            "host": settings.clickhouse_host,
            "port": settings.clickhouse_port,
            "user": settings.clickhouse_user,
            "password": settings.clickhouse_password.get_secret_value(),
            "compression": "lz4",
            "client_name": "cinema-analytics",
            "tcp_keepalive": True,
            **_tls(settings),
        }

    async def connect(self) -> None:
        """Waits CLICKHOUSE_CONNECT_TIMEOUT seconds for a server that isn't there yet."""
        deadline = time.monotonic() + self._start_seconds
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                await self.execute("SELECT 1")
                break
            except StoreUnavailableError as error:
                self._check_let_in(error)
                if time.monotonic() + backoff > deadline:
                    raise StoreUnavailableError(
                        "CLICKHOUSE_HOST and CLICKHOUSE_PORT: no ClickHouse answers within "
                        f"{self._start_seconds:g} s: {error}"
                    ) from None
                logger.info("waiting for ClickHouse: %s", error)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
        if self.cluster is not None:
            await self._check_cluster(self.cluster)

    async def _check_cluster(self, cluster: str) -> None:
        rows = await self.execute("SELECT DISTINCT cluster FROM system.clusters ORDER BY cluster")
        known = [row["cluster"] for row in rows]
        if cluster not in known:
            raise ConfigurationError(
                f"CLICKHOUSE_CLUSTER: ClickHouse at {self._address} knows no cluster {cluster}; "
                f"it has {', '.join(known) or 'none'}"
            )
        doubling = await self.execute(
            "SELECT shard_num FROM system.clusters"
            " WHERE cluster = {cluster:String} AND NOT internal_replication",
            {"cluster": cluster},
        )
        if doubling:
            raise ConfigurationError(
                f"CLICKHOUSE_CLUSTER: the shards of {cluster} need internal_replication in the "
                "servers' configuration, or each event is stored once for each replica"
            )

    def _check_let_in(self, error: Exception) -> None:
        cause = error.__cause__
        if isinstance(cause, ServerException) and cause.code in _NOT_LET_IN:
            raise ConfigurationError(
                f"CLICKHOUSE_USER and CLICKHOUSE_PASSWORD: ClickHouse at {self._address} "
                f"does not let {self._user} in"
            ) from None
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ConfigurationError(
                f"CLICKHOUSE_CA_FILE: the certificate of the server is not trusted: {error}"
            ) from None

    async def ensure_database(self) -> None:
        found = await self.execute(
            "SELECT name FROM system.databases WHERE name = {name:String}", {"name": self.database}
        )
        if not found or self.cluster is not None:  # a node that is new has none yet
            await self._require(
                "CLICKHOUSE_DATABASE", database_statement(self.database, self.cluster)
            )
        self._has_database = True

    async def ensure_tables(self) -> None:
        await apply_schema(
            lambda statement: self._require("CLICKHOUSE_USER", statement),
            self.database,
            self.cluster,
        )
        # What writing needs besides: better found out now than by the first event.
        await self._require("CLICKHOUSE_USER", _incoming("id UUID"))
        await self._require("CLICKHOUSE_USER", "SELECT count() FROM system.processes")
        [events] = await self.execute(
            "SELECT engine FROM system.tables"
            " WHERE database = currentDatabase() AND name = 'viewing_events'"
        )
        if (events["engine"] == "Distributed") != (self.cluster is not None):
            raise ConfigurationError(
                f"CLICKHOUSE_CLUSTER: the tables of the database {self.database} were made "
                f"{'without' if self.cluster else 'with'} a cluster; see docs/scaling.md"
            )

    async def _require(self, variable: str, statement: str) -> list[Row]:
        """Run what the service can't do without; the variable names whose rights it takes."""
        try:
            return await self.execute(statement)
        except (StoreError, StoreUnavailableError) as error:
            cause = error.__cause__
            if isinstance(cause, ServerException) and cause.code in _NOT_ALLOWED:
                raise ConfigurationError(
                    f"{variable}: {self._user} has not the rights that the README lists: {error}"
                ) from None
            raise

    async def execute(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        ahead: bool = False,
        fence: Fence | None = None,
    ) -> list[Row]:
        settings = self._settings(fence)
        if not ahead:
            settings.update(self._reader_limits)

        def query() -> list[Row]:
            if fence is not None or INCOMING in sql:
                with _fenced(fence):
                    return self._query(sql, parameters, settings)
            rows = self._persist(lambda: self._query(sql, parameters, settings))
            if ahead:
                self.session = self._connection().connection.socket
            return rows

        return await self._run(self._threads(ahead), query)

    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        as_bytes = any(isinstance(value, bytes) for value in rows[0])
        values = [sendable(list(column), as_bytes=as_bytes) for column in zip(*rows, strict=True)]
        settings = {**self._settings(None), "strings_as_bytes": as_bytes}
        await self._run(self._writer, lambda: self._send(table, columns, values, settings))

    async def stage(self, block: Block, *, fence: Fence | None = None) -> None:
        """The rows travel to a table of this connection: the insert that counts is one statement
        that the server has whole, which can be held to the fence, and found."""
        settings = self._settings(fence)

        def send() -> None:
            with _fenced(fence):
                self._query(_incoming(structure(block)), settings=settings)
                self._send(
                    INCOMING,
                    list(block),
                    [column.objects() for column in block.values()],
                    {**settings, **_UPLOAD_SETTINGS},
                )

        await self._run(self._writer, send)

    async def insert_staged(
        self, table: str, columns: Iterable[str], *, fence: Fence | None = None
    ) -> None:
        names = ", ".join(columns)
        condition = "1" if fence is None else fence.condition
        statement = (
            f"INSERT INTO {table} ({names}) SELECT {names} FROM {INCOMING} WHERE {condition}"
        )

        def send() -> None:
            with _fenced(fence):
                self._query(statement, settings=self._settings(fence))

        await self._run(self._writer, send)

    def _settings(self, fence: Fence | None) -> dict[str, Any]:
        settings: dict[str, Any] = {**INSERT_SETTINGS, **_PINNED_SETTINGS}
        if self.cluster is not None:
            settings.update(_CLUSTER_SETTINGS)
        if fence is not None:
            settings["log_comment"] = fence.mark
        return settings

    def _query(
        self,
        sql: str,
        parameters: Parameters | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> list[Row]:
        columns, types = self._connection().execute(
            sql,
            {name: Quoted(value) for name, value in (parameters or {}).items()},
            with_column_types=True,
            columnar=True,
            query_id=str(uuid4()),
            settings=settings,
        )
        if not columns:
            return []
        names = [name for name, _ in types]
        shown = [plain(kind, column) for (_, kind), column in zip(types, columns, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*shown, strict=True)]

    def _send(
        self,
        table: str,
        columns: Sequence[str],
        values: Sequence[Sequence[Any]],
        settings: Mapping[str, Any],
    ) -> None:
        self._connection().execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES",
            values,
            columnar=True,
            query_id=str(uuid4()),
            settings=settings,
        )

    def _persist(self, ask: Callable[[], T]) -> T:
        """Once more, where the connection broke while something harmless was asked."""
        try:
            return ask()
        except (ServerException, SocketTimeoutError, TimeoutError):
            raise
        except (NetworkError, EOFError, OSError):
            return ask()

    def _open(self) -> Client:
        return Client(
            **self._client_options,
            connect_timeout=_CONNECT_SECONDS,
            sync_request_timeout=min(_CONNECT_SECONDS, self._query_seconds),
            # Without a word from the server, which reports progress ten times a second.
            send_receive_timeout=self._query_seconds,
            settings={"server_side_params": True},
        )

    def _use_database(self, connection: Client) -> None:
        connection.disconnect()
        connection.connection.database = self.database

    def _ping(self, connection: Client) -> None:
        wire = connection.connection
        wire.connect_timeout = wire.sync_request_timeout = _HASTE_SECONDS
        wire.send_receive_timeout = _HASTE_SECONDS
        connection.execute("SELECT 1")

    def _drop(self, connection: Client) -> None:
        with suppress(*_BROKEN):
            connection.disconnect()

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, ServerException):
            text = _first_line(error)
            later = may_succeed_later(error.code)
            return StoreUnavailableError(text) if later else StoreError(text)
        if isinstance(error, _BROKEN):
            text = getattr(error, "message", "") or str(error) or type(error).__name__
            return StoreUnavailableError(
                text if self._address in text else f"{text} ({self._address})"
            )
        return StoreError(str(error)) if isinstance(error, DriverError) else error


def _incoming(columns: str) -> str:
    """What makes a table, of this connection alone, for rows on their way to another."""
    return f"CREATE OR REPLACE TEMPORARY TABLE {INCOMING} ({columns}) ENGINE = Memory"


@contextmanager
def _fenced(fence: Fence | None) -> Iterator[None]:
    """A table that isn't there says that the turn was taken away, or the connection renewed."""
    try:
        yield
    except ServerException as error:
        text = _first_line(error)
        if error.code == _UNKNOWN_TABLE and fence is not None and fence.table in text:
            raise StoreUnavailableError("another process has taken the turn to write") from error
        if error.code == _UNKNOWN_TABLE and f"'{INCOMING}'" in text:
            raise StoreUnavailableError("the connection was lost, and a batch with it") from error
        raise


def _tls(settings: Settings) -> dict[str, Any]:
    if not settings.clickhouse_secure:
        return {}
    trusted = settings.clickhouse_ca_file
    if trusted is not None:
        try:
            ssl.create_default_context(cafile=trusted)
        except OSError as error:
            raise ConfigurationError(
                f"CLICKHOUSE_CA_FILE: {trusted} can't be read: {error.strerror or error}"
            ) from None
    system = ssl.get_default_verify_paths()
    return {"secure": True, "ca_certs": str(trusted or system.cafile or system.openssl_cafile)}


def _first_line(error: ServerException) -> str:
    """What the server says, without its stack."""
    text = str(error.message).partition("Stack trace:")[0].strip()
    return f"Code: {error.code}. {text.splitlines()[0] if text else ''}"
