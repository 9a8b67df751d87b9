"""What an endpoint may be given."""

import re
from collections.abc import Awaitable, Callable, Hashable
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic_core import PydanticCustomError

from app.api.hot import Question, Wordings
from app.api.tables import csv_response, prefers_csv
from app.core.errors import BodyTooLargeError, StoreUnavailableError, UnsupportedBodyError
from app.ingest.audit import Auditor
from app.ingest.backup import Backups as BackupsOfService
from app.ingest.catalog import Catalog as CatalogOfService
from app.ingest.doors import Doors as DoorsOfService
from app.ingest.erasure import Eraser as EraserOfService
from app.ingest.export import Export as ExportOfService
from app.ingest.intake import Intake
from app.schemas.events import MAX_BODY_BYTES
from app.services.analytics_service import AnalyticsService
from app.services.answers import Answers
from app.services.movies import Movies
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


def plain_number(given: object) -> object:
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
    request: Request,
    tz: str,
    ask: Callable[..., Awaitable[BaseModel]],
    *arguments: Hashable,
    form: str | None = "json",
) -> Response:
    """What a function says of the service and these arguments, of days in the zone `tz`.

    No dependency: a hot answer would take an eighth longer.

    Args:
        form: what the request's `format` says; the answer is JSON, or the rows of its list as CSV.
    """
    _check_started(request)
    service: AnalyticsService = request.app.state.service
    answers: Answers = request.app.state.answers
    question = Question(ask.__name__, arguments, service.today(tz))
    if prefers_csv(request, form):
        return csv_response(await answers.get(question, lambda: ask(service, *arguments)), ask)
    wordings: Wordings = request.app.state.wordings
    wordings.learn(request.scope, tz, question)
    body = await answers.get(question, lambda: ask(service, *arguments))
    return Response(body, media_type="application/json")


async def answer_at(
    request: Request,
    moment: int,
    ask: Callable[..., Awaitable[BaseModel]],
    *arguments: Hashable,
    form: str | None,
) -> Response:
    """The same of a moment, in seconds since 1970 UTC. Kept for those who ask of the same one."""
    _check_started(request)
    service: AnalyticsService = request.app.state.service
    answers: Answers = request.app.state.answers
    question = Question(ask.__name__, (moment, *arguments), service.today("UTC"))
    body = await answers.get(question, lambda: ask(service, moment, *arguments))
    if prefers_csv(request, form):
        return csv_response(body, ask)
    return Response(body, media_type="application/json")


def sender_of(request: Request) -> bytes | None:
    """Whose events are counted together: the SHA-256 of the key, None without one."""
    key: bytes | None = getattr(request.state, "key", None)
    return key


def is_compared(request: Request, compare: str | None, days: int, form: str | None) -> bool:
    """Whether the window before is asked for, too.

    Raises:
        RequestValidationError: it isn't in the store as a whole, or not what CSV has a place for.
    """
    if compare is None:
        return False
    most = request.app.state.settings.longest_compared_days
    if days > most:
        raise _invalid("days", f"With compare, it should be less than or equal to {most}")
    if prefers_csv(request, form):
        raise _invalid("compare", "CSV has no place for it: ask for JSON")
    return True


def _invalid(parameter: str, text: str) -> RequestValidationError:
    return RequestValidationError(
        [{"loc": ("query", parameter), "msg": text, "type": "value_error"}]
    )


def _of_service(name: str) -> Any:
    """What the service keeps under this name, once it has started."""

    async def get(request: Request) -> Any:
        _check_started(request)
        return getattr(request.app.state, name)

    return Depends(get)


# Coroutines, all of them: FastAPI runs others in threads, which takes as long as the rest of it.
async def _intake(request: Request) -> Intake:
    _check_started(request)
    intake: Intake = request.app.state.intake
    intake.check(sender_of(request))  # before the body is read
    return intake


async def _movies(service: Annotated[AnalyticsService, _of_service("service")]) -> Movies:
    return service.movies


Body = Annotated[bytes, Depends(read_body)]
Events = Annotated[Intake, Depends(_intake)]
Doors = Annotated[DoorsOfService, _of_service("doors")]
Eraser = Annotated[EraserOfService, _of_service("eraser")]
Export = Annotated[ExportOfService, _of_service("export")]
Auditing = Annotated[Auditor, _of_service("auditor")]
Service = Annotated[AnalyticsService, _of_service("service")]
Films = Annotated[Movies, Depends(_movies)]
Catalog = Annotated[CatalogOfService, _of_service("catalog")]
Backups = Annotated[BackupsOfService, _of_service("backups")]

Days = Annotated[
    int,
    Query(ge=1, le=365, description="Calendar days in `tz`, today included.", examples=[7]),
    BeforeValidator(plain_number),
]
Zone = Annotated[
    str,
    AfterValidator(_known_zone),
    Query(description="IANA time zone that days and hours are in.", examples=["Europe/Berlin"]),
]
LastDays = Annotated[
    int,
    Query(
        ge=1,
        le=3650,
        description="UTC days, today the last, as far as events are kept.",
        examples=[90],
    ),
    BeforeValidator(plain_number),
]
Compare = Annotated[
    Literal["previous"] | None,
    Query(
        description="The figures of as many days before, too; `days` is at most half of what is "
        "kept then, 182 by default.",
        examples=["previous"],
    ),
]
Format = Annotated[
    Literal["json", "csv"] | None,
    Query(
        alias="format",
        description="`csv`: the rows as CSV (RFC 4180) with a header. Left out, `Accept` says it.",
        examples=["json"],
    ),
]
Limit = Annotated[
    int,
    Query(ge=1, le=100, description="How many films.", examples=[10]),
    BeforeValidator(plain_number),
]
