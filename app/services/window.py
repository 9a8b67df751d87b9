"""The window of a query: calendar days in a time zone, and what the store needs to know of them."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from app.core.clickhouse_client import Parameters

# All changes of an offset happen on a quarter of an hour, and none twice within a day.
_QUARTER = timedelta(minutes=15)
_DAY = timedelta(days=1)
_DAY_SECONDS = 86_400


@cache
def zone_names() -> frozenset[str]:
    """All that `load_zone` knows."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@cache
def load_zone(name: str) -> ZoneInfo:
    """The zone of that IANA name, from the pinned tzdata package.

    Never from the machine or from ClickHouse, which carry databases of other dates: the answers
    would differ from place to place (docs/decisions/02-one-time-zone-database.md).

    Raises:
        ValueError: there is no such zone.
    """
    if name not in zone_names():
        raise ValueError("not an IANA time zone name such as Europe/Berlin")
    with resources.files("tzdata.zoneinfo").joinpath(name).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@dataclass(frozen=True, slots=True)
class Window:
    """The last `days` calendar days in a time zone, today included.

    Attributes:
        first_day, last_day: in the zone, both inclusive.
        start, end: the same as instants in UTC, `end` exclusive.
    """

    days: int
    timezone: str
    first_day: date
    last_day: date
    start: datetime
    end: datetime

    @property
    def in_utc(self) -> bool:
        """Whether its days are the days of the daily rollups."""
        return self.timezone == "UTC"

    def previous(self) -> "Window":
        """The window of as many days that ends the day before this one begins."""
        first_day = self.first_day - timedelta(days=self.days)
        return Window(
            self.days, self.timezone, first_day, self.first_day - _DAY,
            _midnight(first_day, load_zone(self.timezone)), self.start,
        )  # fmt: skip

    def dates(self) -> list[date]:
        return [self.first_day + timedelta(days=n) for n in range(self.days)]

    def midnights(self) -> list[datetime]:
        """The instants at which its days begin, and the one at which the last of them ends."""
        zone = load_zone(self.timezone)
        return [_midnight(self.first_day + timedelta(days=n), zone) for n in range(self.days + 1)]

    def bounds(self) -> Parameters:
        """`first_day`, `last_day` for a rollup by UTC day; `start`, `end` for the events."""
        return {
            "first_day": self.first_day,
            "last_day": self.last_day,
            "start": int(self.start.timestamp()),
            "end": int(self.end.timestamp()),
        }

    def whole_utc_days(self) -> Parameters:
        """The UTC days that lie in the window as a whole: `whole_start` to `whole_end`, exclusive.

        Both are midnights in UTC. In a window of a day there may be none: then they are equal.
        """
        start = int(self.start.timestamp())
        end = int(self.end.timestamp())
        whole_start = -(-start // _DAY_SECONDS) * _DAY_SECONDS
        return {
            "whole_start": min(whole_start, end),
            "whole_end": max(end // _DAY_SECONDS * _DAY_SECONDS, min(whole_start, end)),
        }

    def offsets(self) -> Parameters:
        """The zone's clock within the window, for the store to tell local time by.

        `offset_starts` holds the instants from which an offset holds (seconds since 1970 UTC,
        ascending, the first not after `start`), `offset_seconds` the offsets from UTC.
        """
        clocks = self.clocks()
        return {
            "offset_starts": [start for start, _, _ in clocks],
            "offset_seconds": [offset for _, _, offset in clocks],
        }

    def clocks(self) -> list[tuple[int, int, int]]:
        """The same as (from, to, offset), a piece for each setting of the clock."""
        changes = _offset_changes(self.timezone, self.start, self.end)
        starts = [int(start.timestamp()) for start, _ in changes]
        ends = [*starts[1:], int(self.end.timestamp())]
        return [
            (start, end, offset)
            for start, end, (_, offset) in zip(starts, ends, changes, strict=True)
        ]


def last_days(days: int, timezone: str, now: datetime) -> Window:
    """The window of the last `days` calendar days in `timezone` at the instant `now`."""
    zone = load_zone(timezone)
    last_day = now.astimezone(zone).date()
    first_day = last_day - timedelta(days=days - 1)
    return Window(
        days, timezone, first_day, last_day, _midnight(first_day, zone),
        _midnight(last_day + _DAY, zone),
    )  # fmt: skip


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant at which `day` begins. Where midnight is skipped, PEP 495 gives the change."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _offset(instant: datetime, zone: ZoneInfo) -> int:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None  # an aware time has one
    return int(offset.total_seconds())


@lru_cache(maxsize=1024)
def _offset_changes(timezone: str, start: datetime, end: datetime) -> list[tuple[datetime, int]]:
    zone = load_zone(timezone)
    changes = [(start, _offset(start, zone))]
    day = start
    while day < end:
        until = min(day + _DAY, end)
        if _offset(until, zone) != changes[-1][1]:
            while day < until and _offset(day, zone) == changes[-1][1]:
                day += _QUARTER
            changes.append((day, _offset(day, zone)))
        day = until
    return changes
