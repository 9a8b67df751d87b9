"""Hypothesis strategies for viewing events, with the edges where counting goes wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.conftest import NOW
from tests.support.oracle import understand

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",  # +5:45
    "Pacific/Apia",  # +13
    "Pacific/Chatham",  # +12:45 and +13:45
    "Australia/Lord_Howe",  # daylight saving of half an hour
    "America/St_Johns",  # -3:30
    "Africa/Casablanca",
    "Etc/GMT+12",
)

USERS = tuple(str(UUID(int=n << 64 | 7 - n)) for n in range(1, 5))
MOVIES = tuple(str(UUID(int=n << 64 | 9 - n)) for n in range(1, 6))
SESSIONS = (None, *(str(UUID(int=n)) for n in range(1, 4)))


def _edges() -> list[datetime]:
    """Midnights and changes of the clock in all the zones, within retention."""
    edges = {NOW, NOW - timedelta(days=7)}
    for name in ZONES:
        zone = ZoneInfo(name)
        today = NOW.astimezone(zone).date()
        for back in (0, 1, 6, 7, 29, 30):
            midnight = datetime.combine(today - timedelta(days=back), datetime.min.time(), zone)
            edges.add(midnight.astimezone(UTC))
        hour = (NOW - timedelta(days=364)).replace(minute=0, second=0)
        while hour < NOW:
            later = hour + timedelta(hours=1)
            if hour.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
                edges.add(later)
            hour = later
    return sorted(edge for edge in edges if NOW - timedelta(days=364) < edge <= NOW)


EDGES = _edges()


@st.composite
def moments(draw: st.DrawFn) -> datetime:
    """Within retention; often close to an edge, and to each other."""
    if draw(st.booleans()):
        moment = draw(st.sampled_from(EDGES)) + timedelta(seconds=draw(st.integers(-3, 3)))
    elif draw(st.booleans()):
        moment = NOW - timedelta(seconds=draw(st.integers(0, 60)))
    else:
        moment = NOW - timedelta(seconds=draw(st.integers(0, 364 * 86400)))
    moment += timedelta(microseconds=draw(st.sampled_from([0, 0, 1, 500_000, 999_999])))
    return min(moment, NOW)


@st.composite
def viewing_events(draw: st.DrawFn) -> dict[str, Any]:
    event: dict[str, Any] = {
        "user_id": draw(st.sampled_from(USERS)),
        "movie_id": draw(st.sampled_from(MOVIES)),
        "timestamp": _notation(draw, draw(moments())),
    }
    kind = draw(st.sampled_from([("start", "stream_start"), ("progress", "stream_progress"),
                                 ("finish", "stream_stop")]))  # fmt: skip
    named = draw(st.sampled_from(["event_type", "action", "both"]))
    if named != "action":
        event["event_type"] = kind[0]
    if named != "event_type":
        event["action"] = kind[1]
    if draw(st.booleans()):
        event["position_seconds"] = draw(
            st.one_of(st.integers(0, 20), st.integers(0, 4294967295), st.floats(0, 30))
        )
    session = draw(st.sampled_from(SESSIONS))
    if session is not None or draw(st.booleans()):
        event["session_id"] = session
    if draw(st.integers(0, 3)) == 0:
        event["event_id"] = str(UUID(int=draw(st.integers(1, 6))))
    if draw(st.booleans()):
        event["metadata"] = {"device": draw(st.sampled_from(["tv", "phone"]))}
    return event


def event_lists() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Events of which those with one id in one second say the same: a producer repeats an event,
    it does not change it. Of two that differ, the first to come would be the one that counts."""
    return st.lists(viewing_events(), max_size=40).map(_without_contradictions)


def _without_contradictions(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    said: dict[tuple[object, ...], tuple[object, ...]] = {}
    kept = []
    for event in events:
        seen = understand(event)
        says = (seen.user, seen.movie, seen.kind, seen.second, seen.position, seen.session)
        if said.setdefault(seen.identity, says) == says:
            kept.append(event)
    return kept


def _notation(draw: st.DrawFn, moment: datetime) -> str:
    """One of the ways to write an instant."""
    form = draw(st.integers(0, 3))
    if form == 0:
        return moment.isoformat().replace("+00:00", "Z")
    if form == 1:
        return moment.replace(tzinfo=None).isoformat(sep=" ")
    offset = draw(st.sampled_from(["Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"]))
    return moment.astimezone(ZoneInfo(offset)).isoformat()
