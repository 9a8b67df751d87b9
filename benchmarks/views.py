"""What each view and each projection costs a write.

    python -m benchmarks.views [--rounds N]

Measured is a write of 10,000 events of the last hour, look-up of repeats included, into a store
with everything against one without that view, or that projection; and without any. Each value is
the median of several writes into a store of its own. What they gain is seen in
benchmarks/other_stores.py, where the same questions are asked of the events alone.
"""

import asyncio
import random
import statistics
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from app.core.config import Settings
from app.ingest.events import Events
from app.ingest.writer import opened_writer
from benchmarks.engines import batch, milliseconds
from benchmarks.harness import Measured, compared, in_turns, standalone

EVENTS = 10_000
WARM_UP_WRITES = 3
WRITES = 12

_ALL = """
SELECT name, 'DROP VIEW ' || name AS removal
FROM system.tables
WHERE database = currentDatabase() AND engine = 'MaterializedView'
ORDER BY name
UNION ALL
SELECT name, 'ALTER TABLE viewing_events DROP PROJECTION ' || name AS removal
FROM system.projections
WHERE database = currentDatabase() AND table = 'viewing_events'
ORDER BY name
"""


async def removals() -> dict[str, list[str]]:
    """Of each view and projection, and of all of them, the statements that remove it."""
    with tempfile.TemporaryDirectory() as scratch:
        async with opened_writer(_settings(scratch), _now) as (store, _):
            each = {row["name"]: [row["removal"]] for row in await store.execute(_ALL)}
    return {**each, "any": [removal for [removal] in each.values()]}


async def write(without: list[str]) -> float:
    """Milliseconds of a write."""
    dice = random.Random()
    with tempfile.TemporaryDirectory() as scratch:
        async with opened_writer(_settings(scratch), _now) as (store, writer):
            for removal in without:
                await store.execute(removal)
            took = []
            for _ in range(WARM_UP_WRITES + WRITES):
                events = Events.of(batch(dice, EVENTS))
                took.append(await milliseconds(partial(writer.write, events)))
    return statistics.median(took[WARM_UP_WRITES:])


def _settings(folder: str) -> Settings:
    return Settings(_env_file=None, clickhouse_path=Path(folder) / "store")


def _now() -> datetime:
    return datetime.now(UTC)


def measure(rounds: int) -> list[Measured]:
    return [
        compared(
            f"write {EVENTS:,} events",
            f"without {name}",
            "ms",
            *in_turns(
                rounds,
                lambda: asyncio.run(write([])),
                lambda: asyncio.run(write(statements)),  # noqa: B023 - run at once
            ),
        )
        for name, statements in asyncio.run(removals()).items()
    ]


if __name__ == "__main__":
    standalone(__doc__, measure)
