"""How long a start takes, on a store with events, against importing what it is made of.

    python -m benchmarks.start [--rounds N]

Measured is the time from making the process to the first 200 of `/health`. The rival is a Python
that imports FastAPI and chDB and ends: no service made of them starts faster. The store has
BENCH_EVENTS events (default 1,000,000); where it is kept, or built, says benchmarks/dataset.py.
Each start follows a stop by SIGTERM; all that is read is in the page cache.
"""

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.dataset import kept_stores
from benchmarks.harness import Measured, compared, in_turns, seconds, standalone
from tests.support.answers import PREFIX
from tests.support.process import ROOT, Service, running_service

EVENTS = int(os.environ.get("BENCH_EVENTS", "1_000_000"))

_DEADLINE_SECONDS = 120


def start_and_stop(store: Path) -> float:
    """Seconds until `/health` says 200."""
    service = Service(store)
    began = time.perf_counter()
    service.launch()
    try:
        while not _is_healthy(service.port):
            assert time.perf_counter() < began + _DEADLINE_SECONDS, service.log
            time.sleep(0.005)
        took = time.perf_counter() - began
        service.signal(signal.SIGTERM)
        assert service.wait() == 0, service.log
    finally:
        service.kill()
    return took


def _is_healthy(port: int) -> bool:
    # Not by httpx, which takes more of the processor than a start can spare.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except ConnectionError:
        return False
    finally:
        connection.close()


def import_both() -> None:
    subprocess.run([sys.executable, "-c", "import fastapi, chdb"], cwd=ROOT, check=True)


def count_events(store: Path) -> int:
    with running_service(store) as service:
        answer = httpx.get(f"{service.url}{PREFIX}/peak-hours?days=365", timeout=600)
        hours = answer.raise_for_status().json()["items"]
    return sum(hour["events_count"] for hour in hours)


def measure(rounds: int) -> list[Measured]:
    with kept_stores(EVENTS) as [store]:
        work = f"start to 200 on /health, {count_events(store):,} events in the store"
        start_and_stop(store)  # after one that was killed
        import_both()
        measured = in_turns(rounds, lambda: start_and_stop(store), lambda: seconds(import_both))
    return [compared(work, 'python -c "import fastapi, chdb"', "s", *measured, at_most=3)]


if __name__ == "__main__":
    standalone(__doc__, measure)
