"""What a browser is told, and what other sites' pages may do in it."""

import ipaddress
import re
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem
from app.api.v1 import PREFIX

_PREFLIGHT_SECONDS = 600
_PORT = re.compile(r":[0-9]*\Z")

_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
# The pages of Swagger and Redoc have scripts and styles within, and a worker that is made on the
# way; they show nothing that came from outside.
_DOCS_POLICY = (
    f"{_POLICY}; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:"
)
_DOCS = ("/docs", "/docs/oauth2-redirect", "/redoc")

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class SecurityHeadersMiddleware:
    """Adds to every answer what makes browsers strict with it. What an answer has already stays."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._headers = [*_HEADERS, (b"content-security-policy", _POLICY.encode())]
        self._docs_headers = [*_HEADERS, (b"content-security-policy", _DOCS_POLICY.encode())]
        # Figures change, and are not everybody's.
        self._api_headers = [*self._headers, (b"cache-control", b"no-store")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith(PREFIX):
            ours = self._api_headers
        else:
            ours = self._docs_headers if path in _DOCS else self._headers

        async def send_strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message["headers"]
                names = {name for name, _ in given}
                message["headers"] = [*given, *(one for one in ours if one[0] not in names)]
            await send(message)

        await self.app(scope, receive, send_strict)


class CorsMiddleware(CORSMiddleware):
    """Lets the pages of some origins use the service; a preflight that is refused is a problem."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        super().__init__(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
            max_age=_PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                answer = self.preflight_response(request_headers=headers)
                if answer.status_code != HTTPStatus.OK:
                    detail = bytes(answer.body).decode()
                    answer = problem(Request(scope), answer.status_code, detail, {"Vary": "Origin"})
                await answer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class ForeignPagesMiddleware:
    """Refuses what a page of another site has a browser do without asking the service first.

    Browsers ask (CORS) before most requests, not before a form's POST or a WebSocket: without keys,
    any site could administer a service on the visitor's own machine, or look on. Events are let
    pass: a player's beacon is such a POST.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self.app = app
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._may_pass(scope):
            await self.app(scope, receive, send)
            return
        answer = problem(
            HTTPConnection(scope),
            HTTPStatus.FORBIDDEN,
            "pages of other sites may not do this; CORS_ORIGINS names those that may",
        )
        await answer(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["type"] == "http":
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                return True
            if scope["path"].startswith(f"{PREFIX}/events"):
                return True
        elif scope["type"] != "websocket":
            return True
        origin = host = b""
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value
            elif name == b"host":
                host = value
        if not origin or origin in self._origins or b"*" in self._origins:
            return True
        # A proxy may end TLS: the scheme is not compared.
        own: bool = origin.partition(b"://")[2] == host
        return own


class HostsMiddleware:
    """Refuses what is asked of another host than the service's own.

    A page may have the name of its site lead to the visitor's own machine or network (DNS
    rebinding): the browser takes the service for a part of that site then. It still says which
    name it asked for. An address can't be led elsewhere; nor can localhost, by all browsers.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self._hosts = {"localhost", *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_ours(Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send)
            return
        answer = problem(
            HTTPConnection(scope),
            HTTPStatus.MISDIRECTED_REQUEST,
            "the service is not asked for by this name; ALLOWED_HOSTS has those that it has",
        )
        await answer(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if _PORT.search(host) else host
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
