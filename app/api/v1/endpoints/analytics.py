"""The queries about a window of days."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from app.api.deps import Compare, Days, Format, Limit, Zone, answer, is_compared
from app.api.errors import described
from app.api.tables import DESCRIBED
from app.api.v1 import PREFIX
from app.schemas.analytics import (
    USER,
    Heatmap,
    Overview,
    PeakHours,
    PopularContent,
    UserMovies,
    UserStats,
    ViewingTrends,
    WatchTime,
)
from app.services import totals
from app.services.analytics_service import AnalyticsService

router = APIRouter(prefix=PREFIX, tags=["figures"], responses=described(422, 500, 503))

User = Annotated[UUID, Path(description="Whose.", examples=[USER])]


@router.get("/content/popular", response_model=PopularContent, responses=DESCRIBED)
async def popular_content(
    request: Request,
    days: Days = 7,
    tz: Zone = "UTC",
    limit: Limit = 10,
    compare: Compare = None,
    form: Format = None,
) -> Response:
    """The films with most views, then by their ids."""
    both = is_compared(request, compare, days, form)
    ask = AnalyticsService.get_popular_content
    return await answer(request, tz, ask, days, tz, limit, both, form=form)


@router.get("/user/{user_id}/stats", response_model=UserStats)
async def user_stats(
    request: Request, user_id: User, days: Days = 30, tz: Zone = "UTC"
) -> Response:
    """What one user watched. A user without events has zeros and null."""
    return await answer(request, tz, AnalyticsService.get_user_stats, user_id, days, tz)


@router.get("/user/{user_id}/movies", response_model=UserMovies, responses=DESCRIBED)
async def user_movies(
    request: Request, user_id: User, days: Days = 30, tz: Zone = "UTC", form: Format = None
) -> Response:
    """What one user did with each film, the most watched first."""
    return await answer(request, tz, totals.user_movies, user_id, days, tz, form=form)


@router.get("/overview", response_model=Overview)
async def overview(
    request: Request, days: Days = 7, tz: Zone = "UTC", compare: Compare = None
) -> Response:
    """What happened in the window, all together."""
    both = is_compared(request, compare, days, "json")
    return await answer(request, tz, totals.overview, days, tz, both)


@router.get("/watch-time", response_model=WatchTime)
async def watch_time(
    request: Request, days: Days = 7, tz: Zone = "UTC", compare: Compare = None
) -> Response:
    """How long all users watched. It reads all events of the window: with many millions it takes
    seconds."""
    both = is_compared(request, compare, days, "json")
    return await answer(request, tz, totals.watch_time, days, tz, both)


@router.get("/trends", response_model=ViewingTrends, responses=DESCRIBED)
async def trends(
    request: Request,
    days: Days = 7,
    tz: Zone = "UTC",
    compare: Compare = None,
    form: Format = None,
) -> Response:
    """What happened each day, a row for every day of the window."""
    both = is_compared(request, compare, days, form)
    ask = AnalyticsService.get_viewing_trends
    return await answer(request, tz, ask, days, tz, both, form=form)


@router.get("/peak-hours", response_model=PeakHours, responses=DESCRIBED)
async def peak_hours(
    request: Request, days: Days = 7, tz: Zone = "UTC", form: Format = None
) -> Response:
    """What happened in each hour of the day, over all days of the window."""
    return await answer(request, tz, AnalyticsService.get_peak_hours, days, tz, form=form)


@router.get("/heatmap", response_model=Heatmap, responses=DESCRIBED)
async def heatmap(
    request: Request, days: Days = 28, tz: Zone = "UTC", form: Format = None
) -> Response:
    """What happened in each hour of the week, over all days of the window."""
    return await answer(request, tz, totals.heatmap, days, tz, form=form)
