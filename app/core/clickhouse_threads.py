"""What both engines have in common: drivers that block, connections that run a query at a time."""

import asyncio
import threading
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from app.core.clickhouse_client import ClickHouseClient
from app.core.errors import StoreError, StoreUnavailableError

_PING_SECONDS = 1.9  # so that who waits for the answer has it within 2

C = TypeVar("C")
T = TypeVar("T")


class ThreadedClickHouse(ClickHouseClient, Generic[C]):
    """A bounded number of threads, each with a connection of its own.

    `readers` for queries, one for all that belongs to writing, one for pings, which therefore never
    wait for each other.
    """

    def __init__(self, database: str, readers: int) -> None:
        self.database = database
        self._has_database = False
        self._thread = threading.local()
        self._connections: list[C] = []
        self._readers = ThreadPoolExecutor(
            readers, "clickhouse-read", initializer=lambda: setattr(self._thread, "reads", True)
        )
        self._writer = ThreadPoolExecutor(1, "clickhouse-write")
        self._pinger = ThreadPoolExecutor(1, "clickhouse-ping")

    @abstractmethod
    def _open(self) -> C:
        """A new connection, for the calling thread."""

    def _limit(self, connection: C) -> None:
        """The connection is a reader's: what its queries may take is bounded from now on."""

    @abstractmethod
    def _use_database(self, connection: C) -> None:
        """From now on the connection is to know our tables by their names."""

    @abstractmethod
    def _ping(self, connection: C) -> None:
        """Raises anything when the store doesn't answer."""

    @abstractmethod
    def _drop(self, connection: C) -> None:
        """Close the connection, whatever state it is in."""

    @abstractmethod
    def _translate(self, error: Exception) -> Exception:
        """Our error for one of the driver's; any other as it is."""

    async def ping(self) -> bool:
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._run(self._pinger, lambda: self._ping(self._connection()))
        except (TimeoutError, StoreError, StoreUnavailableError):
            return False
        return True

    async def close(self) -> None:
        for threads in (self._pinger, self._readers, self._writer):
            await asyncio.to_thread(threads.shutdown)
        while self._connections:
            self._drop(self._connections.pop())

    def _connection(self) -> C:
        """The calling thread's."""
        connection: C | None = getattr(self._thread, "connection", None)
        if connection is None:
            connection = self._open()
            if getattr(self._thread, "reads", False):
                self._limit(connection)
            self._connections.append(connection)
            self._thread.connection = connection
        if self._has_database and not getattr(self._thread, "in_database", False):
            self._use_database(connection)
            self._thread.in_database = True
        return connection

    def _threads(self, ahead: bool) -> ThreadPoolExecutor:
        return self._writer if ahead else self._readers

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            work = asyncio.get_running_loop().run_in_executor(threads, call)
        except RuntimeError:  # the pool is shut
            raise StoreUnavailableError("the store is closed") from None
        try:
            return await work
        except Exception as error:
            ours = self._translate(error)
            if ours is error:
                raise
            raise ours from error
