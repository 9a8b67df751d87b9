"""The queries."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path

from app.api.deps import Days, Limit, Service, Zone
from app.api.errors import described
from app.schemas.analytics import USER, PeakHours, PopularContent, UserStats, ViewingTrends

router = APIRouter(tags=["figures"], responses=described(422, 500, 503))


@router.get("/content/popular")
async def popular_content(
    service: Service, days: Days = 7, tz: Zone = "UTC", limit: Limit = 10
) -> PopularContent:
    """The films with most views, then by their ids."""
    return await service.get_popular_content(days, tz, limit)


@router.get("/user/{user_id}/stats")
async def user_stats(
    service: Service,
    user_id: Annotated[UUID, Path(description="Whose.", examples=[USER])],
    days: Days = 30,
    tz: Zone = "UTC",
) -> UserStats:
    """What one user watched. A user without events has zeros and null."""
    return await service.get_user_stats(user_id, days, tz)


@router.get("/trends")
async def trends(service: Service, days: Days = 7, tz: Zone = "UTC") -> ViewingTrends:
    """What happened each day, a row for every day of the window."""
    return await service.get_viewing_trends(days, tz)


@router.get("/peak-hours")
async def peak_hours(service: Service, days: Days = 7, tz: Zone = "UTC") -> PeakHours:
    """What happened in each hour of the day, over all days of the window."""
    return await service.get_peak_hours(days, tz)
