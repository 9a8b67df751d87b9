"""The answers about all viewing of a window, and about all films of one user."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

from app.schemas.analytics import (
    Heatmap,
    Overview,
    OverviewFigures,
    PreviousOverview,
    PreviousWatchTime,
    UserMovie,
    UserMovies,
    WatchTime,
    WeekHour,
)
from app.services.analytics_service import (
    AnalyticsService,
    completion_rate,
    distinct,
    is_clear,
    period,
    span,
)
from app.services.blocks import block_parameters, blocks_by_day
from app.services.window import Window

_HOUR_SECONDS = 3_600


async def overview(service: AnalyticsService, days: int, timezone: str, compare: bool) -> Overview:
    """What happened in the window, all together."""
    window = service.window(days, timezone)
    figures = await _overview_figures(service, window)
    previous = None
    if compare:
        before = window.previous()
        figures_before = await _overview_figures(service, before)
        previous = PreviousOverview(**span(before), **figures_before.model_dump())
    return Overview(**period(window), **figures.model_dump(), previous=previous)


async def _overview_figures(service: AnalyticsService, window: Window) -> OverviewFigures:
    [counts], (viewers, movies) = await asyncio.gather(
        service.ask("totals", window.bounds()), _audience(service, window)
    )
    return OverviewFigures(
        total_views=counts["starts"],
        finishes=counts["finishes"],
        events_count=counts["events"],
        unique_viewers=viewers,
        unique_movies=movies,
        completion_rate=completion_rate(counts["starts"], counts["finishes"]),
    )


async def _audience(service: AnalyticsService, window: Window) -> tuple[int, int]:
    """How many users and films there were in the window."""
    days = blocks_by_day(window)
    blocks = block_parameters(block for day in days.values() for block in day)
    [taken] = await service.ask("audience_total", blocks)

    async def number(places: int, of_movies: int) -> int:
        if is_clear(places):
            return distinct(places)
        [counted] = await service.ask("audience_total_counted", {**blocks, "of_movies": of_movies})
        return int(counted["ids"])

    users, movies = await asyncio.gather(number(taken["users"], 0), number(taken["movies"], 1))
    return users, movies


async def watch_time(
    service: AnalyticsService, days: int, timezone: str, compare: bool
) -> WatchTime:
    """How long all users watched. It reads the events of the window, all of them."""
    window = service.window(days, timezone)
    [watched] = await service.ask("watch_time", window.bounds())
    previous = None
    if compare:
        before = window.previous()
        [watched_before] = await service.ask("watch_time", before.bounds())
        previous = PreviousWatchTime(
            **span(before), total_watch_time_seconds=watched_before["watch_time"]
        )
    return WatchTime(
        **period(window), total_watch_time_seconds=watched["watch_time"], previous=previous
    )


async def heatmap(service: AnalyticsService, days: int, timezone: str) -> Heatmap:
    """168 rows: the events of each hour of the week on the zone's clock, from Monday on."""
    window = service.window(days, timezone)
    about = {**window.bounds(), **window.offsets()}
    whole_hours = all(
        start % _HOUR_SECONDS == offset % _HOUR_SECONDS == 0 for start, _, offset in window.clocks()
    )
    blocks = {**about, "block_minutes": 60 if whole_hours else 15}
    counts, audience = await asyncio.gather(
        service.ask("week_hours", about), service.ask("week_audience", blocks)
    )
    events = {row["hour"]: row["events"] for row in counts}
    users = {row["hour"]: distinct(row["ids"]) for row in audience if is_clear(row["ids"])}
    unclear = [row["hour"] for row in audience if row["hour"] not in users]
    if unclear:
        counted = await service.ask("week_audience_counted", {**blocks, "hours": unclear})
        users |= {row["hour"]: row["ids"] for row in counted}
    items = [
        WeekHour(
            weekday=hour // 24 + 1,
            hour=hour % 24,
            events_count=events.get(hour, 0),
            unique_users=users.get(hour, 0),
        )
        for hour in range(168)
    ]
    return Heatmap(**period(window), items=items, total_items=168)


async def user_movies(
    service: AnalyticsService, user_id: UUID, days: int, timezone: str
) -> UserMovies:
    """The films of one user, the most watched first; none for a user without events."""
    window = service.window(days, timezone)
    rows = await service.ask("user_movies", {**window.bounds(), "user_id": user_id})
    titles = await service.movies.titles(row["movie_id"] for row in rows)
    items = [
        UserMovie(
            movie_id=row["movie_id"],
            title=titles[row["movie_id"]],
            starts=row["starts"],
            finishes=row["finishes"],
            events_count=row["events"],
            watch_time_seconds=row["watched"],
            last_watched=datetime.fromtimestamp(row["last_time"], UTC),
        )
        for row in rows
    ]
    return UserMovies(**period(window), user_id=user_id, items=items, total_items=len(items))
