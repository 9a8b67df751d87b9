"""From an error to an answer: one table, and the only maker of problem+json (RFC 9457)."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import errors
from app.schemas.events import RejectionReason

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2

# Every error class that can reach a client. ConfigurationError can't: it ends the start.
STATUS: dict[type[errors.AnalyticsError], HTTPStatus] = {
    errors.MalformedBodyError: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedBodyError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnexpectedBodyError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.EventRejectedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.EventRateError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.UnderWayError: HTTPStatus.CONFLICT,
    errors.UnanswerableError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BackupRefusedError: HTTPStatus.CONFLICT,
    errors.WriteBufferFullError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BusyError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UserErasedError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotOnClusterError: HTTPStatus.NOT_IMPLEMENTED,
}


class ProblemError(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int] = Field(examples=[["query", "days"]])
    msg: str = Field(examples=["Input should be less than or equal to 365"])
    type: str = Field(examples=["less_than_equal"])


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    request_id: str = Field(description="Names this request in the service's log.")
    errors: list[ProblemError] | None = Field(None, description="With 422: what is wrong, each.")
    reason: RejectionReason | None = Field(None, description="Why an event was rejected.")


def problem(
    request: HTTPConnection,
    status: int,
    detail: str,
    headers: dict[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
        request_id=request.state.request_id,
        **members,
    )
    # Set here as well: an unforeseen error is answered outside of the middleware that sets it.
    headers = {**(headers or {}), "X-Request-ID": body.request_id}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return JSONResponse(
        body.model_dump(mode="json", exclude_none=True),
        status,
        headers,
        media_type="application/problem+json",
    )


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in the OpenAPI description."""
    return {status: _described(HTTPStatus(status)) for status in statuses}


_EXAMPLES: dict[int, tuple[str, dict[str, Any]]] = {
    400: ("the body is not JSON in UTF-8", {"reason": "not_json"}),
    401: ("a key is needed: Authorization: Bearer …, or X-API-Key", {}),
    403: ("this key is not for reading", {}),
    409: ("another audit or repair is under way", {}),
    413: ("a batch holds at most 10000 events", {}),
    414: ("the URL is over 8192 bytes", {}),
    415: ("the body must not be compressed", {}),
    422: (
        "user_id must be a UUID",
        {
            "reason": "invalid_field",
            "errors": [
                {
                    "loc": ["body", "user_id"],
                    "msg": "user_id must be a UUID",
                    "type": "invalid_field",
                }
            ],
        },
    ),
    429: ("this key may send 1000 events a second", {}),
    500: ("The service failed. The log has more under this request_id.", {}),
    501: ("this can't be done on a cluster", {}),
    503: ("The store can't be reached. Try again later.", {}),
}


_PLAIN = {"uuid_parsing": "Input should be a valid UUID"}


def _described(status: HTTPStatus) -> dict[str, Any]:
    detail, members = _EXAMPLES[status]
    example = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "instance": "/api/v1/analytics/…",
        "request_id": "5f1c7a9e0b3d4c55",
        **members,
    }
    return {
        "model": Problem,
        "description": status.phrase,
        "content": {"application/problem+json": {"example": example}},
    }


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(errors.AnalyticsError, _our_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _bug)


class FaultsMiddleware:
    """Answers 500 where nobody else has; so that what is around it adds its headers to that too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception as error:
            if started:
                raise
            answer = await _bug(Request(scope), error)
            await answer(scope, receive, send)


async def _client_gone(request: Request, error: Exception) -> JSONResponse:
    """Nobody reads this answer: it ends the request as one that failed, not as a fault of ours."""
    assert isinstance(error, ClientDisconnect)
    return problem(request, HTTPStatus.BAD_REQUEST, "the client went away while sending")


async def _our_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.AnalyticsError)
    status = STATUS[type(error)]
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return await _bug(request, error)
    detail = str(error)
    members: dict[str, Any] = {}
    if isinstance(error, errors.EventRateError):
        members["headers"] = {"Retry-After": str(error.seconds)}
    if isinstance(error, errors.StoreUnavailableError):
        logger.warning("not answered, the store: %s", error)
        detail = "The store can't be reached. Try again later."
    if isinstance(error, errors.MalformedBodyError):
        members["reason"] = RejectionReason.NOT_JSON
    if isinstance(error, errors.UnexpectedBodyError):
        members["errors"] = [ProblemError(loc=["body"], msg=detail, type="unexpected_body")]
    if isinstance(error, errors.UnanswerableError):
        loc: list[str | int] = ["query", error.parameter]
        members["errors"] = [ProblemError(loc=loc, msg=detail, type="unanswerable")]
    if isinstance(error, errors.EventRejectedError):
        place = ["body", error.field] if error.field else ["body"]
        members["reason"] = error.reason
        members["errors"] = [ProblemError(loc=list(place), msg=detail, type=error.reason)]
    return problem(request, status, detail, **members)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Without "input" and "ctx", and without the messages that quote it: what was sent stays unsaid.
    found = [
        ProblemError(
            loc=list(one["loc"]),
            msg=_PLAIN.get(one["type"], one["msg"].removeprefix("Value error, ")),
            type=one["type"],
        )
        for one in error.errors()
    ]
    detail = "; ".join(f"{one.loc[-1]}: {one.msg}" for one in found)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=found)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _methods_there(request)
    return problem(request, error.status_code, error.detail, headers)


def _methods_there(request: Request) -> str:
    """Those of all routes of a path: Starlette names those of the first."""
    there: set[str] = set()
    for route in request.app.router.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            there |= route.methods or set()
    return ", ".join(sorted(there))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    # Not the path: it may say whose viewing it was asked about.
    logger.error("a fault of the service: %s", error, exc_info=error)
    detail, _ = _EXAMPLES[HTTPStatus.INTERNAL_SERVER_ERROR]
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)
