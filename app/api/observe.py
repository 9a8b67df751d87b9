"""What is seen of every request: its name, a count, a duration, a line in the log."""

import asyncio
import logging
import time
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem
from app.core.context import RequestName, current_request, name_request
from app.core.logging import log_fields
from app.core.measures import Measures

logger = logging.getLogger(__name__)

_REQUEST_ID = b"x-request-id"
_TRACEPARENT = b"traceparent"
# Others are up to the sender, and each would be a series of its own.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "other"
# What a client sees of the first message to it; another has its status with it.
_WEBSOCKET_STATUS = {"websocket.accept": 101, "websocket.close": 403}
_NO_ROUTE = "unmatched"


class Observer:
    """Counts requests, and has a line for each in the log where that is wanted."""

    def __init__(self, measures: Measures, *, log_requests: bool) -> None:
        self._measures = measures
        self._log_requests = log_requests

    def answered(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """To be called while the request is `current_request`.

        Args:
            seconds: until the end of its answer; None where that says nothing.
        """
        self._measures.request(route, method, status, seconds)
        if self._log_requests and logger.isEnabledFor(logging.INFO):
            fields: dict[str, str | int | float] = {
                "method": method,
                "route": route,
                "status": int(status),
            }
            if seconds is not None:
                fields["duration_ms"] = round(seconds * 1000, 3)
            log_fields(logger, "answered", fields)

    def refused(self, name: RequestName, status: int) -> None:
        """For what was no request that the application could be asked."""
        current = current_request.set(name)
        try:
            self.answered(_NO_ROUTE, _OTHER_METHOD, status, None)
        finally:
            current_request.reset(current)


class ObserveMiddleware:
    """Around all others, so that it sees what is sent, whichever of them sends it.

    Names each request by its `X-Request-ID`, or else anew; the answer says the name. A request that
    is cancelled, as those are that outlast the time to stop in, is answered 503.
    """

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self.app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = traceparent = None
        for header, value in scope["headers"]:
            if header == _REQUEST_ID:
                given = value
            elif header == _TRACEPARENT:
                traceparent = value
        name = name_request(given, traceparent)
        scope.setdefault("state", {})["request_id"] = name.request_id
        current = current_request.set(name)
        try:
            if scope["type"] == "http":
                await self._observe(scope, receive, send, (_REQUEST_ID, name.request_id.encode()))
            else:
                await self._observe_websocket(scope, receive, send)
        finally:
            current_request.reset(current)

    async def _observe_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Its request is answered when it is let in, or is not; how long it lasts is its own."""
        began = time.perf_counter()
        answered = False

        async def send_observed(message: Message) -> None:
            nonlocal answered
            await send(message)
            if not answered:
                answered = True
                status = message.get("status", _WEBSOCKET_STATUS.get(message["type"], 0))
                seconds = time.perf_counter() - began
                self._observer.answered(_route(scope), "GET", status, seconds)

        await self.app(scope, receive, send_observed)

    async def _observe(
        self, scope: Scope, receive: Receive, send: Send, named: tuple[bytes, bytes]
    ) -> None:
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [header for header in message["headers"] if header[0] != _REQUEST_ID]
                headers.append(named)
                message["headers"] = headers
            await send(message)

        began = time.perf_counter()
        try:
            await self.app(scope, receive, send_named)
        except asyncio.CancelledError:
            if status:
                raise
            answer = problem(
                Request(scope), HTTPStatus.SERVICE_UNAVAILABLE, "the service is stopping"
            )
            await answer(scope, receive, send_named)
        finally:
            method = scope["method"]
            self._observer.answered(
                _route(scope),
                method if method in _METHODS else _OTHER_METHOD,
                status or HTTPStatus.INTERNAL_SERVER_ERROR.value,
                time.perf_counter() - began,
            )


def _route(scope: Scope) -> str:
    """The template of the path, which says nothing of who is asked about."""
    route = scope.get("route")
    if route is not None:
        path: str = route.path
        return path
    # A folder of files has no route, but leaves where it is mounted.
    return str(scope["root_path"]) if "endpoint" in scope else _NO_ROUTE
