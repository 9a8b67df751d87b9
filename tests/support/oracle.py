"""The figures of the contract, computed from a list of events in plain Python.

Written from the definitions alone, and slow: nothing here is shared with the service.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

Json = dict[str, Any]

TYPE_OF_ACTION = {"stream_start": "start", "stream_progress": "progress", "stream_stop": "finish"}


@dataclass(frozen=True)
class Seen:
    """An event as the contract understands it."""

    user: str
    movie: str
    kind: str
    moment: datetime
    position: int
    session: str | None
    event_id: str | None

    @property
    def second(self) -> datetime:
        return self.moment.replace(microsecond=0)

    @property
    def identity(self) -> tuple[object, ...]:
        if self.event_id is not None:
            return (self.event_id, self.second)
        return (self.user, self.movie, self.kind, self.moment, self.position, self.session)


def understand(sent: Json) -> Seen:
    """What a valid JSON event with a timestamp says."""
    moment = datetime.fromisoformat(sent["timestamp"])
    return Seen(
        user=sent["user_id"].lower(),
        movie=sent["movie_id"].lower(),
        kind=sent.get("event_type") or TYPE_OF_ACTION[sent["action"]],
        moment=(moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC),
        position=int(sent.get("position_seconds", 0)),
        session=sent.get("session_id"),
        event_id=sent.get("event_id"),
    )


class Truth:
    """All answers about a set of events, of which repeats have been dropped."""

    def __init__(self, sent: Iterable[Json], now: datetime, films: Iterable[Json] = ()) -> None:
        self.films = {film["movie_id"]: film for film in films}  # the last of each
        self.events = list({seen.identity: seen for seen in map(understand, sent)}.values())
        self.now = now

    def _window(self, days: int, tz: str) -> tuple[Json, list[Seen], list[date]]:
        zone = ZoneInfo(tz)
        last = self.now.astimezone(zone).date()
        dates = [last - timedelta(days=back) for back in reversed(range(days))]
        inside = [e for e in self.events if dates[0] <= e.second.astimezone(zone).date() <= last]
        period = {
            "period_days": days,
            "period_start": dates[0].isoformat(),
            "period_end": last.isoformat(),
            "timezone": tz,
        }
        return period, inside, dates

    def title(self, movie: str) -> str | None:
        return self.films[movie]["title"] if movie in self.films else None

    def watched_now(self) -> Json:
        now = self.now.replace(microsecond=0)
        sessions = defaultdict(list)
        for event in self.events:
            if event.second >= now - timedelta(seconds=120):
                sessions[event.user, event.movie, event.session].append(event)
        watching = [
            key
            for key, events in sessions.items()
            if max((e.second, e.position, e.kind == "finish") for e in events)[2] is False
        ]
        by_movie = defaultdict(list)
        for user, movie, _ in watching:
            by_movie[movie].append(user)
        movies = [
            {
                "movie_id": movie,
                "title": self.title(movie),
                "sessions": len(users),
                "viewers": len(set(users)),
            }
            for movie, users in sorted(by_movie.items(), key=lambda it: (-len(it[1]), it[0]))
        ]
        return {
            "as_of": now.isoformat().replace("+00:00", "Z"),
            "sessions": len(watching),
            "viewers": len({user for user, _, _ in watching}),
            "movies": movies,
        }

    def popular(self, days: int, tz: str, limit: int) -> Json:
        period, events, _ = self._window(days, tz)
        by_movie = defaultdict(list)
        for event in events:
            by_movie[event.movie].append(event)
        items = [
            {
                "movie_id": movie,
                "title": self.title(movie),
                "total_views": count(group, "start"),
                "unique_viewers": len({e.user for e in group}),
                "completion_rate": completion(group),
            }
            for movie, group in by_movie.items()
        ]
        items.sort(key=lambda item: (-item["total_views"], item["movie_id"]))  # type: ignore[operator]
        items = items[:limit]
        return {**period, "items": items, "total_items": len(items)}

    def user_stats(self, user: str, days: int, tz: str) -> Json:
        period, events, _ = self._window(days, tz)
        events = [e for e in events if e.user == user]
        by_movie = defaultdict(list)
        for event in events:
            by_movie[event.movie].append(event)
        watched = {movie: watch_time(group) for movie, group in by_movie.items()}
        ranking = sorted(by_movie, key=lambda m: (-watched[m], -len(by_movie[m]), m))
        return {
            **period,
            "user_id": user,
            "movies_started": count(events, "start"),
            "movies_finished": count(events, "finish"),
            "unique_movies_watched": len(by_movie),
            "total_watch_time_seconds": sum(watched.values()),
            "completion_rate": completion(events),
            "most_watched_movie_id": ranking[0] if ranking else None,
            "most_watched_movie_title": self.title(ranking[0]) if ranking else None,
        }

    def trends(self, days: int, tz: str) -> Json:
        period, events, dates = self._window(days, tz)
        zone = ZoneInfo(tz)
        by_day = defaultdict(list)
        for event in events:
            by_day[event.second.astimezone(zone).date()].append(event)
        items = []
        for day in dates:
            group = by_day[day]
            items.append(
                {
                    "date": day.isoformat(),
                    "starts": count(group, "start"),
                    "finishes": count(group, "finish"),
                    "unique_users": len({e.user for e in group}),
                    "unique_movies": len({e.movie for e in group}),
                }
            )
        return {**period, "items": items, "total_items": len(items)}

    def peak_hours(self, days: int, tz: str) -> Json:
        period, events, _ = self._window(days, tz)
        zone = ZoneInfo(tz)
        by_hour = defaultdict(list)
        for event in events:
            by_hour[event.second.astimezone(zone).hour].append(event)
        items = []
        for hour in range(24):
            group = by_hour[hour]
            items.append(
                {
                    "hour": hour,
                    "events_count": len(group),
                    "unique_users": len({e.user for e in group}),
                }
            )
        return {**period, "items": items, "total_items": 24}


def count(events: Iterable[Seen], kind: str) -> int:
    return sum(event.kind == kind for event in events)


def completion(events: list[Seen]) -> float:
    starts, finishes = count(events, "start"), count(events, "finish")
    return round(min(100.0, 100 * finishes / starts), 2) if starts else 0.0


def watch_time(events: Iterable[Seen]) -> int:
    """Of one user and one film."""
    sessions = defaultdict(list)
    for event in events:
        sessions[event.session].append((event.second, event.position))
    total = 0
    for steps in sessions.values():
        steps.sort()
        for (then, before), (now, after) in pairwise(steps):
            total += max(0, min(after - before, int((now - then).total_seconds())))
    return total
