"""Load by wrk, with one thread: it takes little from the processor that the servers need too."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

MARK = "\1"
"""Stands in a body for 12 hex digits: the number of the request."""

_SEPARATOR = "\2"
_NUMBER_DIGITS = 12
_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Answered:
    """How many requests were answered, all of them with 2xx, and how many in a second."""

    requests: int
    per_second: float


@dataclass(frozen=True)
class Posts:
    """Requests to send in turn, numbered from `first`; the next run's numbers must be greater."""

    file: Path
    first: int


def write_posts(file: Path, url: str, bodies: Sequence[str]) -> None:
    """Write what `Posts` names: POSTs of these bodies, which are ASCII."""
    parts = urlsplit(url)
    file.write_text(
        _SEPARATOR.join(
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body) + body.count(MARK) * (_NUMBER_DIGITS - 1)}\r\n\r\n{body}"
            for body in bodies
        ),
        encoding="ascii",
        newline="",
    )


def start(
    url: str, clients: int, seconds: int, posts: Posts | None = None
) -> subprocess.Popen[str]:
    """Ask, each client again as soon as it is answered; SIGINT ends it before its time.

    Args:
        posts: what to send; without it, the URL is got.
    """
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt install wrk")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s"]
    if posts is None:
        command += [url]
    else:
        command += ["-s", str(_SCRIPT), url, "--", str(posts.file), str(posts.first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answered(process: subprocess.Popen[str]) -> Answered:
    """What came of it, once it has ended; whatever went wrong fails here."""
    summary, _ = process.communicate()
    assert process.returncode == 0, summary
    assert "Non-2xx" not in summary, summary
    assert "Socket errors" not in summary, summary
    requests = re.search(r"^ *(\d+) requests in ", summary, re.MULTILINE)
    per_second = re.search(r"^Requests/sec: *([\d.]+)$", summary, re.MULTILINE)
    assert requests is not None, summary
    assert per_second is not None, summary
    return Answered(int(requests[1]), float(per_second[1]))


def load(url: str, clients: int, seconds: int, posts: Posts | None = None) -> Answered:
    """Put load on a server for so many seconds."""
    return answered(start(url, clients, seconds, posts))
