"""Mixed load on one service for a while: what it holds has to stay as it is.

`python -m tests.soak --minutes 10`. Senders of batches and of single events, right and damaged
ones, repeats, clients that go away, queries that are new, asked again, or
wrong, backups. In the end every event has to be counted once. Ends with 1 when something grew.
"""

import argparse
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.core.schema import OLD_PARTS_SECONDS
from tests.fuzz import written_event
from tests.support.answers import PREFIX
from tests.support.kills import USERS, make_batch
from tests.support.process import Service, running_service

# What allocators and caches may still take after the first third, and what comes and goes.
MORE_MEMORY_MIB = 96
MORE_HANDLES = 40
# Parts that were merged are kept for a while: only then do as many go as come.
_WARM_UP_SECONDS = OLD_PARTS_SECONDS + 60


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds. Memory in MiB: what is its own alone."""

    memory: float
    threads: int
    files: int


def sample(pid: int) -> Sample:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    files = [one for one in Path(f"/proc/{pid}/fd").iterdir() if not _is_of_a_thread(one)]
    return Sample(int(status["RssAnon"].split()[0]) / 1024, int(status["Threads"]), len(files))


def _is_of_a_thread(file: Path) -> bool:
    """The engine looks at /proc for as long as a thread lives: that is counted already."""
    try:
        return str(file.readlink()).startswith("/proc/")
    except OSError:
        return True


class Load:
    """Keeps a service busy until it is told to stop. `stored` counts what was acknowledged."""

    def __init__(self, service: Service, seed: int) -> None:
        self.stored = 0
        self.requests = 0
        self.faults: list[str] = []
        self._service = service
        self._seed = seed
        self._done = threading.Event()
        self._lock = threading.Lock()

    def run(self, seconds: float, look: Callable[[], None], every: float) -> None:
        """Look at it every so many seconds meanwhile."""
        work = [self._batches, self._singles, self._queries, self._queries, self._rude, self._odd]
        with ThreadPoolExecutor(len(work)) as threads:
            running = [
                threads.submit(self._keep, each, random.Random(self._seed + n))
                for n, each in enumerate(work)
            ]
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(every, left))
                look()
            self._done.set()
            for one in running:
                one.result()

    def _keep(
        self, work: Callable[[httpx.Client, random.Random], None], dice: random.Random
    ) -> None:
        with httpx.Client(base_url=f"{self._service.url}{PREFIX}", timeout=60) as client:
            while not self._done.is_set():
                work(client, dice)
                time.sleep(0.005)

    def _expect(self, answer: httpx.Response, *statuses: int) -> None:
        with self._lock:
            self.requests += 1
            if answer.status_code not in statuses:
                self.faults.append(
                    f"{answer.request.url}: {answer.status_code} {answer.text[:300]}"
                )

    def _batches(self, client: httpx.Client, dice: random.Random) -> None:
        batch = make_batch(dice, dice.choice((1, 50, 1000)))
        for times in range(dice.choice((1, 1, 2))):
            answer = client.post("/events/batch", json=batch)
            self._expect(answer, 200)
            with self._lock:
                self.stored += answer.json()["stored"]
            if times and answer.json()["stored"]:
                self.faults.append("a repeat was stored")

    def _singles(self, client: httpx.Client, dice: random.Random) -> None:
        answer = client.post("/events", json=make_batch(dice, 1)[0])
        self._expect(answer, 201)
        with self._lock:
            self.stored += 1

    def _queries(self, client: httpx.Client, dice: random.Random) -> None:
        days = dice.choice((1, 7, 30, dice.randrange(1, 366)))
        tz = dice.choice(("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"))
        path = dice.choice(
            ("/trends", "/peak-hours", "/content/popular", f"/user/{dice.choice(USERS)}/stats")
        )
        self._expect(client.get(path, params={"days": days, "tz": tz}), 200)

    def _rude(self, client: httpx.Client, dice: random.Random) -> None:
        """Goes away in the middle of a request, or of an answer."""
        text = f"POST {PREFIX}/events HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{{"
        with socket.create_connection(("127.0.0.1", self._service.port)) as connection:
            connection.sendall(text[: dice.randrange(1, len(text))].encode())
        time.sleep(0.02)

    def _odd(self, client: httpx.Client, dice: random.Random) -> None:
        """What is refused; no event of it is stored, for its user is not in USERS."""
        answer = client.post("/events", content=written_event(dice) + b",")
        self._expect(answer, 400, 422)
        self._expect(client.get(f"/trends?days={dice.randrange(366, 999)}"), 422)
        self._expect(client.get(f"/{dice.random()}"), 404)
        if dice.random() < 0.02:
            answer = client.post("/admin/backup")
            self._expect(answer, 201)
            shutil.rmtree(answer.json()["path"])


def soak(
    folder: Path, seconds: float, every: float, seed: int, warm_up: float
) -> tuple[list[Sample], Load]:
    """What was held every so many seconds, after `warm_up` seconds of the same."""
    with running_service(folder / "store", BACKUP_PATH=str(folder / "backups")) as service:
        warm = Load(service, seed)
        warm.run(warm_up, lambda: None, 1)
        samples: list[Sample] = []
        load = Load(service, seed + 1000)
        load.run(seconds, lambda: samples.append(sample(service.pid)), every)
        load.faults += warm.faults
        for days, tz in ((365, "UTC"), (365, "Asia/Kathmandu")):
            hours = httpx.get(f"{service.url}{PREFIX}/peak-hours?days={days}&tz={tz}", timeout=60)
            counted = sum(hour["events_count"] for hour in hours.json()["items"])
            if counted != load.stored + warm.stored:
                load.faults.append(f"{counted} counted, {load.stored + warm.stored} stored")
        if "Traceback" in service.log:
            load.faults.append(service.log[-2000:])
    return samples, load


def grown(samples: list[Sample]) -> list[str]:
    """What is held more at the end than at the beginning: medians of a third of the samples."""
    third = max(1, len(samples) // 3)
    first, last = samples[:third], samples[-third:]

    def more(of: Callable[[Sample], float]) -> float:
        return _median([of(one) for one in last]) - _median([of(one) for one in first])

    found = []
    if more(lambda one: one.memory) > MORE_MEMORY_MIB:
        found.append(f"{more(lambda one: one.memory):.0f} MiB more memory")
    for what, of in (("threads", lambda one: one.threads), ("files", lambda one: one.files)):
        if more(of) > MORE_HANDLES:
            found.append(f"{more(of):.0f} more {what}")
    return found


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, load = soak(Path(folder), flags.minutes * 60, 5, flags.seed, _WARM_UP_SECONDS)
    print("memory MiB  threads  files")
    for one in samples[:: max(1, len(samples) // 20)]:
        print(f"{one.memory:>10.0f} {one.threads:>8} {one.files:>6}")
    print(f"{load.requests} requests, {load.stored} events stored")
    wrong = [*grown(samples), *load.faults[:10]]
    print("\n".join(wrong) or "nothing grew, and every event is counted once")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
