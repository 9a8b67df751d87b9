"""How fast batches are written, and queries answered, on the embedded engine and over the wire.

    python -m benchmarks.engines [--rounds N]

The server is the endpoint of the tests (tests/support/native_server.py): the same engine, behind a
socket and some Python. A real server has no Python there, and a machine of its own. Both sides take
turns, on tables that grow alike.
"""

import asyncio
import random
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
from app.services.movies import Movies
from benchmarks.harness import Measured, compared, standalone
from tests.support.native_server import native_server

# In each round.
TIMES = 6
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


async def milliseconds(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return (time.perf_counter() - began) * 1000


def measure(rounds: int) -> list[Measured]:
    with tempfile.TemporaryDirectory() as scratch:
        return asyncio.run(_measure(rounds * TIMES, Path(scratch)))


async def _measure(times: int, folder: Path) -> list[Measured]:
    dice = random.Random(1)
    rows = []
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
            services = [
                AnalyticsService(store, lambda: datetime.now(UTC), Movies(store, lambda: 0))
                for store, _ in opened
            ]
            for size in SIZES:
                taken: tuple[list[float], list[float]] = ([], [])
                for _ in range(times):
                    events = Events.of(batch(dice, size))
                    for (_, writer), found in zip(opened, taken, strict=True):
                        found.append(await milliseconds(lambda: writer.write(events)))  # noqa: B023
                rows.append(compared(f"write {size:,} events", "over the wire", "ms", *taken))
            for name, ask in QUERIES.items():
                taken = ([], [])
                for _ in range(times):
                    for service, found in zip(services, taken, strict=True):
                        found.append(await milliseconds(lambda: ask(service)))  # noqa: B023
                rows.append(compared(name, "over the wire", "ms", *taken))
    return rows


QUERIES: dict[str, Callable[[AnalyticsService], Awaitable[object]]] = {
    "popular, 30 days": lambda service: service.get_popular_content(30, "UTC", 10),
    "trends, 30 days": lambda service: service.get_viewing_trends(30, "Europe/Berlin"),
    "a user, 30 days": lambda service: service.get_user_stats(USERS[0], 30, "UTC"),
}


if __name__ == "__main__":
    standalone(__doc__, measure)
