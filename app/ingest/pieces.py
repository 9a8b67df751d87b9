"""Work in pieces, one after another, so that memory doesn't grow with the store."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from app.core.clickhouse_client import ClickHouseClient, load_query

_DAY = timedelta(days=1)

# So many events, or a day, are counted at a time.
_EVENTS_AT_A_TIME = 1_000_000

# So many bytes of rows are copied at a time; the engine has several times as many in hand.
_BYTES_AT_A_TIME = 32 * 1024 * 1024
_MOST_ROWS_AT_A_TIME = 1_000_000
_BLOCKS_AT_A_TIME = 4

OF_DAYS = (
    "event_time >= toDateTime({first_day:Date}, 'UTC')"
    " AND event_time < toDateTime({last_day:Date} + 1, 'UTC')"
)
"""SQL: the condition for the events of days one after another, given the first and the last."""


async def events_by_day(store: ClickHouseClient, first: date, last: date) -> dict[date, int]:
    """How many events there are on each UTC day that has any, from one day to another."""
    rows = await store.execute(load_query("events_by_day"), {"first_day": first, "last_day": last})
    return {date.fromisoformat(row["day"]): row["events"] for row in rows}


async def pieces_of(store: ClickHouseClient, days: Sequence[date]) -> list[tuple[date, date]]:
    """First and last days of pieces that have all events of these days, few enough to be counted.

    Args:
        days: ascending.
    """
    events = await events_by_day(store, days[0], days[-1]) if days else {}
    return joined((day, day, events[day]) for day in days if day in events)


def joined(pieces: Iterable[tuple[date, date, int]]) -> list[tuple[date, date]]:
    """Pieces of the calendar, of which neighbours are one as long as they have not many events.

    Args:
        pieces: ascending; first and last day of each, and how many events it has.
    """
    longer: list[tuple[date, date]] = []
    size = 0
    for first, last, events in pieces:
        size += events
        if longer and first == longer[-1][1] + _DAY and size <= _EVENTS_AT_A_TIME:
            longer[-1] = (longer[-1][0], last)
        else:
            longer.append((first, last))
            size = events
    return longer


async def copied_in_pieces(store: ClickHouseClient, table: str) -> str:
    """The settings of an INSERT … SELECT of a table's rows as they are.

    Left to itself the engine takes rows by their bytes, but for those of states, which may be
    nearly all: 15,000 rows of the audience at once were 7 GB.
    """
    [row] = await store.execute(load_query("row_bytes"), {"table": table}, ahead=True)
    rows = max(_BLOCKS_AT_A_TIME, _BYTES_AT_A_TIME // max(1, row["bytes"]))
    rows = min(rows, _MOST_ROWS_AT_A_TIME)
    return (
        f"max_threads = 1, max_block_size = {rows // _BLOCKS_AT_A_TIME},"
        f" min_insert_block_size_rows = {rows}"
    )
