"""The answers about one film."""

import asyncio
from typing import Any
from uuid import UUID

from app.core.errors import UnanswerableError
from app.schemas.catalog import Film
from app.schemas.films import (
    FilmDay,
    FilmFigures,
    FilmRetention,
    FilmStats,
    FilmStep,
    FilmTrends,
    PreviousFilmStats,
)
from app.services.analytics_service import AnalyticsService, completion_rate, period, span
from app.services.window import Window

MAX_STEPS = 2_000


async def film_stats(
    service: AnalyticsService, movie_id: UUID, days: int, timezone: str, compare: bool
) -> FilmStats:
    """Counts from the rollups; the watch time is read from the film's events of the window."""
    window = service.window(days, timezone)
    film = await _film(service, movie_id)
    duration = film.duration_seconds if film else None
    figures = await _figures(service, movie_id, window, duration)
    previous = None
    if compare:
        before = window.previous()
        figures_before = await _figures(service, movie_id, before, duration)
        previous = PreviousFilmStats(**span(before), **figures_before.model_dump())
    return FilmStats(
        **period(window),
        movie_id=movie_id,
        title=film.title if film else None,
        duration_seconds=duration,
        **figures.model_dump(),
        previous=previous,
    )


async def _figures(
    service: AnalyticsService, movie_id: UUID, window: Window, duration: int | None
) -> FilmFigures:
    rows, [watched] = await asyncio.gather(
        service.film_counts(window, [str(movie_id)]),
        service.ask("film_watch_time", {**window.bounds(), "movie_id": movie_id}),
    )
    counts = rows[0] if rows else {"starts": 0, "finishes": 0, "viewers": 0}
    views, seconds = counts["starts"], watched["watch_time"]
    return FilmFigures(
        total_views=views,
        unique_viewers=counts["viewers"],
        finishes=counts["finishes"],
        completion_rate=completion_rate(views, counts["finishes"]),
        total_watch_time_seconds=seconds,
        mean_watch_time_seconds=round(seconds / views, 2) if views else 0.0,
        mean_share_watched=None if duration is None else _share(seconds, views * duration),
    )


async def film_trends(
    service: AnalyticsService, movie_id: UUID, days: int, timezone: str
) -> FilmTrends:
    """A row for every day of the window, ascending, with zeros where nothing happened."""
    window = service.window(days, timezone)
    query = "film_days" if window.in_utc else "film_days_in_zone"
    about = {**window.bounds(), **window.offsets(), "movie_id": movie_id}
    rows, film = await asyncio.gather(service.ask(query, about), _film(service, movie_id))
    by_day = {row["day"]: row for row in rows}
    items = [
        FilmDay(
            date=day,
            starts=row["starts"],
            finishes=row["finishes"],
            unique_users=row["users"],
        )
        for number, day in enumerate(window.dates())
        for row in [by_day.get(number, _NOTHING)]
    ]
    return FilmTrends(
        **period(window),
        movie_id=movie_id,
        title=film.title if film else None,
        items=items,
        total_items=len(items),
    )


_NOTHING: dict[str, Any] = {"starts": 0, "finishes": 0, "users": 0}


async def film_retention(
    service: AnalyticsService, movie_id: UUID, days: int, timezone: str, step: int
) -> FilmRetention:
    """Who watched which part of the film, in steps of so many seconds.

    What a pair of events watched lies from the earlier one's position on, and is as long as the
    watch time that the pair adds.

    Raises:
        UnanswerableError: the film has more than MAX_STEPS of these steps.
    """
    window = service.window(days, timezone)
    film = await _film(service, movie_id)
    duration = film.duration_seconds if film else None
    if duration is not None and duration > step * MAX_STEPS:
        least = -(-duration // MAX_STEPS)
        raise UnanswerableError(
            f"step must be at least {least} for this film: an answer has up to {MAX_STEPS} steps",
            "step",
        )
    last_position = step * MAX_STEPS if duration is None else duration
    about = {**window.bounds(), "movie_id": movie_id}
    [counted], rows = await asyncio.gather(
        service.ask("film_viewers", about),
        service.ask("film_steps", {**about, "step": step, "last_position": last_position}),
    )
    viewers = counted["viewers"]
    by_number = {row["number"]: row for row in rows}
    farthest = (max(by_number, default=-1) + 1) * step
    end = farthest if duration is None else duration
    items = [
        FilmStep(
            from_seconds=start,
            to_seconds=min(start + step, end),
            viewers=row["viewers"],
            share=_share(row["viewers"], viewers),
            rewatchers=row["rewatchers"],
        )
        for start in range(0, end, step)
        for row in [by_number.get(start // step, _NOBODY)]
    ]
    return FilmRetention(
        **period(window),
        movie_id=movie_id,
        title=film.title if film else None,
        duration_seconds=duration,
        step_seconds=step,
        viewers=viewers,
        items=items,
        total_items=len(items),
    )


_NOBODY: dict[str, Any] = {"viewers": 0, "rewatchers": 0}


async def _film(service: AnalyticsService, movie_id: UUID) -> Film | None:
    films = await service.movies.films([str(movie_id)])
    return films[str(movie_id)]


def _share(part: int, whole: int) -> float:
    """Percent, at most 100, to two places; 0 of nothing."""
    return round(min(100.0, 100 * part / whole), 2) if whole else 0.0
