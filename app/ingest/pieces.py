"""Days in pieces that are counted one after another, so that memory doesn't grow with the days."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from app.core.clickhouse_client import ClickHouseClient, load_query

_DAY = timedelta(days=1)

# So many events, or a day, are counted at a time.
_EVENTS_AT_A_TIME = 1_000_000

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
