"""The queries."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from app.api.deps import Days, Limit, Zone, answer
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.analytics import USER, PeakHours, PopularContent, UserStats, ViewingTrends
from app.services.analytics_service import AnalyticsService

router = APIRouter(prefix=PREFIX, tags=["figures"], responses=described(422, 500, 503))


@router.get("/content/popular", response_model=PopularContent)
async def popular_content(
    request: Request, days: Days = 7, tz: Zone = "UTC", limit: Limit = 10
) -> Response:
    """The films with most views, then by their ids."""
    return await answer(request, tz, AnalyticsService.get_popular_content, days, tz, limit)


@router.get("/user/{user_id}/stats", response_model=UserStats)
async def user_stats(
    request: Request,
    user_id: Annotated[UUID, Path(description="Whose.", examples=[USER])],
    days: Days = 30,
    tz: Zone = "UTC",
) -> Response:
    """What one user watched. A user without events has zeros and null."""
    return await answer(request, tz, AnalyticsService.get_user_stats, user_id, days, tz)


@router.get("/trends", response_model=ViewingTrends)
async def trends(request: Request, days: Days = 7, tz: Zone = "UTC") -> Response:
    """What happened each day, a row for every day of the window."""
    return await answer(request, tz, AnalyticsService.get_viewing_trends, days, tz)


@router.get("/peak-hours", response_model=PeakHours)
async def peak_hours(request: Request, days: Days = 7, tz: Zone = "UTC") -> Response:
    """What happened in each hour of the day, over all days of the window."""
    return await answer(request, tz, AnalyticsService.get_peak_hours, days, tz)
