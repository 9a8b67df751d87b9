"""Takes a user out of every table: all of it or nothing, whatever is killed on the way.

Nothing is changed in place. Of every month that has events of the user, and of what the rollups say
of those, a copy without the user is made beside it, while events are stored and questions answered;
in a turn to write, what was stored meanwhile is added. When all copies are there, that is recorded;
from then on they are put in the place of what they were made from, one after another, and this is
done again after a crash until it is through: it may have stopped in the middle of one, which then
is there twice. Before it is recorded, the copies are thrown away
(docs/decisions/10-a-user-is-removed-by-copies.md).
"""

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from app.core.clickhouse_client import ClickHouseClient, Fence, Row, load_query
from app.core.clickhouse_values import escape
from app.core.errors import AnalyticsError, StoreUnavailableError
from app.core.schema import OLD_PARTS_SECONDS
from app.ingest.events import Events
from app.ingest.pieces import OF_DAYS, copied_in_pieces, pieces_of
from app.ingest.retention import events_kept_since
from app.ingest.rollups import Rollup, load_rollups
from app.ingest.swap import drop_drafts, emptied, take_out
from app.ingest.tombstones import Tombstones

logger = logging.getLogger(__name__)

_EVENTS = "viewing_events"
_REJECTIONS = "rejected_events"
_PENDING = "pending_removal_"
_COPY = "removing_"

# How long merged parts stay while what was replaced has to go.
_HURRIED_SECONDS = 1
_LOOK_SECONDS = 0.2
_SEEN_SECONDS = 0.5
# A part that a query reads stays until that is through.
_LONGEST_CLEANING_SECONDS = 120.0
_REJECTIONS_AT_ONCE = 1_000
# The limits of a reader's query are not for what is made.
_UNLIMITED = "max_execution_time = 0, max_memory_usage = 0"

_PENDING_COLUMNS = """
    user_id UUID, new_id Nullable(UUID), session_key_1 UInt64, session_key_2 UInt64,
    oldest DateTime('UTC'), copies String, swaps Array(Tuple(String, String))
"""


class Swap(NamedTuple):
    """A partition that is to be replaced by its copy."""

    table: str
    partition: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal that is not complete.

    Attributes:
        table: where it is recorded, the id too. Dropped when it is complete.
        new_id: instead of whose the events are from then on; None to delete them.
        session_key: what ids of sessions are hashed with, if they stay.
        oldest: since when all events are stored, in seconds since 1970 UTC. What rollups say of the
            time before can't be counted again.
        copies: how the names of the copies begin, when all are there; else empty.
        swaps: what they are to replace.
    """

    table: str
    user_id: UUID
    new_id: UUID | None
    session_key: tuple[int, int]
    oldest: int
    copies: str = ""
    swaps: tuple[Swap, ...] = ()

    @property
    def number(self) -> int:
        """Of the turn in which the copies were made."""
        return int(self.copies.split("_")[1])

    @property
    def parameters(self) -> dict[str, Any]:
        about: dict[str, Any] = {"user_id": self.user_id, "oldest": self.oldest}
        if self.new_id is not None:
            about["new_id"] = self.new_id
        return about


@dataclass(slots=True)
class Copies:
    """Copies that are being made.

    Attributes:
        prefix: how their names begin.
        last_batch: the last one that was stored when they were begun.
        events: how many there were of the user's.
        swaps: what they are to replace, when they are made.
    """

    prefix: str
    last_batch: int
    rollups: tuple[Rollup, ...]
    events: int
    swaps: list[Swap] = field(default_factory=list)

    @property
    def tables(self) -> list[str]:
        """What there are copies of, the events last."""
        return [*(rollup.table for rollup in self.rollups), _EVENTS]

    def of(self, table: str) -> str:
        """The copy's name."""
        return f"{self.prefix}{table}"

    def fence(self, store: ClickHouseClient) -> Fence | None:
        """What is inserted late, after they were dropped, fails; nothing is inserted twice."""
        return None if store.exclusive else Fence(self.of(_EVENTS), f"{self.prefix} is written")


def _prefix(number: int, removal: Removal) -> str:
    """Named after both: of one turn there may be the copies of two removals."""
    return f"{_COPY}{number}_{removal.table.removeprefix(_PENDING)}_"


def _before(copy: str) -> str:
    """The table of what was in the rollup when its copy was begun."""
    return f"{copy}_before"


async def begin_removal(
    store: ClickHouseClient, tombstones: Tombstones, user_id: UUID, *, anonymise: bool,
    oldest: datetime, fence: Fence | None,
) -> Removal:  # fmt: skip
    """Record that a user is to be removed, and refuse their events from now on."""
    for removal in await _load_removals(store):
        if removal.user_id == user_id:  # one that failed
            await tombstones.add(user_id, fence)
            return removal
    removal = Removal(
        f"{_PENDING}{secrets.token_hex(8)}",
        user_id,
        uuid4() if anonymise else None,
        (secrets.randbits(64), secrets.randbits(64)),
        max(0, math.ceil(oldest.timestamp())),
    )
    await store.execute(
        f"CREATE TABLE {removal.table} ({_PENDING_COLUMNS}) ENGINE = MergeTree ORDER BY tuple()"
        " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
        ahead=True,
    )
    await _record(store, removal, fence)
    await tombstones.add(user_id, fence)
    return removal


async def carry_out(
    store: ClickHouseClient, removal: Removal, number: int, fence: Fence | None
) -> Removal:
    """Do all that takes the user out of the tables within the turn `number`, which is held.

    Returns:
        What is left to do, for `clean_up`.
    """
    if removal.copies:
        return removal
    copies = await begin_copies(store, removal, number, fence)
    if copies is None:
        return removal
    await make_copies(store, removal, copies)
    return await put_in_place(store, removal, copies, number, fence)


async def begin_copies(
    store: ClickHouseClient, removal: Removal, number: int, fence: Fence | None
) -> Copies | None:
    """Note what there is now. Part of the turn `number`; None if nothing is of the user."""
    # A rollup that is being made anew would bring the user back, and so would copies of another.
    await drop_drafts(store)
    await _drop_copies(store, fence)
    rollups = await load_rollups(store, fence)
    of_user = [_EVENTS, *(one.table for one in rollups if "user_id" in one.keys)]
    rows = {
        table: await store.execute(
            f"SELECT count() AS n FROM {table} WHERE user_id = {{user_id:UUID}}",
            removal.parameters,
            ahead=True,
            fence=fence,
        )
        for table in of_user
    }
    if not any(found[0]["n"] for found in rows.values()):
        return None
    copies = Copies(_prefix(number, removal), number - 1, tuple(rollups), rows[_EVENTS][0]["n"])
    for table in copies.tables:
        copy = copies.of(table)
        made = [copy, emptied(copy)] if table == _EVENTS else [copy, emptied(copy), _before(copy)]
        for name in made:
            await store.execute(f"CREATE TABLE {name} AS {table}", ahead=True, fence=fence)
    for rollup in rollups:
        partitions = await store.execute(
            f"SELECT DISTINCT _partition_id AS id FROM {rollup.table}", ahead=True, fence=fence
        )
        for partition in sorted(row["id"] for row in partitions):
            await store.execute(
                f"ALTER TABLE {_before(copies.of(rollup.table))}"
                f" ATTACH PARTITION ID '{partition}' FROM {rollup.table}",
                ahead=True,
                fence=fence,
            )
    if fence is not None:
        # Had the turn been taken away meanwhile, there could be rows of later batches in it.
        await store.execute(f"SELECT {fence.condition}", ahead=True, fence=fence)
    return copies


async def make_copies(store: ClickHouseClient, removal: Removal, copies: Copies) -> None:
    """Fill the copies with what there was when they were begun, without the user; in no turn.

    Raises:
        StoreUnavailableError, StoreError: also when another process has begun to do the like.
    """
    try:
        for rollup in copies.rollups:
            copies.swaps += await _copy_rollup(store, removal, rollup, copies)
        # The events are last: as long as there are any of the user's, it can be said which rows of
        # the rollups have to do with them.
        copies.swaps += await _copy_events(store, removal, copies)
    except AnalyticsError:
        with suppress(AnalyticsError):
            for name in await _tables(store, copies.prefix):
                await store.execute(f"DROP TABLE IF EXISTS {name} SYNC", ahead=True)
        raise


async def put_in_place(
    store: ClickHouseClient,
    removal: Removal,
    copies: Copies,
    number: int,
    fence: Fence | None,
) -> Removal:
    """Add to the copies what was stored since, and swap. Part of the turn `number`.

    Returns:
        What is left to do, for `clean_up`.

    Raises:
        StoreUnavailableError: the copies are gone: others have begun the like, or an interruption
            was put right meanwhile.
    """
    async with _held(store, fence):
        await drop_drafts(store)
        # Named after this turn: in it, nothing is written but by this.
        copies = await _rename(store, copies, _prefix(number, removal), fence)
        await _add_since(store, copies, number - 1, fence)
        removal = replace(removal, copies=copies.prefix, swaps=tuple(copies.swaps))
        await _record(store, removal, fence)
        await _swap(store, removal, fence)
    await _drop_copies(store, fence)
    return removal


async def is_under_way(store: ClickHouseClient) -> bool:
    """Whether there are copies that may be put in place."""
    return bool(await _tables(store, _COPY))


async def settle_removals(store: ClickHouseClient, last_batch: int, fence: Fence | None) -> None:
    """What a turn that was cut short has left: put copies in place if all were there; drop them.

    Afterwards the tables say the same of each other. It has to come before anything is written, and
    before what was cut short is repaired.

    Args:
        last_batch: the greatest number of a batch of which anything is in the store.
    """
    for removal in await _load_removals(store):
        # What is older than a batch was put in place, and its removal lost with the power.
        if removal.copies and removal.number > last_batch:
            async with _held(store, fence):
                await _swap(store, removal, fence)
    await _drop_copies(store, fence)


async def finish_removals(store: ClickHouseClient, number: int, fence: Fence | None) -> None:
    """Carry out what was recorded and is not complete. Part of the turn `number`."""
    for found in await _load_removals(store):
        logger.info("finishing the removal of a user")
        # Since it was asked for, more events may have become too old.
        found = replace(found, oldest=max(found.oldest, await events_kept_since(store)))
        async with _held(store, fence):
            await Tombstones(store).add(found.user_id, fence)
            removal = await carry_out(store, found, number, fence)
            await forget_staged(store)
            await clean_up(store, removal)


async def forget_staged(store: ClickHouseClient) -> None:
    """The last batch is in a file until there is another. Part of a turn: a batch may come then."""
    if store.exclusive:
        await store.stage(Events.of([]).block(0))


async def clean_up(store: ClickHouseClient, removal: Removal) -> int:
    """See that nothing of the user is left on the disk; the removal is complete then.

    Takes some seconds. Needs no turn, but `forget_staged` in one before.

    Returns:
        How many rejected messages with the user's id were deleted.
    """
    rejections = await _delete_rejections(store, removal.user_id)
    tables = {swap.table for swap in removal.swaps}
    if rejections:
        tables.add(_REJECTIONS)
    if tables:
        await _wait_for_old_parts(store, sorted(tables))
    await store.remove_broken()
    await store.execute(f"DROP TABLE IF EXISTS {removal.table} SYNC", ahead=True)
    return rejections


async def _load_removals(store: ClickHouseClient) -> list[Removal]:
    found: list[Removal] = []
    for name in await _tables(store, _PENDING):
        rows = await store.execute(
            "SELECT toString(user_id) AS user_id, toString(new_id) AS new_id,"
            " toUnixTimestamp(oldest) AS oldest,"
            " toString(session_key_1) AS key_1, toString(session_key_2) AS key_2, copies,"
            " arrayMap(one -> one.1, swaps) AS tables, arrayMap(one -> one.2, swaps) AS partitions"
            f" FROM {name} ORDER BY copies DESC LIMIT 1",
            ahead=True,
        )
        if not rows:  # its recording was cut short: nothing was promised
            await store.execute(f"DROP TABLE IF EXISTS {name} SYNC", ahead=True)
        for row in rows:
            swaps = zip(row["tables"], row["partitions"], strict=True)
            found.append(
                Removal(
                    name,
                    UUID(row["user_id"]),
                    UUID(row["new_id"]) if row["new_id"] else None,
                    (int(row["key_1"]), int(row["key_2"])),
                    row["oldest"],
                    row["copies"],
                    tuple(Swap(*swap) for swap in swaps),
                )
            )
    return found


async def _record(store: ClickHouseClient, removal: Removal, fence: Fence | None) -> None:
    """As it is now; the last record counts. Durable when it returns."""
    new_id = "NULL" if removal.new_id is None else "{new_id:UUID}"
    await store.execute(
        f"INSERT INTO {removal.table} SELECT {{user_id:UUID}}, {new_id}, {{key_1:UInt64}},"
        " {key_2:UInt64}, toDateTime({oldest:UInt32}, 'UTC'), {copies:String},"
        " CAST(arrayZip({tables:Array(String)}, {partitions:Array(String)}),"
        " 'Array(Tuple(String, String))')"
        f" WHERE {_condition(fence)}",
        {
            **removal.parameters,
            "key_1": removal.session_key[0],
            "key_2": removal.session_key[1],
            "copies": removal.copies,
            "tables": [swap.table for swap in removal.swaps],
            "partitions": [swap.partition for swap in removal.swaps],
        },
        ahead=True,
        fence=fence,
    )


async def _copy_rollup(
    store: ClickHouseClient, removal: Removal, rollup: Rollup, copies: Copies
) -> list[Swap]:
    """Rows that the user is in are counted again from the events; all others are as they were.

    A row that begins before the events do can't be counted: it stays, unless it is of the user.
    """
    keys = ", ".join(rollup.keys)
    columns = rollup.columns
    copy = copies.of(rollup.table)
    before = _before(copy)
    of_user = f"(SELECT * FROM {_EVENTS} WHERE user_id = {{user_id:UUID}})"
    touched = _of(rollup, of_user, columns)
    others = (
        f"SELECT * FROM {_EVENTS} WHERE user_id != {{user_id:UUID}}"
        f" AND {OF_DAYS} AND batch_id <= {{last_batch:UInt64}}"
    )
    if removal.new_id is None:
        without = f"({others})"
    else:
        renamed = f"(SELECT * REPLACE ({{new_id:UUID}} AS user_id) FROM {of_user})"
        touched += f" UNION ALL {_of(rollup, renamed, columns)}"
        without = f"({others} UNION ALL SELECT * FROM {renamed} WHERE {OF_DAYS})"
    is_kept = f"toDateTime({rollup.time}, 'UTC') >= toDateTime({{oldest:UInt32}}, 'UTC')"
    again = f"(({keys}) IN (SELECT {keys} FROM ({touched})) AND {is_kept})"
    is_theirs = "user_id = {user_id:UUID}" if "user_id" in rollup.keys else "0"

    async def ask(statement: str, settings: str = _UNLIMITED, **more: Any) -> list[Row]:
        about = {**removal.parameters, "last_batch": copies.last_batch, **more}
        return await store.execute(
            f"{statement} SETTINGS {settings}", about, fence=copies.fence(store)
        )

    rows = await ask(
        f"SELECT DISTINCT {rollup.every_day} AS day FROM ({touched}) WHERE {is_kept} ORDER BY day"
    )
    # Some days at a time: memory doesn't grow with the days, and sums and states can be added.
    days = [date.fromisoformat(row["day"]) for row in rows]
    for first_day, last_day in await pieces_of(store, days):
        await ask(
            f"INSERT INTO {copy} ({columns}) {_of(rollup, without, columns)} WHERE {again}",
            first_day=first_day,
            last_day=last_day,
        )
    rows = await ask(
        f"SELECT DISTINCT partition FROM (SELECT _partition_id AS partition FROM {before}"
        f" WHERE {again} OR {is_theirs} UNION ALL SELECT _partition_id AS partition FROM {copy})"
        " ORDER BY partition"
    )
    partitions = [row["partition"] for row in rows]
    old = f"FROM {before} WHERE _partition_id IN {{partitions:Array(String)}} AND NOT {again}"
    await ask(
        f"INSERT INTO {copy} SELECT * {old} AND NOT ({is_theirs})",
        f"{_UNLIMITED}, {await copied_in_pieces(store, before)}",
        partitions=partitions,
    )
    if removal.new_id is not None and "user_id" in rollup.keys:
        await ask(
            f"INSERT INTO {copy} SELECT * REPLACE ({{new_id:UUID}} AS user_id)"
            f" FROM (SELECT * {old} AND {is_theirs})",
            partitions=partitions,
        )
    return [Swap(rollup.table, partition) for partition in partitions]


def _of(rollup: Rollup, events: str, columns: str) -> str:
    """What the rollup would say of these events."""
    return f"SELECT {columns} FROM ({rollup.source.replace(_EVENTS, events, 1)})"


async def _copy_events(store: ClickHouseClient, removal: Removal, copies: Copies) -> list[Swap]:
    rows = await store.execute(
        f"SELECT DISTINCT _partition_id AS partition FROM {_EVENTS}"
        " WHERE user_id = {user_id:UUID} ORDER BY partition",
        removal.parameters,
    )
    partitions = [row["partition"] for row in rows]
    in_months = "_partition_id IN {partitions:Array(String)}"
    of_user = f"SELECT * FROM {_EVENTS} WHERE user_id = {{user_id:UUID}} AND {in_months}"
    sources = [
        f"SELECT * FROM {_EVENTS} WHERE user_id != {{user_id:UUID}} AND {in_months}"
        " AND batch_id <= {last_batch:UInt64}"
    ]
    if removal.new_id is not None:
        # Ids of events may follow from that of the user, or be known elsewhere, and so may those of
        # sessions, of which only that they differ counts. Metadata isn't counted.
        sources.append(
            "SELECT * REPLACE (generateUUIDv4() AS id, {new_id:UUID} AS user_id,"
            " if(isNull(session_id), NULL, toNullable(reinterpretAsUUID(sipHash128Keyed("
            "({key_1:UInt64}, {key_2:UInt64}), assumeNotNull(session_id))))) AS session_id,"
            f" '{{}}' AS metadata) FROM ({of_user})"
        )
    for source in sources:
        await store.execute(
            f"INSERT INTO {copies.of(_EVENTS)} {source} SETTINGS {_UNLIMITED}",
            {
                **removal.parameters,
                "key_1": removal.session_key[0],
                "key_2": removal.session_key[1],
                "partitions": partitions,
                "last_batch": copies.last_batch,
            },
            fence=copies.fence(store),
        )
    return [Swap(_EVENTS, partition) for partition in partitions]


async def _rename(
    store: ClickHouseClient, copies: Copies, prefix: str, fence: Fence | None
) -> Copies:
    """The copies under other names; what there was before is no longer needed."""
    names = [copies.of(table) for table in copies.tables]
    there = set(await _tables(store, copies.prefix))
    if not there.issuperset(names):
        raise StoreUnavailableError("the copies without the user are gone")
    if prefix != copies.prefix:
        renames = ", ".join(
            f"{name} TO {prefix}{name.removeprefix(copies.prefix)}"
            for copy in names
            for name in (copy, emptied(copy))
        )
        await store.execute(f"RENAME TABLE {renames}", ahead=True, fence=fence)
    return replace(copies, prefix=prefix)


async def _add_since(
    store: ClickHouseClient, copies: Copies, last_batch: int, fence: Fence | None
) -> None:
    """Add the batches after those that the copies hold: of others, for the user's are refused."""
    if last_batch <= copies.last_batch:
        return
    batches = "batch_id BETWEEN {first_batch:UInt64} AND {last_batch:UInt64}"
    about = {"first_batch": copies.last_batch + 1, "last_batch": last_batch}
    statements = [
        f"INSERT INTO {copies.of(rollup.table)} ({rollup.columns})"
        f" SELECT {rollup.columns} FROM ({rollup.source_of(batches)}) WHERE {_condition(fence)}"
        for rollup in copies.rollups
    ]
    # In partitions that aren't swapped they are not missing.
    statements.append(
        f"INSERT INTO {copies.of(_EVENTS)} SELECT * FROM {_EVENTS}"
        f" WHERE {batches} AND {_condition(fence)}"
    )
    for statement in statements:
        await store.execute(statement, about, ahead=True, fence=fence)


async def _swap(store: ClickHouseClient, removal: Removal, fence: Fence | None) -> None:
    """Put the copies in their places: again, if some are there already; not if they are dropped.

    These statements can't name the lease's table. What stops one that comes late, after the turn
    was taken away, is that the copies are gone: whoever takes over has dropped them.
    """
    there = set(await _tables(store, removal.copies))
    tables = [f"{removal.copies}{swap.table}" for swap in removal.swaps]
    found = await store.execute(load_query("active_partitions"), {"tables": tables}, ahead=True)
    filled = {(row["table"], row["partition_id"]) for row in found}
    async with store.gate.alone():
        for (table, partition), copy in zip(removal.swaps, tables, strict=True):
            if copy not in there:
                continue
            change = (
                f"REPLACE PARTITION ID '{partition}' FROM {copy}"
                if (copy, partition) in filled
                else take_out(partition, emptied(copy))
            )
            await store.execute(f"ALTER TABLE {table} {change}", ahead=True, fence=fence)


async def drop_unrecorded_copies(store: ClickHouseClient) -> None:
    """Remove copies that were begun and will not be finished."""
    recorded = tuple(one.copies for one in await _load_removals(store) if one.copies)
    for name in await _tables(store, _COPY):
        if not name.startswith(recorded):
            await store.execute(f"DROP TABLE IF EXISTS {name} SYNC", ahead=True)


async def _drop_copies(store: ClickHouseClient, fence: Fence | None) -> None:
    for name in await _tables(store, _COPY):
        await store.execute(f"DROP TABLE IF EXISTS {name} SYNC", ahead=True, fence=fence)


@asynccontextmanager
async def _held(store: ClickHouseClient, fence: Fence | None) -> AsyncIterator[None]:
    """Keep the turn: it is taken away from whoever has no statement at work for two seconds, and
    there are moments between two of them."""
    if fence is None:
        yield
        return
    tasks = [asyncio.create_task(_be_seen(store, fence, late)) for late in (0.0, _SEEN_SECONDS / 2)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _be_seen(store: ClickHouseClient, fence: Fence, late: float) -> None:
    await asyncio.sleep(late)
    with suppress(AnalyticsError):
        while True:
            await store.execute(
                load_query("wait_on_server"), {"seconds": _SEEN_SECONDS}, fence=fence
            )


async def _delete_rejections(store: ClickHouseClient, user_id: UUID) -> int:
    """By where they came from: the text of such a statement stays on the disk for a while."""
    rows = await store.execute(
        load_query("rejections_with_id"), {"id_digits": user_id.hex}, ahead=True
    )
    for start in range(0, len(rows), _REJECTIONS_AT_ONCE):
        some = rows[start : start + _REJECTIONS_AT_ONCE]
        keys = ", ".join(
            f"('{escape(row['topic'])}', {row['partition']}, {row['offset']}, {row['hash']})"
            for row in some
        )
        await store.execute(
            f"ALTER TABLE {_REJECTIONS} DELETE"
            f" WHERE (topic, `partition`, `offset`, cityHash64(payload)) IN ({keys})"
            " SETTINGS mutations_sync = 2",
            ahead=True,
        )
    return len({(row["topic"], row["partition"], row["offset"]) for row in rows})


async def _wait_for_old_parts(store: ClickHouseClient, tables: Sequence[str]) -> None:
    """Until what was replaced before, or merged away, is gone from the disk."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LONGEST_CLEANING_SECONDS
    try:
        old = await _old_parts(store, tables)
        while old & (present := await _old_parts(store, tables)):
            if loop.time() > deadline:
                raise StoreUnavailableError("what was replaced is still being read")
            for table in sorted({table for table, _ in old & present}):
                await store.execute(
                    f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = {_HURRIED_SECONDS}",
                    ahead=True,
                )
                # There is no such partition: what is asked for is the cleaning that comes with it.
                await store.execute(f"ALTER TABLE {table} DROP PARTITION ID 'none'", ahead=True)
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        for table in tables:
            await store.execute(
                f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = {OLD_PARTS_SECONDS}",
                ahead=True,
            )


async def _old_parts(store: ClickHouseClient, tables: Sequence[str]) -> set[tuple[str, str]]:
    rows = await store.execute(load_query("old_parts"), {"tables": tables}, ahead=True)
    return {(row["table"], row["name"]) for row in rows}


async def _tables(store: ClickHouseClient, prefix: str) -> list[str]:
    rows = await store.execute(load_query("tables_named"), {"prefix": prefix}, ahead=True)
    return [row["name"] for row in rows]


def _condition(fence: Fence | None) -> str:
    return "1" if fence is None else fence.condition
