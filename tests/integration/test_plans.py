"""What an answer reads depends on its days, not on how many events there are: by its plans."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.core.clickhouse_client import ClickHouseClient
from app.services import films, totals
from app.services.analytics_service import AnalyticsService
from app.services.movies import Movies
from tests.conftest import NOW, opened_store

USER = UUID(int=7 << 64 | 7)
DAYS = 30
SIZES = (50_000, 500_000)
ZONES = ("UTC", "Asia/Kolkata")


async def fill(store: ClickHouseClient, events: int) -> None:
    """Over the same films, users and quarters of an hour, whatever the number."""
    await store.execute(
        "INSERT INTO viewing_events"
        " SELECT generateUUIDv4(number), reinterpretAsUUID(toUInt128(number % 5000)),"
        "   reinterpretAsUUID(sipHash128(number % 50)),"
        "   CAST(1 + number % 3, 'Enum8(\\'start\\' = 1, \\'progress\\' = 2, \\'finish\\' = 3)'),"
        "   {now:UInt32} - number % 2880 * 900, number % 7200, NULL, '{}', 1"
        f" FROM numbers({events})"
        " SETTINGS max_insert_block_size = 1000000, min_insert_block_size_rows = 1000000",
        {"now": int(NOW.timestamp())},
    )
    for table in ("viewing_events", "popular_content", "user_stats", "traffic", "audience"):
        await store.execute(f"OPTIMIZE TABLE {table} FINAL")


class Asked:
    """A store that keeps what it is asked."""

    def __init__(self, store: ClickHouseClient) -> None:
        self._store = store
        self.queries: list[tuple[str, Any]] = []

    async def execute(self, sql: str, parameters: Any) -> Any:
        self.queries.append((sql, parameters))
        return await self._store.execute(sql, parameters)


async def rows_to_read(store: ClickHouseClient, tz: str) -> dict[str, int]:
    """Of each answer: the rows that its queries select by their keys and indexes."""
    counts = {}
    [film] = await store.execute("SELECT any(movie_id) AS id FROM popular_content_mv")
    asked = Asked(store)
    service = AnalyticsService(asked, lambda: NOW, Movies(store, lambda: 0))  # type: ignore[arg-type]
    answers = {
        "user": service.get_user_stats(USER, DAYS, tz),
        "trends": service.get_viewing_trends(DAYS, tz),
        "peak hours": service.get_peak_hours(DAYS, tz),
        "popular": service.get_popular_content(DAYS, tz, 10, True),
        "overview": totals.overview(service, DAYS, tz, True),
        "heatmap": totals.heatmap(service, DAYS, tz),
        "a user's films": totals.user_movies(service, USER, DAYS, tz),
        "a film's days": films.film_trends(service, UUID(film["id"]), DAYS, tz),
    }
    for name, answer in answers.items():
        asked.queries.clear()
        await answer
        counts[name] = 0
        for sql, parameters in asked.queries:
            if "FROM viewing_events" in sql:  # whose projections the estimate leaves out
                lines = await store.execute(f"EXPLAIN {sql}", parameters)
                text = str(lines)
                assert "(by_user)" in text or "(films_by_quarter)" in text, lines
                assert "viewing_events)" not in text, lines
            plan = await store.execute(f"EXPLAIN ESTIMATE {sql}", parameters)
            counts[name] += sum(row["rows"] for row in plan)
    return counts


@pytest.mark.parametrize("tz", ZONES)
async def test_ten_times_the_events_are_not_more_to_read(tmp_path: Path, tz: str) -> None:
    few: dict[str, int] = {}
    many: dict[str, int] = {}
    for size, counts in zip(SIZES, (few, many), strict=True):
        async with opened_store(tmp_path / str(size)) as store:
            await fill(store, size)
            counts |= await rows_to_read(store, tz)
    # A granule or two more of a user's rows; nothing else may grow with the events.
    for name, rows in many.items():
        assert rows < 1.5 * few[name] + 2 * 8192, name
    assert all(few[name] for name in ("trends", "peak hours", "popular", "overview", "heatmap"))
