"""What is taken in at the same time. Past that it is said at once, before anything is read."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem
from app.core.errors import BusyError
from app.schemas.events import MAX_BODY_BYTES

MAX_REQUESTS = 1_000
"""Requests that may be under way; one whose body is still coming isn't yet."""

MAX_BODIES_BYTES = 8 * MAX_BODY_BYTES
"""Of all bodies that are read, or wait to be decoded and stored."""

# Always taken: so many of them as may be under way take little.
_SMALL_BODY_BYTES = 64 * 1024

PROBES = ("/livez", "/readyz")
"""They are answered however much else there is to do."""

_BUSY = "the service has more to do than it can; try again later"


class RequestLimitsMiddleware:
    """Answers 503 to what would be one request, or one large body, too many."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._under_way = 0
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        if self._under_way >= MAX_REQUESTS:
            await problem(Request(scope), 503, _BUSY)(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD"):
            self._under_way += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self._under_way -= 1
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = 0
        complete = False

        async def receive_counted() -> Message:
            nonlocal held, complete
            message = await receive()
            if message["type"] == "http.request":
                # What comes past the limit of a body is thrown away.
                size = min(len(message.get("body", b"")), MAX_BODY_BYTES - held)
                held += size
                self._bodies_bytes += size
                if held > _SMALL_BODY_BYTES and self._bodies_bytes > MAX_BODIES_BYTES:
                    raise BusyError(_BUSY)
                if not complete and not message.get("more_body", False):
                    if self._under_way >= MAX_REQUESTS:
                        raise BusyError(_BUSY)
                    complete = True
                    self._under_way += 1
            return message

        try:
            await self.app(scope, receive_counted, send)
        finally:
            self._bodies_bytes -= held
            self._under_way -= complete
