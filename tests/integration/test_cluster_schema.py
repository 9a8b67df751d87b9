"""What a cluster answers whose shards have different rows, and a schema that is hard to read.

The tables on the nodes are those of the schema, of the engines without `Replicated`, which need
Keeper. In the place of Distributed tables, which here reach no other engine, stand views over the
tables of two databases: the shards. test_cluster.py has real Distributed tables.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from app.core.block import Column
from app.core.clickhouse_client import ClickHouseClient, Row, load_query, open_clickhouse
from app.core.config import Settings
from app.core.errors import ConfigurationError
from app.core.schema import SQL_FOLDER, schema_statements
from app.ingest.rollups import load_rollups, repair_statement
from tests.conftest import opened_store

CLUSTER = "two"
SHARDS = FIRST, SECOND = "analytics", "second"
DAY = 1_800_000_000 // 86_400 * 86_400
EVERY_BATCH = {"first_batch": 0, "last_batch": 2**64 - 1}

# Three batches, the same wherever they are made; of some users all rows are on one of two shards.
EVENTS = f"""
    SELECT
        reinterpretAsUUID(sipHash128(number))                                       AS id,
        reinterpretAsUUID(sipHash128('user', number * 7 % 31))                      AS user_id,
        reinterpretAsUUID(sipHash128('movie', number * 5 % 13))                     AS movie_id,
        ['start', 'progress', 'finish'][1 + sipHash64(number) % 3]                  AS event_type,
        toDateTime({DAY} + number * 997 % (20 * 86400), 'UTC')                      AS event_time,
        number % 7200                                                               AS position,
        if(number % 3 = 0, NULL, reinterpretAsUUID(sipHash128(intDiv(number, 40)))) AS session_id,
        '{{}}'                                                                      AS metadata,
        1 + intDiv(number, 1000)                                                    AS batch_id
    FROM numbers(3000)
"""
ERASED = """
    SELECT 'salt' AS salt, toString(sipHash64(number)) AS user_hash, number AS fingerprint,
           toDateTime(1800000000) AS erased_at
    FROM numbers(40)
"""
REJECTIONS = """
    SELECT 'stream.start' AS topic, number % 3 AS `partition`, number AS `offset`,
           'not_json' AS reason, '' AS detail, toString(number) AS payload,
           toDateTime(1800000000 + number) AS received_at
    FROM numbers(60)
"""

# Of each film an older row too, with more in it.
FILMS = """
    SELECT DISTINCT reinterpretAsUUID(sipHash128('movie', number % 13)) AS movie_id,
           if(number < 13, 'Film ', 'film ') || toString(number % 13) AS title,
           if(number < 13, 5000, NULL) AS duration_seconds,
           if(number < 13, ['Drama'], []) AS genres,
           NULL AS released, number AS version
    FROM numbers(26)
"""

VALUES: dict[str, Any] = {
    "start": DAY + 86_400 + 900,
    "end": DAY + 15 * 86_400,
    "whole_start": DAY + 2 * 86_400,
    "whole_end": DAY + 15 * 86_400,
    "since": DAY + 2_000,
    "times": [DAY, DAY + 997, DAY + 5 * 997],
    "first_day": "2027-01-17",
    "last_day": "2027-01-30",
    "limit": 5,
    "offset_starts": [0, DAY + 7 * 86_400],
    "offset_seconds": [20_700, 24_300],
    "by_hour": 0,
    "of_movies": 0,
    "minutes": [15] * 19,
    "days": [1] * 19,
    "begins": [DAY + day * 86_400 + 900 for day in range(19)],
    "after": 0,
    "topic": "stream.start",
    "partition": 1,
    "first": 0,
    "last": 100,
    "mark": "none",
    "id_digits": "1",
    "after_time": 0,
    "after_id": UUID(int=0),
    "text": "ILM 1",
    "after_title": "film 10",
    "after_movie": "",
    "block_minutes": 15,
    "hours": list(range(0, 168, 5)),
    "step": 300,
    "last_position": 7000,
    "bucket_seconds": 900,
}
# Asked of the node itself, not of the tables that stand for all of them.
OF_THE_NODE = {
    "active_partitions", "database_identity", "old_parts", "retention", "row_bytes",
    "running_statements",
    "tables_named", "unfilled_rollups", "wait_on_server", "write_lease",
}  # fmt: skip
QUERIES = sorted({path.stem for path in SQL_FOLDER.glob("queries/*.sql")} - OF_THE_NODE)


@asynccontextmanager
async def plain(path: Path) -> AsyncIterator[ClickHouseClient]:
    async with opened_store(path) as store:
        await fill(store, schema_statements(FIRST, None))
        yield store


@asynccontextmanager
async def two_shards(path: Path) -> AsyncIterator[ClickHouseClient]:
    store = open_clickhouse(Settings(_env_file=None, clickhouse_path=path))
    try:
        await store.connect()
        await store.ensure_database()
        await store.execute(f"CREATE DATABASE {SECOND}")
        for number, database in enumerate(SHARDS):
            rendered = [
                re.sub(r"ENGINE = Replicated(\w+)\(.*?\)", r"ENGINE = \1", one).replace(
                    f" ON CLUSTER `{CLUSTER}`", ""
                )
                for one in schema_statements(database, CLUSTER)
                if "ENGINE = Distributed" not in one
            ]
            await fill(store, rendered, number)
        distributed = re.compile(r"`\.(\w+) .*\sENGINE = Distributed\(.*, '(\w+_local)', ")
        for one in schema_statements(FIRST, CLUSTER):
            for name, local in distributed.findall(one):
                await store.execute(
                    f"CREATE VIEW {name} AS SELECT * FROM {FIRST}.{local}"
                    f" UNION ALL SELECT * FROM {SECOND}.{local}"
                )
        yield store
    finally:
        await store.close()


async def fill(store: ClickHouseClient, schema: Sequence[str], shard: int | None = None) -> None:
    """The events and rejections of a shard; two rollups lack the last batch, as if torn."""
    prefix, suffix = ("", "") if shard is None else (f"{SHARDS[shard]}.", "_local")

    async def insert(table: str, rows: str, key: str) -> None:
        share = "1" if shard is None else f"cityHash64({key}) % 2 = {shard}"
        await store.execute(
            f"INSERT INTO {prefix}{table}{suffix} SELECT * FROM ({rows}) WHERE {share}"
        )

    for statement in schema:
        await store.execute(statement)
    await insert("viewing_events", f"SELECT * FROM ({EVENTS}) WHERE batch_id < 3", "user_id")
    for view in ("traffic_mv", "audience_mv"):
        await store.execute(f"DROP VIEW {prefix}{view}{suffix}")
    await insert("viewing_events", f"SELECT * FROM ({EVENTS}) WHERE batch_id = 3", "user_id")
    for statement in schema:
        await store.execute(statement)
    await insert("erased_users", ERASED, "user_hash")
    await insert("movies", FILMS, "movie_id")
    await insert("rejected_events", REJECTIONS, "topic, `partition`, `offset`, cityHash64(payload)")


async def answers(store: ClickHouseClient) -> dict[str, list[Row]]:
    """Of every query, in an order that is always the same."""
    events = await store.execute(
        "SELECT id, user_id, movie_id, toUnixTimestamp(event_time) AS time"
        f" FROM ({EVENTS}) WHERE event_time < {DAY + 9000}"
    )
    ids = [row["id"] for row in events]
    about = {name: events[0][name] for name in ("user_id", "movie_id")}
    values = VALUES | about | {"ids": [*ids, about["movie_id"]]}
    await store.stage(
        {
            "id": Column("UUID", np.array([list(UUID(one).bytes) for one in ids], np.uint8)),
            "event_time": Column("UInt32", np.array([row["time"] for row in events], np.uint32)),
        }
    )
    return {
        name: sorted(await store.execute(load_query(name), values, ahead=True), key=str)
        for name in QUERIES
    }


async def repair(store: ClickHouseClient, place: str) -> None:
    """As the service does, but for where the rows go: a view takes none."""
    for rollup in await load_rollups(store):
        statement = repair_statement(rollup)
        target = f"INSERT INTO {rollup.table} "
        assert target in statement
        into = place.format(table=rollup.table)
        await store.execute(statement.replace(target, f"INSERT INTO {into} "), EVERY_BATCH)


async def test_shards_together_answer_every_query_as_one_server_does(tmp_path: Path) -> None:
    async with plain(tmp_path / "plain") as store:
        torn = await answers(store)
        await repair(store, "{table}")
        whole = await answers(store)
        rollups = await load_rollups(store)
    # The comparison is of something: there are rows of each query, and there was a batch to repair.
    assert all(whole.values())
    assert {name for name in QUERIES if torn[name] != whole[name]} == {
        "audience", "audience_counted", "audience_total", "audience_total_counted", "peak_hours",
        "totals", "trends", "week_audience", "week_audience_counted", "week_hours",
    }  # fmt: skip

    async with two_shards(tmp_path / "shards") as store:
        for database in SHARDS:
            [row] = await store.execute(f"SELECT count() AS n FROM {database}.viewing_events_local")
            assert row["n"] > 500
        assert await load_rollups(store) == rollups
        assert await answers(store) == torn
        # Which shard a row of the repair goes to makes no difference.
        await repair(store, f"{SECOND}.{{table}}_local")
        assert await answers(store) == whole
        before = await store.execute("SELECT sum(events) AS n FROM traffic")
        await repair(store, f"{FIRST}.{{table}}_local")
        assert (
            await store.execute("SELECT sum(events) AS n FROM traffic") == before == [{"n": 3000}]
        )


@pytest.mark.parametrize("cluster", [None, CLUSTER])
async def test_comments_and_strings_are_not_taken_for_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str | None
) -> None:
    (tmp_path / "schema.sql").write_text(
        "-- A table; it isn't much.\n"
        "CREATE TABLE IF NOT EXISTS odd\n(\n"
        "    a String DEFAULT '-- no; comment \\'; it''s',  -- but this is one; and that's it\n"
        "    b Enum8('x;y' = 1)  /* and; this */\n)\n"
        "ENGINE = MergeTree\nORDER BY (a, cityHash64(b))\nSETTINGS index_granularity = 64;\n\n"
        "-- the end;\n"
    )
    monkeypatch.setattr("app.core.schema.SQL_FOLDER", tmp_path)
    statements = schema_statements("db", cluster)
    assert len(statements) == (1 if cluster is None else 2)
    assert "'-- no; comment \\'; it''s'" in statements[0]
    assert "'x;y'" in statements[0]
    assert not re.search("but this|and; this|much|the end", "".join(statements))
    if cluster:
        assert statements[1].endswith("'odd_local', cityHash64(a, cityHash64(b)))")
    async with opened_store(tmp_path / "store") as store:
        for statement in statements:
            await store.execute(f"EXPLAIN AST {statement}")


def test_a_table_without_an_order_is_an_error_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "schema.sql").write_text(
        "CREATE TABLE IF NOT EXISTS films (id UUID) ENGINE = MergeTree PRIMARY KEY id;"
    )
    monkeypatch.setattr("app.core.schema.SQL_FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match="table films of schema"):
        schema_statements("db", CLUSTER)
