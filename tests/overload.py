"""Ten times the load that the machine can take: `make overload`, or `python -m tests.overload`.

First it is measured how many events a second the service stores for senders that wait for their
answers. Then ten times as many are sent, whether or not they are answered, while others ask for
answers that nobody has computed yet, and send single events, each as fast as it can. All of it runs
on the machine that the service runs on. Meanwhile /livez is asked on connections of its own, and
the service's memory is watched. Afterwards it is asked at once for what it does, and all that it
acknowledged has to be there.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from tests.support.answers import PREFIX
from tests.support.process import Service, running_service

TIMES = 10
BATCH = 500
SENDERS = 2
# Of each sender, at the same time; what is due past that isn't sent, and counted as such.
CONNECTIONS = 700
OTHERS = 100
_MARK = b"_" * 12
_PATIENCE = 30.0
_REPEATED = 40

_spawn = multiprocessing.get_context("spawn")


@dataclass
class Sent:
    """What became of what was sent.

    Attributes:
        stored: numbers of the batches that were acknowledged.
        unknown: of those that were never answered; they may be stored.
        singles: single events that were acknowledged.
        statuses: how many answers of each, of all requests.
        batches: how many were sent.
        unsent: batches that were due, and that the sender itself couldn't send.
    """

    stored: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    singles: int = 0
    unknown_singles: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    unsent: int = 0

    def add(self, other: "Sent") -> None:
        self.stored += other.stored
        self.unknown += other.unknown
        self.singles += other.singles
        self.unknown_singles += other.unknown_singles
        self.statuses.update(other.statuses)
        self.batches += other.batches
        self.unsent += other.unsent


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        capacity: events a second that were stored before.
        offered, sent, stored: events a second of the overload. What is offered and not sent had no
            connection left to be sent on.
        livez_seconds: the slowest answer of /livez meanwhile, connecting included.
        livez_late: how many took over a second, or didn't come; livez_asked: of how many.
        memory_before, memory_most: MiB that the service takes in memory.
        recovered_seconds: from the end of the load until an event and an answer were taken.
        statuses: answers of each status.
    """

    capacity: int
    offered: int
    sent: int
    stored: int
    livez_seconds: float
    livez_late: int
    livez_asked: int
    memory_before: int
    memory_most: int
    recovered_seconds: float
    statuses: dict[str, int]


def template(timestamp: str) -> bytes:
    """A batch as JSON, with marks where its number goes in hexadecimal."""
    dice = random.Random(1)
    events = [
        {
            "event_id": f"{place:08x}-0000-4000-8000-{_MARK.decode()}",
            "user_id": str(UUID(int=dice.randrange(5_000))),
            "movie_id": str(UUID(int=dice.randrange(500))),
            "event_type": "start",
            "timestamp": timestamp,
        }
        for place in range(BATCH)
    ]
    return json.dumps(events).encode()


class Client:
    """A connection that speaks as little HTTP as it takes, and is made anew when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. Raises OSError, EOFError or TimeoutError when there is no answer."""
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
                content = await reader.readexactly(size)
        except (OSError, EOFError, TimeoutError):
            self.close()
            raise
        if b"connection: close" in answer:
            self.close()
        return int(answer[9:12]), content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Sender:
    """Puts load on a service, and keeps account of it."""

    def __init__(self, port: int, timestamp: str, first: int) -> None:
        self.sent = Sent()
        self._port = port
        self._template = template(timestamp)
        self._next = first

    async def batch(self, client: Client) -> None:
        number = self._next
        self._next += 1
        self.sent.batches += 1
        body = self._template.replace(_MARK, b"%012x" % number)
        try:
            status, content = await client.ask("POST", f"{PREFIX}/events/batch", body)
        except (OSError, EOFError, TimeoutError):
            self.sent.statuses["none"] += 1
            self.sent.unknown.append(number)
            return
        self.sent.statuses[str(status)] += 1
        if status == 200:
            assert json.loads(content)["stored"] == BATCH
            self.sent.stored.append(number)

    async def single(self, client: Client) -> None:
        number = self._next
        self._next += 1
        event = {
            "event_id": str(UUID(int=number | 1 << 120)),
            "user_id": str(UUID(int=number % 5_000)),
            "movie_id": str(UUID(int=number % 500)),
            "event_type": "start",
        }
        try:
            status, _ = await client.ask("POST", f"{PREFIX}/events", json.dumps(event).encode())
        except (OSError, EOFError, TimeoutError):
            self.sent.statuses["none"] += 1
            self.sent.unknown_singles += 1
            return
        self.sent.statuses[str(status)] += 1
        self.sent.singles += status == 201

    async def question(self, client: Client) -> None:
        self._next += 1
        path = f"{PREFIX}/user/{UUID(int=self._next % 5_000)}/stats?days={1 + self._next % 365}"
        try:
            status, _ = await client.ask("GET", path)
        except (OSError, EOFError, TimeoutError):
            self.sent.statuses["none"] += 1
            return
        self.sent.statuses[str(status)] += 1

    async def again_and_again(
        self, do: Callable[[Client], Coroutine[Any, Any, None]], clients: int, seconds: float
    ) -> None:
        """So many at a time, each again when it is answered."""
        until = time.monotonic() + seconds

        async def one() -> None:
            client = Client(self._port)
            while time.monotonic() < until:
                await do(client)
            client.close()

        await asyncio.gather(*(one() for _ in range(clients)))

    async def at_a_rate(self, per_second: float, seconds: float) -> None:
        """So many batches a second, whether or not they are answered."""
        began = time.monotonic()
        idle: list[Client] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(client: Client) -> None:
            await self.batch(client)
            idle.append(client)

        due = 0
        while (passed := time.monotonic() - began) < seconds:
            while due < passed * per_second:
                due += 1
                if len(tasks) >= CONNECTIONS:
                    self.sent.unsent += 1
                    continue
                task = asyncio.create_task(one(idle.pop() if idle else Client(self._port)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        for client in idle:
            client.close()


def _measure(port: int, timestamp: str, first: int, seconds: float, results: "Queue[Sent]") -> None:
    sender = Sender(port, timestamp, first)
    asyncio.run(sender.again_and_again(sender.batch, 8, seconds))
    results.put(sender.sent)


def _overload(
    port: int, timestamp: str, first: int, seconds: float, rate: float, results: "Queue[Sent]"
) -> None:
    sender = Sender(port, timestamp, first)

    async def everything() -> None:
        await asyncio.gather(
            sender.at_a_rate(rate, seconds),
            sender.again_and_again(sender.single, OTHERS // 2, seconds),
            sender.again_and_again(sender.question, OTHERS // 2, seconds),
        )

    asyncio.run(everything())
    results.put(sender.sent)


def _run(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> Sent:
    """In processes of their own; all they have sent."""
    results: Queue[Sent] = _spawn.Queue()
    processes = [_spawn.Process(target=target, args=(*one, results)) for one in arguments]
    for process in processes:
        process.start()
    sent = Sent()
    for _ in processes:
        sent.add(results.get(timeout=300))
    for process in processes:
        process.join()
    return sent


class _Watch:
    """Asks /livez four times a second, and looks at the memory of the process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self.livez: list[float] = []
        self.unanswered = 0
        self.memory = _memory(service.pid)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            began = time.monotonic()
            self.unanswered += not _is_alive(self._service.port)
            self.livez.append(time.monotonic() - began)
            self.memory = max(self.memory, _memory(self._service.pid))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _is_alive(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    return False


def _memory(pid: int) -> int:
    """MiB in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def overload(service: Service, seconds: float, measured: float) -> Figures:
    """Put it under load for so many seconds, and hold what it says against what was sent.

    Args:
        measured: how many seconds are measured before.
    """
    now = datetime.now(UTC).isoformat()
    before = _run(_measure, [(service.port, now, 1 << 40, measured)])
    capacity = len(before.stored) * BATCH / measured
    memory_before = _memory(service.pid)
    watch = _Watch(service)
    rate = TIMES * capacity / BATCH / SENDERS
    arguments = [(service.port, now, place << 32, seconds, rate) for place in range(1, SENDERS + 1)]
    during = _run(_overload, arguments)
    ended = time.monotonic()
    _recover(service)
    recovered = time.monotonic() - ended
    watch.stop()

    with httpx.Client(base_url=service.url, timeout=60) as client:
        # No more than was sent, and nothing less than was acknowledged.
        sure = (len(before.stored) + len(during.stored)) * BATCH + during.singles + 1
        perhaps = len(during.unknown) * BATCH + during.unknown_singles
        days = client.get(f"{PREFIX}/trends?days=2").json()["items"]
        assert sure <= sum(day["starts"] for day in days) <= sure + perhaps
        # What is there already is a duplicate: all of each batch.
        dice = random.Random(1)
        text = template(now)
        for number in dice.sample(during.stored, min(_REPEATED, len(during.stored))):
            body = text.replace(_MARK, b"%012x" % number)
            receipt = client.post(f"{PREFIX}/events/batch", content=body).json()
            assert receipt["duplicates"] == BATCH
        after = client.get(f"{PREFIX}/trends?days=2").json()["items"]
        assert [day["starts"] for day in after] == [day["starts"] for day in days]

    return Figures(
        capacity=round(capacity),
        offered=round((during.batches + during.unsent) * BATCH / seconds),
        sent=round(during.batches * BATCH / seconds),
        stored=round((len(during.stored) * BATCH + during.singles) / seconds),
        livez_seconds=round(max(watch.livez), 3),
        livez_late=sum(one > 1 for one in watch.livez) + watch.unanswered,
        livez_asked=len(watch.livez),
        memory_before=memory_before,
        memory_most=watch.memory,
        recovered_seconds=round(recovered, 3),
        statuses=dict(sorted(during.statuses.items())),
    )


def _recover(service: Service) -> None:
    """Until an event is stored and an answer computed."""
    event = {
        "event_id": str(UUID(int=1)),
        "user_id": str(UUID(int=1)),
        "movie_id": str(UUID(int=1)),
        "event_type": "start",
        "timestamp": datetime.now(UTC).isoformat(),
    }
    with httpx.Client(base_url=service.url, timeout=60) as client:
        deadline = time.monotonic() + 60
        while client.post(f"{PREFIX}/events", json=event).status_code not in (200, 201):
            assert time.monotonic() < deadline
        while client.get(f"{PREFIX}/trends?days=2").status_code != 200:
            assert time.monotonic() < deadline


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--measured", type=float, default=10.0)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder) / "store") as service,
    ):
        figures = overload(service, chosen.seconds, chosen.measured)
        for name, value in asdict(figures).items():
            print(f"{name:20} {value}")
        assert "Traceback" not in service.log, service.log[-3000:]
    return 0


if __name__ == "__main__":
    sys.exit(main())
