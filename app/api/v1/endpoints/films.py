"""The queries about one film."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BeforeValidator

from app.api.deps import Compare, Days, Format, Zone, answer, is_compared, plain_number
from app.api.errors import described
from app.api.tables import DESCRIBED
from app.api.v1 import PREFIX
from app.schemas.analytics import FILM
from app.schemas.films import FilmRetention, FilmStats, FilmTrends
from app.services import films

router = APIRouter(prefix=f"{PREFIX}/content", tags=["figures"], responses=described(422, 500, 503))

Movie = Annotated[UUID, Path(description="Which.", examples=[FILM])]
Step = Annotated[
    int,
    Query(ge=1, le=86_400, description="How many seconds of the film a row is.", examples=[60]),
    BeforeValidator(plain_number),
]


@router.get("/{movie_id}/stats", response_model=FilmStats)
async def film_stats(
    request: Request, movie_id: Movie, days: Days = 7, tz: Zone = "UTC", compare: Compare = None
) -> Response:
    """What one film had. A film without events has zeros."""
    both = is_compared(request, compare, days, "json")
    return await answer(request, tz, films.film_stats, movie_id, days, tz, both)


@router.get("/{movie_id}/trends", response_model=FilmTrends, responses=DESCRIBED)
async def film_trends(
    request: Request, movie_id: Movie, days: Days = 7, tz: Zone = "UTC", form: Format = None
) -> Response:
    """What one film had each day, a row for every day of the window."""
    return await answer(request, tz, films.film_trends, movie_id, days, tz, form=form)


@router.get("/{movie_id}/retention", response_model=FilmRetention, responses=DESCRIBED)
async def film_retention(
    request: Request,
    movie_id: Movie,
    days: Days = 7,
    tz: Zone = "UTC",
    step: Step = 60,
    form: Format = None,
) -> Response:
    """How many watched each part of a film, and how many watched some of it more than once."""
    return await answer(request, tz, films.film_retention, movie_id, days, tz, step, form=form)
