"""How long events and rollups are kept, and since when all events are there."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from app.core.clickhouse_client import ClickHouseClient, load_query
from app.core.errors import StoreError
from app.core.schema import LOCAL

logger = logging.getLogger(__name__)

_DAY = timedelta(days=1)
_EVENTS = "viewing_events"
# All of clickhouse/schema.sql end so.
_TTL = re.compile(r"(?P<begin>.*toIntervalDay\((?:\w+ \+ )?)(?P<days>\d+)\)", re.DOTALL)
_EVER = datetime.min.replace(tzinfo=UTC)
_KEPT_SINCE = re.compile(r"All events are kept since (\S+Z)\.")


@dataclass(frozen=True, slots=True)
class Retention:
    """Which events are there, if they have come, and may come.

    Attributes:
        days: how many days they are kept.
        since: before it events may have been removed, while `days` were fewer. What comes of then
            may have been counted, and nobody can tell any more whether it is a repeat.
    """

    days: int = 365
    since: datetime = _EVER

    def oldest(self, now: datetime) -> datetime:
        """The earliest time of an event that may be stored."""
        return max(now - self.days * _DAY, self.since)

    def first_whole_day(self, now: datetime) -> date:
        """The first UTC day of which every event is still stored."""
        return self.oldest(now).astimezone(UTC).date() + _DAY


async def apply_retention(
    store: ClickHouseClient,
    rollups: Sequence[str],
    event_days: int,
    rollup_days: int,
    now: datetime,
) -> Retention:
    """Have the tables keep their rows for so many days; nothing changes when they do.

    What is too old then is removed in the background.

    Args:
        rollups: the tables that are kept for `rollup_days`, and a day more for zones that are
            behind UTC.
    """
    names = {f"{name}{LOCAL}" if store.cluster else name: name for name in (_EVENTS, *rollups)}
    tables = await store.execute(load_query("retention"), {"tables": list(names)}, ahead=True)
    since = _EVER
    for table in tables:
        name = names[table["name"]]
        parts = _TTL.fullmatch(table["ttl"])
        if parts is None:
            raise _unknown_ttl(name)
        before = int(parts["days"])
        wanted = event_days if name == _EVENTS else rollup_days + 1
        where = table["name"] + (f" ON CLUSTER `{store.cluster}`" if store.cluster else "")
        if name == _EVENTS:
            if said := _KEPT_SINCE.search(table["comment"]):
                since = datetime.fromisoformat(said[1])
            if wanted > before:
                # First: were it lost, what was removed could be counted again.
                since = max(since, (now - before * _DAY).replace(microsecond=0))
                said_now = f"All events are kept since {since:%Y-%m-%dT%H:%M:%SZ}."
                await store.execute(f"ALTER TABLE {where} MODIFY COMMENT '{said_now}'", ahead=True)
        if wanted != before:
            logger.info("%s is kept for %d days from now on, not %d", name, wanted, before)
            await store.execute(
                f"ALTER TABLE {where} MODIFY TTL {parts['begin']}{wanted})", ahead=True
            )
    return Retention(event_days, since)


async def events_kept_since(store: ClickHouseClient) -> int:
    """Since when the engine keeps events, by its own clock, in seconds since 1970 UTC.

    Raises:
        StoreError: the table's TTL isn't that of `clickhouse/schema.sql`.
    """
    [table] = await store.execute(load_query("retention"), {"tables": [_EVENTS]}, ahead=True)
    parts = _TTL.fullmatch(table["ttl"])
    if parts is None:
        raise _unknown_ttl(_EVENTS)
    since = "toUnixTimestamp(now() - toIntervalDay({days:UInt16}))"
    [row] = await store.execute(
        f"SELECT {since} AS since", {"days": int(parts["days"])}, ahead=True
    )
    return int(row["since"])


def _unknown_ttl(table: str) -> StoreError:
    return StoreError(f"the TTL of {table} must end with toIntervalDay(… a number)")
