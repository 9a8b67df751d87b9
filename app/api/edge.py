"""The edge of HTTP: what comes before the application, and what is left when it is cut off."""

import asyncio
import re
import secrets
from http import HTTPStatus
from itertools import count

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import Problem, problem

_PROCESS = secrets.token_hex(4)
_HEADER = b"x-request-id"
_ANSWERED = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_ACCEPTED_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


# Unlike those of other processes, and of this one before. A random one each time costs ten times
# as much.
_names = (f"{_PROCESS}{number:08x}" for number in count())


def _new_id() -> str:
    return next(_names)


class RequestIdMiddleware:
    """Names each request by its `X-Request-ID`, or else anew; the answer says the name.

    A request that is cancelled, as those are that outlast the time to stop in, is answered 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        request_id = given.decode() if _ACCEPTED_ID.fullmatch(given) else _new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] in _ANSWERED:
                started = True
                headers = [header for header in message.get("headers", ()) if header[0] != _HEADER]
                message["headers"] = [*headers, (_HEADER, request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except asyncio.CancelledError:
            if started or scope["type"] == "websocket":
                raise
            answer = problem(
                Request(scope), HTTPStatus.SERVICE_UNAVAILABLE, "the service is stopping"
            )
            await answer(scope, receive, send_named)


class Protocol(HttpToolsProtocol):
    """HTTP whose own refusals have the shape of all errors. There is no path to name yet."""

    def send_400_response(self, msg: str) -> None:
        status = HTTPStatus.BAD_REQUEST
        body = Problem(
            title=status.phrase, status=status, detail=msg, instance="*", request_id=_new_id()
        )
        content = body.model_dump_json(exclude_none=True).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(content)}\r\n"
            f"x-request-id: {body.request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()
