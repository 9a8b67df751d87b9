"""The queries about a moment."""

from fastapi import APIRouter, Request, Response

from app.api.deps import Service, answer_at
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.live import Now
from app.services.live import watched_now

router = APIRouter(prefix=PREFIX, tags=["figures"], responses=described(500, 503))


@router.get("/now", response_model=Now)
async def now(request: Request, service: Service) -> Response:
    """Who watches what at this moment: sessions with an event in the last 120 seconds that have
    not finished."""
    return await answer_at(request, service.second(), watched_now)
