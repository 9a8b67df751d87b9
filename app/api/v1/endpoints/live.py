"""The queries about a moment."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BeforeValidator

from app.api.deps import Format, Service, answer_at, plain_number
from app.api.errors import described
from app.api.tables import DESCRIBED
from app.api.v1 import PREFIX
from app.schemas.live import Concurrency, Now
from app.services import live

router = APIRouter(
    prefix=PREFIX, tags=["figures"], responses={**described(422, 500, 503), **DESCRIBED}
)


_BUCKETS = (1, 5, 15, 60)


def _bucket(minutes: int) -> int:
    if minutes not in _BUCKETS:
        raise ValueError("Input should be 1, 5, 15 or 60")
    return minutes


@router.get("/now", response_model=Now)
async def now(request: Request, service: Service, form: Format = None) -> Response:
    """Who watches what at this moment: sessions with an event in the last 120 seconds that have
    not finished."""
    return await answer_at(request, service.second(), live.watched_now, form=form)


@router.get("/concurrency", response_model=Concurrency)
async def concurrency(
    request: Request,
    service: Service,
    hours: Annotated[
        int,
        Query(ge=1, le=720, description="The last so many hours.", examples=[24]),
        BeforeValidator(plain_number),
    ] = 24,
    bucket_minutes: Annotated[
        int,
        BeforeValidator(plain_number),
        AfterValidator(_bucket),
        Query(
            description="How long a bucket is.",
            examples=[1],
            json_schema_extra={"enum": list(_BUCKETS)},
        ),
    ] = 1,
    form: Format = None,
) -> Response:
    """How many sessions had an event in one minute; of a longer bucket, the most of its minutes.
    It reads all events of these hours."""
    minute = service.second() // 60 * 60
    return await answer_at(request, minute, live.concurrency, hours, bucket_minutes, form=form)
