"""How many bytes of disk an event takes, and where.

    BENCH_STORES=DIR python -m benchmarks.disk

In a store of 10 million events (BENCH_EVENTS) whose merges are done: each column of viewing_events,
all of them together, its primary index, skip indexes and projections, and the rollups, as the
engine counts its files. Small parts have all columns in one file; so the columns are those of the
other parts, by the events in these. A store of a million events has none.

The engine's counters are exact, so there is one round, whatever `--rounds` says.
"""

import os

from benchmarks.dataset import ask, kept_stores
from benchmarks.harness import Measured, figure, standalone

EVENTS = int(os.environ.get("BENCH_EVENTS", "10000000"))
TARGET_BYTES = 30

# Part types: Wide has a file for each column, Compact one for all.
_COLUMNS = """
SELECT column AS name, sum(column_bytes_on_disk) / sum(rows) AS bytes
FROM system.parts_columns
WHERE active AND database = currentDatabase() AND table = 'viewing_events' AND part_type = 'Wide'
GROUP BY column
ORDER BY bytes DESC
"""

_INDEXES = """
SELECT 'primary index' AS name, sum(primary_key_size) / sum(rows) AS bytes
FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'viewing_events'
UNION ALL
SELECT
    'index ' || name,
    (data_compressed_bytes + marks_bytes) / (SELECT count() FROM viewing_events)
FROM system.data_skipping_indices
WHERE database = currentDatabase() AND table = 'viewing_events'
"""

_PROJECTIONS = """
SELECT
    'projection ' || name AS name,
    sum(bytes_on_disk) / (SELECT count() FROM viewing_events) AS bytes
FROM system.projection_parts
WHERE active AND database = currentDatabase() AND table = 'viewing_events'
GROUP BY name
ORDER BY bytes DESC
"""

_TABLES = """
SELECT table AS name, sum(bytes_on_disk) / (SELECT count() FROM viewing_events) AS bytes
FROM system.parts
WHERE active AND database = currentDatabase()
GROUP BY table
ORDER BY bytes DESC
"""


def measure(rounds: int) -> list[Measured]:  # noqa: ARG001
    with kept_stores(EVENTS) as [path]:
        columns, indexes, projections, tables = [
            {row["name"]: row["bytes"] for row in ask(path, query)}
            for query in (_COLUMNS, _INDEXES, _PROJECTIONS, _TABLES)
        ]
    of_events = {
        **{f"column {name}": size for name, size in columns.items()},
        **indexes,
        **projections,
    }
    raw = sum(columns.values())
    return [
        _row("viewing_events, all columns", raw, f"≤ {TARGET_BYTES} bytes", raw <= TARGET_BYTES),
        *(_row(f"viewing_events, {name}", size) for name, size in of_events.items()),
        *(_row(f"{name}, everything", size) for name, size in tables.items()),
        _row("all tables", sum(tables.values())),
    ]


def _row(work: str, size: float, target: str = "", met: bool | None = None) -> Measured:
    return Measured(work, figure(size, "bytes an event"), "", "", None, None, target, met)


if __name__ == "__main__":
    standalone(__doc__, measure)
