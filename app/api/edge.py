"""The edge of HTTP: what comes before the application."""

import asyncio
from enum import Enum, auto
from http import HTTPStatus
from typing import NamedTuple

from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import RETRY_AFTER_SECONDS, Problem
from app.api.limits import PROBES
from app.api.observe import Observer
from app.core.context import RequestName, name_request

MAX_URL_BYTES = 8 * 1024
MAX_HEAD_BYTES = 32 * 1024
HEAD_SECONDS = 10
"""For the head of a request, from its first byte, or from the connection's beginning."""
BODY_SECONDS = 10
MIN_BODY_RATE = 16 * 1024
"""Bytes of a body that come in a second, on average of BODY_SECONDS; a short one needs not."""
READ_SECONDS = 30
"""A client may take so long to read the next piece of an answer."""
MAX_CONNECTIONS = 2_000
MAX_PIPELINED = 8
"""Requests of one connection that wait for the answers to those before them."""

# So many more are let in for the sake of probes, and turned away with an answer if they are none.
_GUESTS = 500
GUEST_SECONDS = 2
_LOOK_SECONDS = 0.1
_PROBES = frozenset(path.encode() for path in PROBES)
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE)


class _Refusal(NamedTuple):
    """What is wrong with a request before there is one."""

    status: HTTPStatus
    detail: str


_UNREADABLE = _Refusal(HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")
_LONG_URL = _Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL is over {MAX_URL_BYTES} bytes")
_LARGE_HEAD = _Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the headers are over {MAX_HEAD_BYTES} bytes"
)
_SLOW_HEAD = _Refusal(
    HTTPStatus.REQUEST_TIMEOUT, f"the request has not begun within {HEAD_SECONDS} seconds"
)
_SLOW_BODY = _Refusal(
    HTTPStatus.REQUEST_TIMEOUT,
    f"the body came slower than {MIN_BODY_RATE} bytes a second",
)
_CROWDED = _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again later")


class _Refused(Exception):  # noqa: N818 - it only ends the parser's work
    pass


class _Phase(Enum):
    """What of a connection is being waited for."""

    HEAD = auto()
    BODY = auto()
    ANSWER = auto()


class Protocol(HttpToolsProtocol):
    """HTTP with limits on what comes before the application, and how slowly.

    Its refusals have the shape of all errors. There is no path to name yet.
    """

    _room_made = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.url = b""
        self._phase = _Phase.HEAD
        self._since = self.loop.time()
        # Whether nothing has come of a head that is waited for.
        self._fresh = True
        # Bytes since the parser last made something of them, and of the body since `_since`.
        self._unparsed = 0
        self._body_bytes = 0
        # What the client hasn't read of the answer, and since when that is so.
        self._unread = (0, self._since)
        self._refusal = _UNREADABLE
        # One too many: it gets the answer to a probe, or is turned away.
        self._guest = False
        most = MAX_CONNECTIONS
        if len(self.connections) > most:
            self._make_room()
            self._guest = len(self.connections) > most
        if len(self.connections) > most + _GUESTS:
            self._refuse(_CROWDED)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._phase is _Phase.ANSWER:
            self._phase = _Phase.HEAD
            self._since = self.loop.time()
        self._fresh = False
        self._unparsed += len(data)
        super().data_received(data)
        # A head, or the end of a body in chunks, that grows and grows.
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            long_url = not self.headers and len(self.url) > MAX_URL_BYTES
            self._refuse(_LONG_URL if long_url else _LARGE_HEAD)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._unparsed = 0

    def on_headers_complete(self) -> None:
        if len(self.url) > MAX_URL_BYTES:
            self._stop_parsing(_LONG_URL)
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value) + 4  # ": " and the end of the line
        if size > MAX_HEAD_BYTES:
            self._stop_parsing(_LARGE_HEAD)
        if len(self.pipeline) >= MAX_PIPELINED:
            # Thousands fit in one piece of what is read.
            self.transport.abort()
            raise _Refused
        self._guest = self._guest and len(self.connections) > MAX_CONNECTIONS
        if self._guest and self.url.partition(b"?")[0] not in _PROBES:
            self._stop_parsing(_CROWDED)
        self._unparsed = 0
        self._phase = _Phase.BODY
        self._since = self.loop.time()
        self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._phase = _Phase.ANSWER
        super().on_message_complete()

    def resume_writing(self) -> None:
        self._unread = (0, self.loop.time())
        super().resume_writing()

    def look_after(self, now: float) -> None:
        """Part with a client that takes too long. To be called about once a second.

        Args:
            now: the loop's time.
        """
        unread = self.transport.get_write_buffer_size()
        size, since = self._unread
        if not unread or unread < size:
            self._unread = (unread, now)
        else:
            self._unread = (unread, since)
            if now - since > READ_SECONDS:
                self.transport.abort()
                return
        if self.transport.is_closing():
            return
        waited = now - self._since
        if self._phase is _Phase.BODY:
            self._look_after_body(now, waited)
        elif self._is_answering():
            self._since = now
        elif self._phase is _Phase.HEAD and waited > (
            GUEST_SECONDS if self._guest else HEAD_SECONDS
        ):
            if self._fresh:
                self.transport.close()
            else:
                self._refuse(_SLOW_HEAD)

    def _look_after_body(self, now: float, waited: float) -> None:
        if self.flow.read_paused:  # it is us who are slow
            self._since = now
            self._body_bytes = 0
        elif waited > BODY_SECONDS:
            if self._body_bytes < BODY_SECONDS * MIN_BODY_RATE:
                self._refuse(_SLOW_BODY)
            elif self.cycle.response_complete:  # nobody wants the rest
                self.transport.abort()
            self._since = now
            self._body_bytes = 0

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> None:
        """Part with those that nothing is being done for."""
        now = self.loop.time()
        if now - Protocol._room_made < _LOOK_SECONDS:  # it takes a look at all of them
            return
        Protocol._room_made = now
        for one in list(self.connections):
            if isinstance(one, Protocol) and one.is_idle(now):
                one.transport.close()

    def is_idle(self, now: float) -> bool:
        """Whether nothing came for a while, and nothing is to be answered."""
        if self._phase is _Phase.ANSWER:
            return not self._is_answering()
        return self._phase is _Phase.HEAD and now - self._since > GUEST_SECONDS

    def _stop_parsing(self, refusal: _Refusal) -> None:
        self._refusal = refusal
        raise _Refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - what it says is in the refusal
        self._refuse(self._refusal)

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer, unless another answer has begun or is to come first, and close."""
        if not self._is_answering() or (
            self._phase is _Phase.BODY and not self.cycle.response_started
        ):
            name = name_request(None, None)
            self.transport.write(_written(refusal, name))
            app = self.config.app
            assert isinstance(app, FastAPI)
            observer: Observer = app.state.observer
            observer.refused(name, refusal.status)
        self.transport.close()


def _written(refusal: _Refusal, name: RequestName) -> bytes:
    status = refusal.status
    body = Problem(
        title=status.phrase,
        status=status,
        detail=refusal.detail,
        instance="*",
        request_id=name.request_id,
    )
    content = body.model_dump_json(exclude_none=True).encode()
    again = f"retry-after: {RETRY_AFTER_SECONDS}\r\n" if status in _PASSING else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(content)}\r\n"
        f"x-request-id: {body.request_id}\r\n"
        f"{again}"
        "connection: close\r\n\r\n"
    )
    return head.encode() + content
