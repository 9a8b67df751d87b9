"""What the service relies on its store for, whichever engine it is."""

import asyncio
from datetime import date
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.core.clickhouse_client import ClickHouseClient
from app.core.config import Settings
from app.core.errors import StoreError, StoreUnavailableError
from app.ingest.rollups import load_rollups, repair_rollup
from tests.conftest import drop_database, opened


@hypothesis_settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
async def test_parameters_arrive_as_they_are(store: ClickHouseClient, text: str) -> None:
    [row] = await store.execute(
        "SELECT {text:String} AS text, {texts:Array(String)} AS texts",
        {"text": text, "texts": [text, "'"]},
    )
    assert row == {"text": text, "texts": [text, "'"]}


async def test_values_come_back_in_their_types(store: ClickHouseClient) -> None:
    [row] = await store.execute(
        "SELECT {id:UUID} AS id, {day:Date} AS day, {big:UInt64} AS big, {ids:Array(UUID)} AS ids",
        {"id": UUID(int=5), "day": date(2026, 2, 28), "big": 2**64 - 1, "ids": [UUID(int=6)]},
    )
    assert row == {
        "id": str(UUID(int=5)),
        "day": "2026-02-28",
        "big": 2**64 - 1,
        "ids": [str(UUID(int=6))],
    }


async def test_queries_run_at_the_same_time(store: ClickHouseClient) -> None:
    slow = asyncio.create_task(store.execute("SELECT sleepEachRow(3)"))
    seen = 0
    while seen == 0 and not slow.done():
        [row] = await store.execute(
            "SELECT countIf(query LIKE '%sleepEachRow(3)%' AND query NOT LIKE '%processes%') AS n"
            " FROM system.processes"
        )
        seen = row["n"]
    assert seen == 1
    assert await store.ping()
    assert not slow.done()
    await slow


async def test_a_wrong_statement_is_an_error_for_good(store: ClickHouseClient) -> None:
    with pytest.raises(StoreError, match="UNKNOWN_TABLE"):
        await store.execute("SELECT * FROM nowhere")


async def test_a_lack_of_memory_is_an_error_for_now(store: ClickHouseClient) -> None:
    with pytest.raises(StoreUnavailableError, match="MEMORY_LIMIT_EXCEEDED"):
        await store.execute(
            "SELECT groupArray(number) FROM numbers(10000000) SETTINGS max_memory_usage = 1000000"
        )


async def test_a_closed_store_says_so(settings: Settings) -> None:
    async with opened(settings) as store:
        pass
    with pytest.raises(StoreUnavailableError):
        await store.execute("SELECT 1")
    assert not await store.ping()


async def test_an_insert_with_a_bad_row_stores_nothing(store: ClickHouseClient) -> None:
    columns = ("id", "user_id", "movie_id", "event_type", "event_time")
    good = (uuid4(), uuid4(), uuid4(), "start", 1_700_000_000)
    with pytest.raises(StoreError):
        await store.insert("viewing_events", columns, [good, (*good[:3], "paused", good[4])])
    assert await store.execute("SELECT id FROM viewing_events") == []


async def test_an_insert_that_the_engine_refuses_is_an_error(store: ClickHouseClient) -> None:
    await store.execute(
        "CREATE TABLE full (n UInt8) ENGINE = MergeTree ORDER BY n"
        " SETTINGS parts_to_throw_insert = 1, parts_to_delay_insert = 100"
    )
    await store.execute("SYSTEM STOP MERGES full")
    await store.insert("full", ["n"], [(1,)])
    with pytest.raises(StoreUnavailableError, match="TOO_MANY_PARTS"):
        await store.insert("full", ["n"], [(2,)])
    assert await store.execute("SELECT n FROM full") == [{"n": 1}]


async def test_an_insert_that_fails_in_a_view_is_an_error(store: ClickHouseClient) -> None:
    await store.execute(
        "CREATE MATERIALIZED VIEW failing TO traffic AS"
        " SELECT now() AS quarter, throwIf(1) AS events FROM viewing_events"
    )
    with pytest.raises(StoreError):
        await store.insert("viewing_events", ["id"], [(UUID(int=1),)])


@pytest.mark.parametrize("text", ["{name:String}", "'; DROP TABLE traffic; --", "\\N", "é\n\t\0"])
async def test_inserted_text_is_data(store: ClickHouseClient, text: str) -> None:
    await store.insert("viewing_events", ["metadata", "event_time"], [(text, 4_000_000_000)])
    assert await store.execute("SELECT metadata FROM viewing_events") == [{"metadata": text}]


async def test_data_survives_a_restart_and_the_schema_a_second_run(settings: Settings) -> None:
    async with opened(settings) as store:
        columns = ("id", "event_time")
        await store.insert("viewing_events", columns, [(UUID(int=1), 4_000_000_000)])
        before = await store.execute("SHOW TABLES")
    async with opened(settings) as store:
        assert await store.execute("SHOW TABLES") == before
        assert await store.execute("SELECT id FROM viewing_events") == [{"id": str(UUID(int=1))}]


@pytest.mark.parametrize("database", ["select", "index", "viewing_events", "UPPER"])
async def test_any_database_name_works(settings: Settings, database: str) -> None:
    place = settings.model_copy(update={"clickhouse_database": database})
    for _ in range(2):
        async with opened(place) as store:
            columns = ("id", "event_time", "event_type", "batch_id")
            await store.insert("viewing_events", columns, [(uuid4(), 1_800_000_000, "start", 1)])
            rollups = await load_rollups(store)
            assert {one.table for one in rollups} == {
                "popular_content", "user_stats", "traffic", "audience",
            }  # fmt: skip
            for rollup in rollups:
                await repair_rollup(store, rollup, 1, 1)
            [row] = await store.execute("SELECT sum(events) AS n FROM traffic")
    await drop_database(place)
    assert row["n"] == 2
