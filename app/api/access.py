"""Who may do what: one table, and the middleware that holds requests to it."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import described, problem
from app.api.v1 import PREFIX
from app.core.keys import KeyClass, Keyring, digest_of

LIVE_PROTOCOL = "analytics.v1"
"""The WebSocket protocol that is spoken; a browser offers its key as a second one, `key.<key>`."""

_KEY_PROTOCOL = "key."


class Page(StrEnum):
    """What needs a key for reading unless PUBLIC_PAGES names it."""

    HEALTH = "health"
    METRICS = "metrics"
    DOCS = "docs"


OPEN = "open"
"""What never needs a key."""

_ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")
_WEBSOCKET = ("WEBSOCKET",)


class Row(NamedTuple):
    """What these methods of these paths need.

    A path's `{…}` stands for one part of it, and `/*` at its end for anything below.
    """

    methods: tuple[str, ...]
    paths: tuple[str, ...]
    needs: str


TABLE: tuple[Row, ...] = (
    Row(("GET",), ("/livez", "/readyz"), OPEN),
    # The page brings no figures: it asks for them as everybody does.
    Row(("GET",), ("/", "/static/*", "/favicon.ico"), OPEN),
    Row(("GET",), ("/films/{id}", "/viewers/{id}", "/definitions"), OPEN),
    Row(("GET",), ("/health",), Page.HEALTH),
    Row(("GET",), ("/metrics",), Page.METRICS),
    Row(("GET",), ("/docs", "/docs/*", "/redoc", "/openapi.json"), Page.DOCS),
    Row(("GET",), ("/static-offline-docs/*",), Page.DOCS),
    Row(("POST",), (f"{PREFIX}/events", f"{PREFIX}/events/batch"), KeyClass.INGEST),
    Row(("PUT",), (f"{PREFIX}/catalog/movies",), KeyClass.INGEST),
    Row(("GET",), (f"{PREFIX}/catalog/movies", f"{PREFIX}/content/*"), KeyClass.READ),
    Row(("GET",), (f"{PREFIX}/trends", f"{PREFIX}/peak-hours", f"{PREFIX}/heatmap"), KeyClass.READ),
    Row(("GET",), (f"{PREFIX}/now", f"{PREFIX}/concurrency"), KeyClass.READ),
    Row(("GET",), (f"{PREFIX}/overview", f"{PREFIX}/watch-time"), KeyClass.READ),
    Row(("GET",), (f"{PREFIX}/user/{{id}}/stats", f"{PREFIX}/user/{{id}}/movies"), KeyClass.READ),
    Row(("GET",), (f"{PREFIX}/ingestion",), KeyClass.READ),
    Row(_WEBSOCKET, (f"{PREFIX}/live",), KeyClass.READ),
    # All that is known of a person, and the end of it.
    Row(("GET",), (f"{PREFIX}/user/{{id}}/export",), KeyClass.ADMIN),
    Row(("DELETE",), (f"{PREFIX}/user/{{id}}",), KeyClass.ADMIN),
    Row(_ANY_METHOD, (f"{PREFIX}/admin/*",), KeyClass.ADMIN),
)


def _compiled() -> dict[str, re.Pattern[str]]:
    """Of each method, one expression whose last group is named after what the path needs."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in TABLE:
        for method in row.methods:
            found.setdefault(method, {}).setdefault(row.needs, []).extend(map(_of, row.paths))
    return {
        method: re.compile("|".join(f"(?P<{needs}>{'|'.join(all_)})" for needs, all_ in of.items()))
        for method, of in found.items()
    }


def _of(path: str) -> str:
    below = path.endswith("/*")
    parts = [
        "[^/]+" if part.startswith("{") else re.escape(part)
        for part in path.removesuffix("/*").split("/")
    ]
    return "/".join(parts) + ("/.+" if below else "")


_EXPRESSIONS = _compiled()
_CLASSES = {of.value: of for of in KeyClass}
DOING = {
    KeyClass.INGEST: "sending events",
    KeyClass.READ: "reading",
    KeyClass.ADMIN: "administration",
}
SETTINGS = {
    KeyClass.INGEST: "INGEST_API_KEYS",
    KeyClass.READ: "READ_API_KEYS",
    KeyClass.ADMIN: "ADMIN_API_KEY",
}


def needs(method: str, path: str) -> str | None:
    """What the table says: OPEN, a Page, a KeyClass; None without a row.

    Args:
        method: of HTTP, or `WEBSOCKET`.
    """
    expression = _EXPRESSIONS.get("GET" if method == "HEAD" else method)
    match = None if expression is None else expression.fullmatch(path)
    return None if match is None else match.lastgroup


class Rules:
    """The table as it holds with these keys.

    Args:
        pages: those that are open to everybody.
    """

    def __init__(self, keys: Keyring, pages: Iterable[str]) -> None:
        self.keys = keys
        self._open = {OPEN, *pages}

    def key_class(self, needed: str) -> KeyClass | None:
        """Which class of key this takes; None if none is needed."""
        if needed in self._open:
            return None
        wanted = _CLASSES.get(needed, KeyClass.READ)
        if wanted in self.keys.guarded or (wanted is KeyClass.ADMIN and self.keys.guarded):
            return wanted
        return None

    def unguarded(self) -> list[KeyClass]:
        """The classes that nobody needs a key of."""
        return [of for of in KeyClass if self.key_class(of) is None]


class AccessMiddleware:
    """Lets a request pass that needs no key, or has one of the right class.

    A route that the table doesn't know is closed to everybody. The key's SHA-256 is in the state of
    the scope afterwards, as `key`; and as `key_expiry`, for a connection that stays, until when it
    is good, or None.

    Args:
        clock: the present time, aware.
    """

    def __init__(self, app: ASGIApp, rules: Rules, clock: Callable[[], datetime]) -> None:
        self.app = app
        self._rules = rules
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        needed = needs("WEBSOCKET" if kind == "websocket" else scope["method"], scope["path"])
        if needed is None:
            if _is_routed(scope):
                await self._refuse(403, "nobody may do this", scope, receive, send)
                return
        elif (wanted := self._rules.key_class(needed)) is not None:
            refusal = self._refusal(wanted, scope)
            if refusal is not None:
                await self._refuse(*refusal, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, wanted: KeyClass, scope: Scope) -> tuple[int, str] | None:
        """Status and detail; None if there is a key that will do."""
        keys = self._rules.keys
        if wanted not in keys.guarded:
            return 403, f"{DOING[wanted]} is off: the service has no {SETTINGS[wanted]}"
        key = _presented(scope)
        if not key:
            return 401, "a key is needed: Authorization: Bearer …, or X-API-Key"
        digest = digest_of(key)
        good, expired = keys.classes(digest, self._clock())
        if wanted in good:
            state = scope.setdefault("state", {})
            state["key"] = digest
            if scope["type"] == "websocket":
                state["key_expiry"] = keys.expiry(digest, wanted)
            return None
        if wanted in expired or (expired and not good):
            return 401, "this key has expired"
        if good:
            return 403, f"this key is not for {DOING[wanted]}"
        return 401, "this key is not known"

    async def _refuse(
        self, status: int, detail: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = {}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="cinema-analytics"'
        answer: Response = problem(HTTPConnection(scope), status, detail, headers)
        await answer(scope, receive, send)


def _presented(scope: Scope) -> bytes:
    """The key of a request, empty if it has none."""
    bearer = b""
    for name, value in scope["headers"]:
        if name == b"x-api-key" and value.strip():
            stripped: bytes = value.strip()
            return stripped
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    if not bearer and scope["type"] == "websocket":
        for protocol in scope.get("subprotocols", ()):
            if protocol.startswith(_KEY_PROTOCOL):
                return str(protocol.removeprefix(_KEY_PROTOCOL)).encode()
    return bearer


def _is_routed(scope: Scope) -> bool:
    """Whether there is something at this path for this method; else the router says what is wrong.

    Rarely asked: only of what the table doesn't know.
    """
    routes: list[BaseRoute] = scope["app"].router.routes
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def describe_access(description: dict[str, Any], rules: Rules) -> None:
    """Add to an OpenAPI description what needs which key, and how it is refused."""
    components = description.setdefault("components", {})
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
        "header": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "An API key; it wins over the bearer.",
        },
    }
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            needed = needs(method.upper(), path)
            if needed is None or needed == OPEN:
                continue
            refusals = [401, 403, *([429] if _is_limited(path) else [])]
            for status, answer in _openapi(refusals).items():
                operation["responses"].setdefault(status, answer)
            if rules.key_class(needed) is not None:
                operation["security"] = [{"bearer": []}, {"header": []}]


def _is_limited(path: str) -> bool:
    return path.startswith(f"{PREFIX}/events")


def _openapi(statuses: Iterable[int]) -> dict[str, Any]:
    """The answers of these statuses as they stand in the description."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        str(status): {
            "description": answer["description"],
            "content": {
                kind: {"schema": schema, **content} for kind, content in answer["content"].items()
            },
        }
        for status, answer in described(*statuses).items()
    }
