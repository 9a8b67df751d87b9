"""What the entry points have in common: settings, log, event loop, processes, and last words."""

import gc
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import uvloop

from app.core.config import Settings, load_settings
from app.core.errors import AnalyticsError
from app.core.logging import configure_logging

logger = logging.getLogger(__name__)

CANNOT_START = 3
"""Exit code of one of several processes whose start has failed; one that crashes later has 1."""

_LOOK_SECONDS = 0.5
_COLLECTED_OBJECTS = 50_000
_SWITCH_SECONDS = 0.0005

# Not fork: threads and connections of this process don't live on in a copy of it.
_spawn = multiprocessing.get_context("spawn")


def run(start: Callable[[Settings], int]) -> int:
    """Returns the exit code; when the start fails, one line says why."""
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        return start(settings)
    except AnalyticsError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1


def run_loop(main: Coroutine[None, None, None]) -> int:
    """Run until it ends, as an entry point's last act. Returns the exit code."""
    # What was made until now stays; and a batch is tens of thousands of objects without a cycle,
    # which the collector would go through again and again: a tenth of the time from Kafka.
    gc.freeze()
    gc.set_threshold(_COLLECTED_OBJECTS)
    # The loop asks for the interpreter at every piece that arrives, and large bodies are decoded
    # beside it: at the 5 ms that Python has by default, hundreds of clients wait for seconds.
    sys.setswitchinterval(_SWITCH_SECONDS)
    uvloop.run(main)
    return 0


def run_processes(count: int, work: Callable[[int], None]) -> int:
    """Keep so many processes at work until SIGTERM or SIGINT; then wait until they have stopped.

    One that dies is replaced. One that can't start at all stops the others too.

    Args:
        work: picklable; is given the process's place, from 0 on; ends by SystemExit with 0 after
            SIGTERM, or CANNOT_START.

    Returns:
        The exit code: 0 when all of them have stopped as they should.
    """
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    def start(place: int) -> SpawnProcess:
        process = _spawn.Process(target=work, args=(place,))
        process.start()
        return process

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    processes = [start(place) for place in range(count)]
    first = set(processes)  # one that is started later may find the store away for a while
    failed = False
    while not stopping and not failed:
        wait([process.sentinel for process in processes], timeout=_LOOK_SECONDS)
        for place, process in enumerate(processes):
            if process.exitcode is None or stopping:
                continue
            failed = failed or (process in first and process.exitcode == CANNOT_START)
            if not failed:
                logger.error("process %d ended (%d)", process.pid, process.exitcode)
                time.sleep(_LOOK_SECONDS)  # it may be for a reason that hasn't passed
                processes[place] = start(place)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    # One that was still starting knows no other way to stop.
    stopped = (0, -signal.SIGTERM)
    return 0 if not failed and all(one.exitcode in stopped for one in processes) else 1
