"""The figures of the contract, computed from a list of events in plain Python.

Written from the definitions alone, and slow: nothing here is shared with the service.
"""

from collections import Counter, defaultdict
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

    def _window(self, days: int, tz: str, before: int = 0) -> tuple[Json, list[Seen], list[date]]:
        """The last days, or those so many windows before."""
        zone = ZoneInfo(tz)
        last = self.now.astimezone(zone).date() - timedelta(days=days * before)
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
            "as_of": zulu(now),
            "sessions": len(watching),
            "viewers": len({user for user, _, _ in watching}),
            "movies": movies,
        }

    def popular(self, days: int, tz: str, limit: int, compare: bool = False) -> Json:
        def item(movie: str, group: list[Seen]) -> Json:
            return {
                "movie_id": movie,
                "title": self.title(movie),
                "total_views": count(group, "start"),
                "unique_viewers": len({e.user for e in group}),
                "completion_rate": completion(group),
            }

        period, events, _ = self._window(days, tz)
        by_movie = defaultdict(list)
        for event in events:
            by_movie[event.movie].append(event)
        items = [item(movie, group) for movie, group in by_movie.items()]
        items.sort(key=lambda it: (-it["total_views"], it["movie_id"]))
        items = items[:limit]
        answer = {**period, "items": items, "total_items": len(items)}
        if compare:
            span, events, _ = self._before(days, tz)
            same = [one["movie_id"] for one in items]
            earlier = [item(movie, [e for e in events if e.movie == movie]) for movie in same]
            answer["previous"] = {**span, "items": earlier}
        return answer

    def _before(self, days: int, tz: str) -> tuple[Json, list[Seen], list[date]]:
        period, events, dates = self._window(days, tz, before=1)
        return {name: period[name] for name in ("period_start", "period_end")}, events, dates

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

    def trends(self, days: int, tz: str, compare: bool = False) -> Json:
        period, events, dates = self._window(days, tz)
        items = self._days(events, dates, tz)
        answer = {**period, "items": items, "total_items": len(items)}
        if compare:
            span, events, dates = self._before(days, tz)
            answer["previous"] = {**span, "items": self._days(events, dates, tz)}
        return answer

    def _days(self, events: list[Seen], dates: list[date], tz: str) -> list[Json]:
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
        return items

    def overview(self, days: int, tz: str, compare: bool = False) -> Json:
        def figures(events: list[Seen]) -> Json:
            return {
                "total_views": count(events, "start"),
                "finishes": count(events, "finish"),
                "events_count": len(events),
                "unique_viewers": len({e.user for e in events}),
                "unique_movies": len({e.movie for e in events}),
                "completion_rate": completion(events),
            }

        period, events, _ = self._window(days, tz)
        answer = {**period, **figures(events)}
        if compare:
            span, events, _ = self._before(days, tz)
            answer["previous"] = {**span, **figures(events)}
        return answer

    def watch_time(self, days: int, tz: str, compare: bool = False) -> Json:
        def figures(events: list[Seen]) -> Json:
            return {"total_watch_time_seconds": sum(map(watch_time, by_viewer(events).values()))}

        period, events, _ = self._window(days, tz)
        answer = {**period, **figures(events)}
        if compare:
            span, events, _ = self._before(days, tz)
            answer["previous"] = {**span, **figures(events)}
        return answer

    def heatmap(self, days: int, tz: str) -> Json:
        period, events, _ = self._window(days, tz)
        zone = ZoneInfo(tz)
        by_hour = defaultdict(list)
        for event in events:
            local = event.second.astimezone(zone)
            by_hour[local.isoweekday(), local.hour].append(event)
        items = [
            {
                "weekday": weekday,
                "hour": hour,
                "events_count": len(by_hour[weekday, hour]),
                "unique_users": len({e.user for e in by_hour[weekday, hour]}),
            }
            for weekday in range(1, 8)
            for hour in range(24)
        ]
        return {**period, "items": items, "total_items": 168}

    def user_movies(self, user: str, days: int, tz: str) -> Json:
        period, events, _ = self._window(days, tz)
        by_movie = defaultdict(list)
        for event in events:
            if event.user == user:
                by_movie[event.movie].append(event)
        items: list[Json] = [
            {
                "movie_id": movie,
                "title": self.title(movie),
                "starts": count(group, "start"),
                "finishes": count(group, "finish"),
                "events_count": len(group),
                "watch_time_seconds": watch_time(group),
                "last_watched": zulu(max(e.second for e in group)),
            }
            for movie, group in by_movie.items()
        ]
        items.sort(key=lambda it: (-it["watch_time_seconds"], -it["events_count"], it["movie_id"]))
        return {**period, "user_id": user, "items": items, "total_items": len(items)}

    def _film(self, movie: str, period: Json) -> Json:
        return {**period, "movie_id": movie, "title": self.title(movie)}

    def _duration(self, movie: str) -> int | None:
        duration: int | None = self.films.get(movie, {}).get("duration_seconds")
        return duration

    def film_stats(self, movie: str, days: int, tz: str, compare: bool = False) -> Json:
        duration = self._duration(movie)

        def figures(events: list[Seen]) -> Json:
            events = [e for e in events if e.movie == movie]
            views = count(events, "start")
            watched = sum(map(watch_time, by_viewer(events).values()))
            share = 0.0
            if duration is not None and views:
                share = round(min(100.0, 100 * watched / (views * duration)), 2)
            return {
                "total_views": views,
                "unique_viewers": len({e.user for e in events}),
                "finishes": count(events, "finish"),
                "completion_rate": completion(events),
                "total_watch_time_seconds": watched,
                "mean_watch_time_seconds": round(watched / views, 2) if views else 0.0,
                "mean_share_watched": None if duration is None else share,
            }

        period, events, _ = self._window(days, tz)
        answer = {
            **self._film(movie, period),
            "duration_seconds": duration,
            **figures(events),
        }
        if compare:
            span, events, _ = self._before(days, tz)
            answer["previous"] = {**span, **figures(events)}
        return answer

    def film_trends(self, movie: str, days: int, tz: str) -> Json:
        period, events, dates = self._window(days, tz)
        items = self._days([e for e in events if e.movie == movie], dates, tz)
        for item in items:
            del item["unique_movies"]
        return {**self._film(movie, period), "items": items, "total_items": len(items)}

    def film_retention(self, movie: str, days: int, tz: str, step: int) -> Json:
        """Second by second: of films whose positions are small numbers."""
        period, events, _ = self._window(days, tz)
        duration = self._duration(movie)
        end = 2000 * step if duration is None else duration
        viewers = {e.user for e in events if e.movie == movie}
        seconds: dict[str, Counter[int]] = {}
        for (user, film), group in by_viewer(events).items():
            if film == movie:
                seconds[user] = Counter(
                    second
                    for session in paths(group)
                    for start, length in credited(session)
                    for second in range(start, min(start + length, end))
                )
        if duration is None:
            farthest = max((max(seen, default=-1) for seen in seconds.values()), default=-1)
            end = (farthest // step + 1) * step
        items = []
        for start in range(0, end, step):
            until = min(start + step, end)
            times = [max(seen[s] for s in range(start, until)) for seen in seconds.values()]
            here = sum(most > 0 for most in times)
            items.append(
                {
                    "from_seconds": start,
                    "to_seconds": until,
                    "viewers": here,
                    "share": round(100 * here / len(viewers), 2) if viewers else 0.0,
                    "rewatchers": sum(most > 1 for most in times),
                }
            )
        return {
            **self._film(movie, period),
            "duration_seconds": duration,
            "step_seconds": step,
            "viewers": len(viewers),
            "items": items,
            "total_items": len(items),
        }

    def concurrency(self, hours: int, bucket_minutes: int) -> Json:
        minute = timedelta(minutes=1)
        bucket = timedelta(minutes=bucket_minutes)
        midnight = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        end = midnight + ((self.now - midnight) // bucket + 1) * bucket
        start = end - timedelta(hours=hours)
        items = []
        for number in range(hours * 60 // bucket_minutes):
            begin = start + number * bucket
            minutes = [
                {
                    (e.user, e.movie, e.session)
                    for e in self.events
                    if begin + n * minute <= e.second < begin + (n + 1) * minute
                }
                for n in range(bucket_minutes)
            ]
            items.append({"time": zulu(begin), "sessions": max(map(len, minutes))})
        return {
            "hours": hours,
            "bucket_minutes": bucket_minutes,
            "period_start": zulu(start),
            "period_end": zulu(end),
            "items": items,
            "total_items": len(items),
        }

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


def by_viewer(events: Iterable[Seen]) -> dict[tuple[str, str], list[Seen]]:
    """The events of each user and film."""
    groups = defaultdict(list)
    for event in events:
        groups[event.user, event.movie].append(event)
    return groups


def paths(events: Iterable[Seen]) -> list[list[tuple[datetime, int]]]:
    """Of one user and one film: times and positions of each session, in order."""
    sessions = defaultdict(list)
    for event in events:
        sessions[event.session].append((event.second, event.position))
    return [sorted(steps) for steps in sessions.values()]


def credited(steps: list[tuple[datetime, int]]) -> list[tuple[int, int]]:
    """Of one session: where each pair of events began to watch, and for how many seconds."""
    return [
        (before, max(0, min(after - before, int((now - then).total_seconds()))))
        for (then, before), (now, after) in pairwise(steps)
    ]


def watch_time(events: Iterable[Seen]) -> int:
    """Of one user and one film."""
    return sum(seconds for steps in paths(events) for _, seconds in credited(steps))


def zulu(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
