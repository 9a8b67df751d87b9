"""Which request the running code works for, so that each line of the log can name it."""

import re
import secrets
from contextvars import ContextVar
from itertools import count
from typing import NamedTuple

_PROCESS = secrets.token_hex(4)

# Unlike those of other processes, and of this one before. A random one each time costs ten times
# as much.
_names = (f"{_PROCESS}{number:08x}" for number in count())

_ACCEPTED_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: of a later version more may follow.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)


class RequestName(NamedTuple):
    """What a request is called: here, and by the one who follows it through many services."""

    request_id: str
    trace_id: str | None


current_request: ContextVar[RequestName | None] = ContextVar("current_request", default=None)
"""None where nobody waits: in the writer, say, which works for many at once."""


def new_request_id() -> str:
    return next(_names)


def name_request(given: bytes | None, traceparent: bytes | None) -> RequestName:
    """The name for a request with these headers; what can't be used of them is passed over."""
    accepted = given is not None and _ACCEPTED_ID.fullmatch(given)
    request_id = given.decode() if given is not None and accepted else new_request_id()
    trace = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    return RequestName(request_id, None if trace is None else trace[1].decode())
