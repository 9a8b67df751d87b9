"""The window of a query is whole days of a zone, and its offsets tell the zone's clock."""

from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.window import Window, last_days, load_zone
from tests.conftest import NOW

ALL_ZONES = sorted((resources.files("tzdata") / "zones").read_text("utf-8").split())
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)

zones = st.sampled_from(ALL_ZONES)
# Years in which no zone changes its clock but on a quarter of an hour, and any time of the day.
presents = st.datetimes(datetime(2023, 6, 1), datetime(2030, 1, 1)).map(
    lambda time: time.replace(tzinfo=UTC)
)


def local_date(instant: datetime, zone: str) -> date:
    return instant.astimezone(ZoneInfo(zone)).date()


def assert_holds_just_its_days(window: Window, instant: datetime) -> None:
    inside = window.first_day <= local_date(instant, window.timezone) <= window.last_day
    assert (window.start <= instant < window.end) == inside, (window, instant)


def offset_told_by(window: Window, instant: datetime) -> int:
    """The offset at an instant as the store looks it up: the last that has started."""
    told = window.offsets()
    starts, seconds = told["offset_starts"], told["offset_seconds"]
    assert isinstance(starts, list)
    assert isinstance(seconds, list)
    assert len(starts) == len(seconds)
    offset: int = seconds[bisect_right(starts, int(instant.timestamp())) - 1]
    return offset


def true_offset(instant: datetime, zone: str) -> int:
    offset = instant.astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


@given(st.integers(1, 365), zones, presents)
def test_the_last_day_is_today_and_there_are_so_many(days: int, zone: str, now: datetime) -> None:
    window = last_days(days, zone, now)
    assert window.last_day == local_date(now, zone)
    assert (window.last_day - window.first_day).days == days - 1
    assert window.dates() == [window.first_day + n * DAY for n in range(days)]
    assert window.start <= now < window.end
    assert window.bounds() == {
        "first_day": window.first_day,
        "last_day": window.last_day,
        "start": window.start.timestamp(),
        "end": window.end.timestamp(),
    }


@given(st.integers(1, 365), zones, presents, st.data())
def test_an_instant_is_in_the_window_when_its_local_date_is(
    days: int, zone: str, now: datetime, data: st.DataObject
) -> None:
    window = last_days(days, zone, now)
    near = st.sampled_from([window.start, window.end, now])
    shifts = st.timedeltas(-2 * DAY, 2 * DAY) | st.sampled_from([-SECOND, 0 * SECOND, SECOND])
    assert_holds_just_its_days(window, data.draw(near) + data.draw(shifts))


@given(st.integers(1, 365), zones, presents, st.floats(0, 1, exclude_max=True))
def test_offsets_are_those_of_the_zone(days: int, zone: str, now: datetime, part: float) -> None:
    window = last_days(days, zone, now)
    instant = window.start + part * (window.end - window.start)
    assert offset_told_by(window, instant) == true_offset(instant, zone)


def test_every_zone_of_today() -> None:
    """All zones, a whole year: the days, the clock, and the quarters that the rollup rests on."""
    for zone in ALL_ZONES:
        window = last_days(365, zone, NOW)
        for edge in (window.start, window.end):
            assert_holds_just_its_days(window, edge)
            assert_holds_just_its_days(window, edge - SECOND)
        starts = window.offsets()["offset_starts"]
        seconds = window.offsets()["offset_seconds"]
        assert isinstance(starts, list)
        assert isinstance(seconds, list)
        assert starts[0] == window.start.timestamp()
        assert starts == sorted(set(starts))
        assert not [number for number in (*starts, *seconds) if number % (15 * 60)], zone
        for start in starts[1:]:
            change = datetime.fromtimestamp(start, UTC)
            assert true_offset(change, zone) != true_offset(change - SECOND, zone)
        # Between the changes that it tells there are no others.
        told, instant = dict(zip(starts, seconds, strict=True)), window.start
        offset = told[starts[0]]
        while instant < window.end:
            offset = told.get(int(instant.timestamp()), offset)
            assert true_offset(instant, zone) == offset, (zone, instant)
            upcoming = [s for s in starts if s > instant.timestamp()]
            until = datetime.fromtimestamp(upcoming[0], UTC) if upcoming else window.end
            instant = min(instant + timedelta(hours=6), until)


@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        # The clock goes from 24:00 to 01:00: the day begins at 01:00 and has 23 hours.
        ("America/Havana", date(2024, 3, 10), "2024-03-10T05:00Z", "2024-03-11T04:00Z"),
        ("Africa/Cairo", date(2024, 4, 26), "2024-04-25T22:00Z", "2024-04-26T21:00Z"),
        ("Asia/Beirut", date(2024, 3, 31), "2024-03-30T22:00Z", "2024-03-31T21:00Z"),
        # The clock goes back to 00:00 at 01:00: the day begins once and has 25 hours.
        ("America/Havana", date(2024, 11, 3), "2024-11-03T04:00Z", "2024-11-04T05:00Z"),
        # The clock goes back to 23:00 at 24:00: the day that ends has 25 hours.
        ("Africa/Cairo", date(2024, 10, 31), "2024-10-30T21:00Z", "2024-10-31T22:00Z"),
        ("Asia/Beirut", date(2024, 10, 26), "2024-10-25T21:00Z", "2024-10-26T22:00Z"),
        # Half an hour more or less.
        ("Australia/Lord_Howe", date(2024, 4, 7), "2024-04-06T13:00Z", "2024-04-07T13:30Z"),
        ("Australia/Lord_Howe", date(2024, 10, 6), "2024-10-05T13:30Z", "2024-10-06T13:00Z"),
        ("Asia/Kathmandu", date(2024, 6, 1), "2024-05-31T18:15Z", "2024-06-01T18:15Z"),
    ],
)
def test_days_on_which_the_clock_changes(zone: str, day: date, start: str, end: str) -> None:
    begins, ends = datetime.fromisoformat(start), datetime.fromisoformat(end)
    for now in (begins, begins + timedelta(hours=9), ends - SECOND):
        window = last_days(1, zone, now)
        assert (window.first_day, window.last_day) == (day, day)
        assert (window.start, window.end) == (begins, ends)
    minute = begins
    while minute < ends:
        assert offset_told_by(window, minute) == true_offset(minute, zone)
        minute += timedelta(minutes=1)


def test_only_utc_by_its_name_has_the_days_of_the_rollups() -> None:
    assert [zone for zone in ALL_ZONES if last_days(1, zone, NOW).in_utc] == ["UTC"]


@pytest.mark.parametrize(
    "name",
    ["", " ", "Mars/Phobos", "localtime", "posixrules", "posix/Europe/Berlin", "europe/berlin",
     "right/UTC", "Europe", "Europe/", "/Europe/Berlin", "../etc/passwd", "/etc/passwd",
     "Europe/../UTC", "Europe/Berlin\0", "Europe/Berlin ", "Europe/Berlin\n", "UTC+1", "+01:00",
     "CET-1CEST", "zone.tab", "tzdata.zi", "__init__.py", "x" * 100_000],
    ids=lambda name: repr(name[:20]),
)  # fmt: skip
def test_a_name_of_no_zone_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="not an IANA time zone name") as raised:
        load_zone(name)
    assert len(str(raised.value)) < 100
    with pytest.raises(ValueError, match="not an IANA time zone name"):
        last_days(1, name, NOW)
