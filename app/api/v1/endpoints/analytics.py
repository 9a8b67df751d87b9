"""The queries."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response

from app.api.deps import Asked, Days, Limit, Zone
from app.api.errors import described
from app.schemas.analytics import USER, PeakHours, PopularContent, UserStats, ViewingTrends

router = APIRouter(tags=["figures"], responses=described(422, 500, 503))


@router.get("/content/popular", response_model=PopularContent)
async def popular_content(
    ask: Asked, days: Days = 7, tz: Zone = "UTC", limit: Limit = 10
) -> Response:
    """The films with most views, then by their ids."""
    return await ask(tz, ask.service.get_popular_content, days, tz, limit)


@router.get("/user/{user_id}/stats", response_model=UserStats)
async def user_stats(
    ask: Asked,
    user_id: Annotated[UUID, Path(description="Whose.", examples=[USER])],
    days: Days = 30,
    tz: Zone = "UTC",
) -> Response:
    """What one user watched. A user without events has zeros and null."""
    return await ask(tz, ask.service.get_user_stats, user_id, days, tz)


@router.get("/trends", response_model=ViewingTrends)
async def trends(ask: Asked, days: Days = 7, tz: Zone = "UTC") -> Response:
    """What happened each day, a row for every day of the window."""
    return await ask(tz, ask.service.get_viewing_trends, days, tz)


@router.get("/peak-hours", response_model=PeakHours)
async def peak_hours(ask: Asked, days: Days = 7, tz: Zone = "UTC") -> Response:
    """What happened in each hour of the day, over all days of the window."""
    return await ask(tz, ask.service.get_peak_hours, days, tz)
