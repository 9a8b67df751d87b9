"""How fast batches are written, and queries answered, on the embedded engine and over the wire.

    python -m benchmarks.engines [--rounds N]

The server is the endpoint of the tests (tests/support/native_server.py): the same engine, behind a
socket and some Python. A real server has no Python there, and a machine of its own. Both sides take
turns in one run, on tables that grow alike; what counts is the ratio.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from app.ingest.events import Event, Events
from app.ingest.writer import Writer, opened_writer
from app.schemas.events import EventType
from app.services.analytics_service import AnalyticsService
from tests.support.native_server import native_server

SIZES = (1, 100, 1_000, 10_000)
USERS = [UUID(int=n * 7919) for n in range(1, 3_000)]
MOVIES = [UUID(int=n * 104_729) for n in range(1, 500)]


def batch(dice: random.Random, size: int) -> list[Event]:
    """Events of the last hour, each with an id of its own."""
    now = int(time.time())
    return [
        Event(
            id=UUID(int=dice.getrandbits(128)),
            user_id=dice.choice(USERS),
            movie_id=dice.choice(MOVIES),
            event_type=dice.choice(list(EventType)),
            event_time=now - dice.randrange(3600),
            position_seconds=dice.randrange(7200),
            session_id=None,
            metadata="{}",
            repeats_any_of_day=False,
        )
        for _ in range(size)
    ]


async def seconds(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began


async def measure(rounds: int, folder: Path) -> None:
    dice = random.Random(1)
    with native_server(folder / "server") as server:
        places = (
            Settings(_env_file=None, clickhouse_path=folder / "embedded"),
            Settings(_env_file=None, **server.settings),
        )
        async with AsyncExitStack() as stack:
            opened: list[tuple[ClickHouseClient, Writer]] = [
                await stack.enter_async_context(opened_writer(one, lambda: datetime.now(UTC)))
                for one in places
            ]
            print(f"{'what':24}{'embedded':>12}{'server':>12}{'ratio':>8}")
            for size in SIZES:
                batches = [batch(dice, size) for _ in range(rounds)]
                times = [
                    [await seconds(lambda: writer.write(Events.of(one))) for one in batches]  # noqa: B023
                    for _, writer in opened
                ]
                show(f"write {size:,} events", times)
            services = [AnalyticsService(store, lambda: datetime.now(UTC)) for store, _ in opened]
            for name, ask in QUERIES.items():
                times = [
                    [await seconds(lambda: ask(service)) for _ in range(rounds)]  # noqa: B023
                    for service in services
                ]
                show(name, times)


QUERIES: dict[str, Callable[[AnalyticsService], Awaitable[object]]] = {
    "popular, 30 days": lambda service: service.get_popular_content(30, "UTC", 10),
    "trends, 30 days": lambda service: service.get_viewing_trends(30, "Europe/Berlin"),
    "a user, 30 days": lambda service: service.get_user_stats(USERS[0], 30, "UTC"),
}


def show(name: str, times: list[list[float]]) -> None:
    embedded, server = (statistics.median(one) * 1000 for one in times)
    print(f"{name:24}{embedded:9.1f} ms{server:9.1f} ms{server / embedded:8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(parser.parse_args().rounds, Path(scratch)))
