"""The bare app as a process, and waiting until a process does nothing."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.process import ROOT, free_port

_IDLE_SHARE = 0.05
_IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Bare:
    pid: int
    url: str


@contextmanager
def running_bare(answer: dict[str, Any]) -> Iterator[Bare]:
    """`benchmarks.rivals.bare` under uvicorn, as fast as uvicorn goes in one process.

    Args:
        answer: what it answers to the query.
    """
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.rivals.bare:app"),
        *("--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning"),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        constant = Path(scratch) / "answer.json"
        constant.write_text(json.dumps(answer), encoding="utf-8")
        environment = {**os.environ, "BARE_ANSWER": str(constant)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        bare = Bare(process.pid, f"http://127.0.0.1:{port}")
        try:
            _wait_until_it_answers(process, bare.url)
            yield bare
        finally:
            process.kill()
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
    while process.poll() is None:
        try:
            httpx.get(f"{url}/api/v1/analytics/content/popular").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the bare app ended by itself")


def wait_until_idle(pid: int) -> None:
    """What a process still does for one side (merges, say) must not slow down the other."""
    for _ in range(120):
        before = _cpu_seconds(pid)
        time.sleep(_IDLE_SECONDS)
        if _cpu_seconds(pid) - before < _IDLE_SHARE * _IDLE_SECONDS:
            return
    raise AssertionError("the process has been busy for two minutes, with nothing to do")


def _cpu_seconds(pid: int) -> float:
    # The name, in parentheses, may have spaces in it.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
