"""The right to write: one flush at a time, whoever writes, each with a number of its own."""

import asyncio
import logging
import random
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

from app.core.clickhouse_client import ClickHouseClient, Fence, load_query
from app.core.errors import AnalyticsError, StoreError, StoreUnavailableError
from app.ingest.removal import finish_removals, settle_removals
from app.ingest.rollups import load_rollups, repair_rollup
from app.ingest.swap import finish_swaps

logger = logging.getLogger(__name__)

# Whatever its name, the table of the lease has the UUID that follows from this and the database's:
# the server refuses to make a second.
_NAMESPACE = UUID("0b6a4c1e-57a5-4a37-9a0c-3b1f3f0d9a52")

# Between two looks at a lease that another process has, at least. Who is far from the server waits
# as long as a look takes, on the server: so often enough it is seen there.
_LOOK_SECONDS = 0.005
_LONGEST_LOOK_SECONDS = 0.1
# Who has had a turn leaves the next one to those who wait, for so long.
_YIELD_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 10.0
_MOST_LOOKS = 40
_LOOKS_BEFORE_MAKING = 10
# A holder of which no statement runs for so long is dead or asleep.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to write one batch.

    Attributes:
        number: the `batch_id` of its rows. Greater than that of any turn before.
        fence: what every statement of the turn that writes has to be held to; None where nobody
            can take the turn away.
    """

    number: int
    fence: Fence | None


class Lease(ABC):
    """Gives turns, one at a time. Made for one task, which has one turn at a time.

    When a turn is taken, the rollups agree with the events of all turns before, also of those that
    were not given back because their holder failed or died.

    Raises:
        StoreUnavailableError, StoreError: from every method. Take a turn again later.
    """

    def __init__(self, store: ClickHouseClient) -> None:
        self._store = store

    @abstractmethod
    async def take(self) -> Turn:
        """Wait for a turn, at most 10 seconds. One that was not given back before is over."""

    @abstractmethod
    async def give_back(self) -> None:
        """What was written in the turn that was taken is complete."""

    @abstractmethod
    async def settle(self) -> None:
        """Repair what a turn has left that was not given back, if there is one."""

    async def _last_batch(self, after: int, fence: Fence | None = None) -> int:
        """The greatest number of a batch in the store, if it is greater than `after`; else that."""
        [row] = await self._store.execute(
            load_query("last_batch"), {"after": after}, ahead=True, fence=fence
        )
        return max(after, int(row["last_batch"]))

    async def _repair(self, first: int, last: int, fence: Fence | None) -> None:
        await finish_swaps(self._store, last, fence)
        for rollup in await load_rollups(self._store, fence):
            await repair_rollup(self._store, rollup, first, last, fence)

    async def _finish_removals(self, number: int, fence: Fence | None) -> None:
        """What can't be finished now keeps nobody from writing: it is tried again when a turn was
        cut short, at the next start, and when the user is to be erased once more."""
        try:
            await finish_removals(self._store, number, fence)
        except AnalyticsError as error:
            logger.warning("a user is not removed yet: %s", error)
            await settle_removals(self._store, number - 1, fence)


class OwnLease(Lease):
    """For a store that no other process can write to. A process that starts looks what was left."""

    def __init__(self, store: ClickHouseClient) -> None:
        super().__init__(store)
        self._complete = False
        self._number: int | None = None

    async def take(self) -> Turn:
        if not self._complete:
            last = await self._last_batch(0)
            await settle_removals(self._store, last, None)
            await self._repair(last, last, None)
            self._number = max(last, self._number or 0)
            await self._finish_removals(self._number + 1, None)
        assert self._number is not None
        self._number += 1
        self._complete = False
        return Turn(self._number, None)

    async def give_back(self) -> None:
        self._complete = True

    async def settle(self) -> None:
        if not self._complete:
            await self.take()
            await self.give_back()


class _State(NamedTuple):
    """What the name of the lease's table says.

    Attributes:
        number: of the last turn that was taken.
        complete: the turns up to this one are complete. The same: nobody has the lease.
    """

    number: int
    complete: int

    @property
    def table(self) -> str:
        return f"write_lease_{self.number}_{self.complete}"

    @property
    def is_free(self) -> bool:
        return self.number == self.complete


_TABLE = re.compile(r"write_lease_(\d+)_(\d+)")


class SharedLease(Lease):
    """For a server that several processes write to. The lease is a table; its name says who has it.

    RENAME is what a server does for one client and refuses to all others: whoever renames the table
    to the next number has the turn. Every statement that writes names the table, so that one of a
    turn that was taken away fails, however late it arrives. A turn is taken away when no statement
    of its holder runs and the name has not changed for a while. Then what still runs of turns
    before is killed, and what was cut short repaired (docs/decisions/06-writers-take-turns.md).
    """

    def __init__(self, store: ClickHouseClient) -> None:
        super().__init__(store)
        # As it was last seen, and since when it is so.
        self._seen: _State | None = None
        self._since = 0.0
        # A turn of ours that was not given back, and the state in which the last one was.
        self._left: _State | None = None
        self._given_back: _State | None = None
        # Of the last look: how long it took, and how many it has seen waiting.
        self._look_took = 0.0
        self._waiting = 0
        # In which the name can be relied on. A server that lost power may have an older one.
        self._session: object = None

    async def give_back(self) -> None:
        assert self._left is not None
        free = _State(self._left.number, self._left.number)
        if await self._rename(self._left, free):
            self._note(free)
            self._given_back = free
        self._left = None

    async def settle(self) -> None:
        state = await self._look()
        if state.is_free or not await self._may_take(state):
            return
        await self.take()
        await self.give_back()

    async def take(self) -> Turn:
        state = await self._let_others(await self._look())
        deadline = _monotonic() + _LONGEST_WAIT_SECONDS
        pause = max(_LOOK_SECONDS, self._look_took)
        while True:
            mine = _State(state.number + 1, state.complete)
            if await self._may_take(state) and await self._rename(state, mine):
                break
            if _monotonic() > deadline:
                raise StoreUnavailableError("other processes are writing without a pause")
            await self._wait(state, pause)
            pause = min(1.5 * pause, _LONGEST_LOOK_SECONDS)
            state = await self._look()
        self._left = mine
        if not state.is_free or self._store.session is not self._session:
            mine = await self._take_over(mine)
            self._session = self._store.session
        self._note(mine)
        return Turn(mine.number, self._fence(mine))

    async def _let_others(self, state: _State) -> _State:
        """Who waits comes before who has had the turn before. Returns the state it is in then."""
        if state == self._given_back and self._waiting:
            deadline = _monotonic() + _YIELD_SECONDS
            while state == self._given_back and _monotonic() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
                state = await self._look()
        return state

    async def _wait(self, state: _State, seconds: float) -> None:
        """On the server, where who has the turn can see it."""
        # Not all who wait at the same instants: of those who find it free only one gets it.
        seconds *= random.uniform(0.5, 1.5)  # noqa: S311
        await self._store.execute(
            load_query("wait_on_server"),
            {"seconds": seconds},
            ahead=True,
            fence=Fence(state.table, self._waiting_mark),
        )

    async def _may_take(self, state: _State) -> bool:
        """Whether nobody has it, or who has it will not come back to it."""
        if state.is_free or state == self._left:
            return True
        if _monotonic() - self._since < _PATIENCE_SECONDS:
            return False
        [row] = await self._store.execute(
            load_query("running_statements"), {"mark": self._fence(state).mark}, ahead=True
        )
        if row["running"]:
            self._since = _monotonic()
        return not row["running"]

    async def _take_over(self, mine: _State) -> _State:
        """Bring into order what the turns before may have left. Returns the state it is in then."""
        if mine.number > mine.complete + 1:
            logger.info("batch %d was left by its writer; taking over", mine.number - 1)
        await self._store.execute(
            f"KILL QUERY {self._on_cluster} WHERE"
            f" startsWith(Settings['log_comment'], '{self._mark}')"
            f" AND toUInt64OrZero(substring(Settings['log_comment'], {len(self._mark) + 1}))"
            f" < {mine.number} SYNC",
            ahead=True,
            fence=self._fence(mine),
        )
        last = await self._last_batch(mine.complete, self._fence(mine))
        if last >= mine.number:
            # The rows came from another store, or the server lost power and the name with it.
            further = _State(last + 1, mine.complete)
            if not await self._rename(mine, further):
                raise StoreUnavailableError("another writer has taken over")
            self._left = mine = further
        await settle_removals(self._store, last, self._fence(mine))
        # With the last one that was complete: it costs little to see that it is.
        await self._repair(mine.complete, last, self._fence(mine))
        await self._finish_removals(mine.number, self._fence(mine))
        return mine

    async def _look(self) -> _State:
        """The state as it is; the table is made if there is none."""
        problem: StoreError | None = None
        for looks in range(1, _MOST_LOOKS + 1):
            began = _monotonic()
            found = await self._store.execute(
                load_query("write_lease"), {"waiting_mark": self._waiting_mark}, ahead=True
            )
            self._look_took = _monotonic() - began
            if found:
                self._waiting = found[0]["waiting"]
                parts = _TABLE.fullmatch(found[0]["name"])
                assert parts is not None  # as the query has it
                state = _State(int(parts[1]), int(parts[2]))
                self._note(state)
                return state
            # While it is renamed the server may show it under neither name.
            if looks % _LOOKS_BEFORE_MAKING == 0:
                problem = await self._make_table()
        raise StoreError(f"the table of the write lease can't be made: {problem}")

    async def _make_table(self) -> StoreError | None:
        last = await self._last_batch(0)
        [database] = await self._store.execute(load_query("database_identity"), ahead=True)
        identity = uuid5(_NAMESPACE, database["uuid"])
        try:
            await self._store.execute(
                f"CREATE TABLE {_State(last, last).table} UUID '{identity}' (n UInt8) ENGINE = Null"
                " COMMENT 'Who may write: docs/decisions/06-writers-take-turns.md'",
                ahead=True,
            )
        except StoreError as error:  # another process was faster, as a rule
            return error
        return None

    async def _rename(self, old: _State, new: _State) -> bool:
        """Whether it was ours to rename. When it raises, nobody knows."""
        try:
            await self._store.execute(f"RENAME TABLE {old.table} TO {new.table}", ahead=True)
        except StoreError:
            if await self._look() == old:
                raise
            return False
        return True

    def _note(self, state: _State) -> None:
        if state != self._seen:
            self._seen = state
            self._since = _monotonic()

    @property
    def _waiting_mark(self) -> str:
        return f"{self._store.database} waits to write"

    @property
    def _mark(self) -> str:
        return f"{self._store.database} writes batch "

    def _fence(self, state: _State) -> Fence:
        return Fence(state.table, f"{self._mark}{state.number}")

    @property
    def _on_cluster(self) -> str:
        return "" if self._store.cluster is None else f"ON CLUSTER `{self._store.cluster}`"


def lease_for(store: ClickHouseClient) -> Lease:
    """The lease for whoever else can write to this store."""
    return OwnLease(store) if store.exclusive else SharedLease(store)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
