"""What an endpoint may be given."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel

from app.api.hot import Question, Wordings
from app.core.errors import BodyTooLargeError, StoreUnavailableError
from app.ingest.doors import Doors as DoorsOfService
from app.ingest.intake import Intake
from app.schemas.events import MAX_BODY_BYTES
from app.services.analytics_service import AnalyticsService
from app.services.answers import Answers
from app.services.window import load_zone

# A client that is still sending doesn't read our answer: this much more is let in and thrown away.
_DRAINED_BYTES = 4 * MAX_BODY_BYTES


async def read_body(request: Request) -> bytes:
    """The body. Raises BodyTooLargeError, without ever holding more than the limit."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    # Who asks before sending is told at once; and so is who won't be done soon.
    most = MAX_BODY_BYTES if "expect" in request.headers else _DRAINED_BYTES
    if size > most:
        raise BodyTooLargeError(f"the body is over {MAX_BODY_BYTES} bytes")
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


def sender_of(request: Request) -> bytes | None:
    """Whose events are counted together: the SHA-256 of the key, None without one."""
    key: bytes | None = getattr(request.state, "key", None)
    return key


# Coroutines, all of them: FastAPI runs others in threads, which takes as long as the rest of it.
async def _intake(request: Request) -> Intake:
    _check_started(request)
    intake: Intake = request.app.state.intake
    intake.check(sender_of(request))  # before the body is read
    return intake


async def _doors(request: Request) -> DoorsOfService:
    _check_started(request)
    doors: DoorsOfService = request.app.state.doors
    return doors


Body = Annotated[bytes, Depends(read_body)]
Events = Annotated[Intake, Depends(_intake)]
Doors = Annotated[DoorsOfService, Depends(_doors)]

Days = Annotated[
    int,
    Query(ge=1, le=365, description="Calendar days in `tz`, today included.", examples=[7]),
]
Zone = Annotated[
    str,
    AfterValidator(_known_zone),
    Query(description="IANA time zone that days and hours are in.", examples=["Europe/Berlin"]),
]
Limit = Annotated[int, Query(ge=1, le=100, description="How many films.", examples=[10])]
