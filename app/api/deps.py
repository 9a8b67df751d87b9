"""What an endpoint may be given."""

import re
from collections.abc import Awaitable, Callable, Hashable
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic_core import PydanticCustomError

from app.api.hot import Question, Wordings
from app.core.errors import BodyTooLargeError, StoreUnavailableError, UnsupportedBodyError
from app.ingest.backup import Backups as BackupsOfService
from app.ingest.doors import Doors as DoorsOfService
from app.ingest.intake import Intake
from app.schemas.events import MAX_BODY_BYTES
from app.services.analytics_service import AnalyticsService
from app.services.answers import Answers
from app.services.window import load_zone

# A client that is still sending doesn't read our answer: this much more is let in and thrown away.
_DRAINED_BYTES = 4 * MAX_BODY_BYTES

_NUMBER = re.compile(r"-?[0-9]{1,18}")


async def read_body(request: Request) -> bytes:
    """The body. Never more of it is held than the limit.

    Raises:
        UnsupportedBodyError: it is compressed: nobody knows what size it would have.
        BodyTooLargeError: it is over the limit.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise UnsupportedBodyError("the body must not be compressed")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            chunks.append(chunk)
        elif size > _DRAINED_BYTES:
            break
        else:
            chunks.clear()
    if size > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"the body is over {MAX_BODY_BYTES} bytes")
    return b"".join(chunks)


def _plain_number(given: object) -> object:
    """Digits only: Python would take 7_0 for 70."""
    if isinstance(given, str) and _NUMBER.fullmatch(given) is None:
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    return given


def _known_zone(name: str) -> str:
    load_zone(name)
    return name


def _check_started(request: Request) -> None:
    if not request.app.state.ready:
        raise StoreUnavailableError("the store is not open yet")


async def answer(
    request: Request, tz: str, ask: Callable[..., Awaitable[BaseModel]], *arguments: Hashable
) -> Response:
    """What a method of the service says to these arguments, of days in the zone `tz`.

    No dependency: a hot answer would take an eighth longer.
    """
    _check_started(request)
    service: AnalyticsService = request.app.state.service
    answers: Answers = request.app.state.answers
    question = Question(ask.__name__, arguments, service.today(tz))
    wordings: Wordings = request.app.state.wordings
    wordings.learn(request.scope, tz, question)
    body = await answers.get(question, lambda: ask(service, *arguments))
    return Response(body, media_type="application/json")


# Coroutines, all of them: FastAPI runs others in threads, which takes as long as the rest of it.
async def _intake(request: Request) -> Intake:
    _check_started(request)
    intake: Intake = request.app.state.intake
    return intake


async def _doors(request: Request) -> DoorsOfService:
    _check_started(request)
    doors: DoorsOfService = request.app.state.doors
    return doors


async def _backups(request: Request) -> BackupsOfService:
    _check_started(request)
    backups: BackupsOfService = request.app.state.backups
    return backups


Body = Annotated[bytes, Depends(read_body)]
Events = Annotated[Intake, Depends(_intake)]
Doors = Annotated[DoorsOfService, Depends(_doors)]
Backups = Annotated[BackupsOfService, Depends(_backups)]

Days = Annotated[
    int,
    Query(ge=1, le=365, description="Calendar days in `tz`, today included.", examples=[7]),
    BeforeValidator(_plain_number),
]
Zone = Annotated[
    str,
    AfterValidator(_known_zone),
    Query(description="IANA time zone that days and hours are in.", examples=["Europe/Berlin"]),
]
Limit = Annotated[
    int,
    Query(ge=1, le=100, description="How many films.", examples=[10]),
    BeforeValidator(_plain_number),
]
