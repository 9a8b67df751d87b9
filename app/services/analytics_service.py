"""The answers: each asks the store, shapes what it says, and returns it."""

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime
from itertools import chain
from typing import Any
from uuid import UUID

from app.core.clickhouse_client import ClickHouseClient, Parameters, Row, load_query
from app.schemas.analytics import (
    PeakHour,
    PeakHours,
    PopularContent,
    PopularFilm,
    PreviousPopular,
    PreviousTrends,
    TrendDay,
    UserStats,
    ViewingTrends,
)
from app.services.blocks import Block, block_parameters, blocks_by_day, blocks_by_hour
from app.services.movies import Movies
from app.services.window import Window, last_days, load_zone


def completion_rate(starts: int, finishes: int) -> float:
    """Finishes for every hundred starts, at most 100, to two places; 0 when nothing was started."""
    return round(min(100.0, 100 * finishes / starts), 2) if starts else 0.0


# Of clickhouse/schema.sql: what a hash is taken modulo.
_PLACES = 2**20
# Fewer are counted: an answer about some thousands is exact. And of more, too few places are free.
_FEW = 8_000
_MANY = _PLACES * 63 // 64


def is_clear(taken: int) -> bool:
    """Whether the number of places that ids take tells how many ids there are, within 1 %."""
    return _FEW <= taken <= _MANY


def distinct(taken: int) -> int:
    """How many ids take so many places, when each takes one at random ("linear counting")."""
    return round(-_PLACES * math.log1p(-taken / _PLACES))


class AnalyticsService:
    """Answers about the last `days` calendar days in the time zone `timezone`.

    Counts by film or user come from the daily rollups where the days are UTC days, else from the
    projections of the events too; counts by time from quarters of an hour, and who was there then
    from the blocks of the audience.

    Raises:
        StoreUnavailableError: from every method: try again later.
    """

    def __init__(
        self, store: ClickHouseClient, clock: Callable[[], datetime], movies: Movies
    ) -> None:
        self.movies = movies
        self._store = store
        self._clock = clock

    def today(self, timezone: str) -> date:
        """The last day of every window now."""
        return self._clock().astimezone(load_zone(timezone)).date()

    def window(self, days: int, timezone: str) -> Window:
        """The last `days` calendar days now."""
        return last_days(days, timezone, self._clock())

    def second(self) -> int:
        """What time it is, in whole seconds since 1970 UTC."""
        return int(self._clock().timestamp())

    async def get_popular_content(
        self, days: int, timezone: str, limit: int, compare: bool = False
    ) -> PopularContent:
        """The `limit` films with most starts; equal ones by their ids as text.

        With `compare`, what the same films had in the window before, in the same order.
        """
        window = last_days(days, timezone, self._clock())
        query = "popular_content" if window.in_utc else "popular_content_in_zone"
        about = {**window.bounds(), **window.whole_utc_days(), "limit": limit}
        rows = await self.ask(query, about)
        titles = await self.movies.titles(row["movie_id"] for row in rows)
        previous = await self._popular_before(window.previous(), titles) if compare else None
        return PopularContent(
            **period(window),
            items=[_popular_film(row, titles) for row in rows],
            total_items=len(rows),
            previous=previous,
        )

    async def _popular_before(
        self, window: Window, titles: Mapping[str, str | None]
    ) -> PreviousPopular:
        """What these films had; those of which there was nothing have zeros."""
        rows = await self.film_counts(window, list(titles))
        by_film = {row["movie_id"]: row for row in rows}
        items = [
            _popular_film(by_film.get(film, {**_NO_VIEWS, "movie_id": film}), titles)
            for film in titles
        ]
        return PreviousPopular(**span(window), items=items)

    async def film_counts(self, window: Window, ids: list[str]) -> list[Row]:
        """`movie_id`, `starts`, `finishes`, `viewers` of those of these films that have events."""
        if not ids:
            return []
        query = "film_counts" if window.in_utc else "film_counts_in_zone"
        return await self.ask(query, {**window.bounds(), **window.whole_utc_days(), "ids": ids})

    async def get_user_stats(self, user_id: UUID, days: int, timezone: str) -> UserStats:
        """What one user did; zeros and null for a user without events."""
        window = last_days(days, timezone, self._clock())
        about = {**window.bounds(), "user_id": user_id}
        counts_query = "user_counts" if window.in_utc else "user_counts_from_events"
        [counts], [watched] = await asyncio.gather(
            self.ask(counts_query, about), self.ask("user_watch_time", about)
        )
        most_watched = watched["most_watched"]
        titles = await self.movies.titles([most_watched] if most_watched else [])
        return UserStats(
            **period(window),
            user_id=user_id,
            movies_started=counts["starts"],
            movies_finished=counts["finishes"],
            unique_movies_watched=counts["movies"],
            total_watch_time_seconds=watched["watch_time"],
            completion_rate=completion_rate(counts["starts"], counts["finishes"]),
            most_watched_movie_id=most_watched,
            most_watched_movie_title=titles.get(most_watched),
        )

    async def get_viewing_trends(
        self, days: int, timezone: str, compare: bool = False
    ) -> ViewingTrends:
        """A row for every day of the window, ascending, with zeros where nothing happened."""
        window = last_days(days, timezone, self._clock())
        items = await self._trend_days(window)
        previous = None
        if compare:
            before = window.previous()
            previous = PreviousTrends(**span(before), items=await self._trend_days(before))
        return ViewingTrends(
            **period(window), items=items, total_items=len(items), previous=previous
        )

    async def _trend_days(self, window: Window) -> list[TrendDay]:
        blocks = blocks_by_day(window)
        rows, users, movies = await asyncio.gather(
            self.ask("trends", {**window.bounds(), **window.offsets()}),
            self._distinct(window, blocks, {"by_hour": 0, "of_movies": 0}),
            self._distinct(window, blocks, {"by_hour": 0, "of_movies": 1}),
        )
        # Counted from the window's first day by the local clock; one the zone skipped has no row.
        by_day = {row["day"]: row for row in rows}
        return [
            TrendDay(
                date=day,
                starts=row["starts"],
                finishes=row["finishes"],
                unique_users=users.get(number, 0),
                unique_movies=movies.get(number, 0),
            )
            for number, day in enumerate(window.dates())
            for row in [by_day.get(number, _NOTHING)]
        ]

    async def get_peak_hours(self, days: int, timezone: str) -> PeakHours:
        """24 rows: the events of each hour on the zone's clock, over all days of the window."""
        window = last_days(days, timezone, self._clock())
        rows, users = await asyncio.gather(
            self.ask("peak_hours", {**window.bounds(), **window.offsets()}),
            self._distinct(window, blocks_by_hour(window), {"by_hour": 1, "of_movies": 0}),
        )
        by_hour = {row["hour"]: row["events"] for row in rows}
        items = [
            PeakHour(hour=hour, events_count=by_hour.get(hour, 0), unique_users=users.get(hour, 0))
            for hour in range(24)
        ]
        return PeakHours(**period(window), items=items, total_items=24)

    async def _distinct(
        self, window: Window, blocks: Mapping[int, list[Block]], what: Parameters
    ) -> dict[int, int]:
        """How many users or films there were in each group of blocks that had any."""
        about = {**window.bounds(), **window.offsets(), **what}
        every = chain.from_iterable(blocks.values())
        rows = await self.ask("audience", {**about, **block_parameters(every)})
        numbers = {row["group"]: distinct(row["ids"]) for row in rows if is_clear(row["ids"])}
        unclear = [row["group"] for row in rows if row["group"] not in numbers]
        if unclear:
            some = chain.from_iterable(blocks[group] for group in unclear)
            rows = await self.ask("audience_counted", {**about, **block_parameters(some)})
            numbers |= {row["group"]: row["ids"] for row in rows}
        return numbers

    async def ask(self, query: str, parameters: Mapping[str, Any]) -> list[Row]:
        """What the query of that name gives."""
        return await self._store.execute(load_query(query), parameters)


_NO_VIEWS: Row = {"starts": 0, "finishes": 0, "viewers": 0}


def _popular_film(row: Row, titles: Mapping[str, str | None]) -> PopularFilm:
    return PopularFilm(
        movie_id=row["movie_id"],
        title=titles[row["movie_id"]],
        total_views=row["starts"],
        unique_viewers=row["viewers"],
        completion_rate=completion_rate(row["starts"], row["finishes"]),
    )


_NOTHING: Row = {"starts": 0, "finishes": 0}


def span(window: Window) -> dict[str, Any]:
    """How an answer states the window before its own."""
    return {"period_start": window.first_day, "period_end": window.last_day}


def period(window: Window) -> dict[str, Any]:
    """How an answer states its window."""
    return {
        "period_days": window.days,
        "period_start": window.first_day,
        "period_end": window.last_day,
        "timezone": window.timezone,
    }
