"""The schema on a cluster: what it says, that it parses, and what it answers over two shards."""

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.clickhouse_client import ClickHouseClient, load_query
from app.core.config import Settings
from app.core.errors import AnalyticsError, ConfigurationError
from app.core.schema import SQL_FOLDER, database_statement, schema_statements
from app.ingest.events import Events
from app.ingest.rollups import load_rollups, repair_rollup
from tests.conftest import PASSWORD, opened, running
from tests.integration.test_writer import event, refusing, started, write
from tests.support.answers import PREFIX, assert_answers
from tests.support.consistency import assert_rollups_match
from tests.support.kills import USERS, make_batch
from tests.support.native_server import NativeServer, native_server
from tests.support.oracle import Truth

DATABASE = "analytics"
CLUSTER = "all-shards"
RENDERED = [database_statement(DATABASE, CLUSTER), *schema_statements(DATABASE, CLUSTER)]
TABLES = (
    "viewing_events", "popular_content", "user_stats", "traffic", "audience", "rejected_events",
    "erased_users",
    "movies",
)  # fmt: skip


@pytest.fixture
def engine() -> str:
    return "embedded"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeServer]:
    path = tmp_path_factory.mktemp("clusters") / "store"
    with native_server(path, PASSWORD, clustered=True) as started:
        yield started


def on_cluster(server: NativeServer, cluster: str) -> Settings:
    return Settings(
        _env_file=None,
        clickhouse_cluster=cluster,
        clickhouse_database=f"db_{uuid4().hex[:8]}",
        enable_kafka=False,
        **server.settings,
    )


@pytest.mark.parametrize("statement", RENDERED, ids=lambda one: one[27:70])
async def test_every_statement_is_for_the_whole_cluster_and_parses(
    store: ClickHouseClient, statement: str
) -> None:
    assert f"ON CLUSTER `{CLUSTER}`" in statement
    assert "IF NOT EXISTS" in statement
    await store.execute(f"EXPLAIN AST {statement}")


VALUES = {"UUID": str(UUID(int=1)), "Date": "2026-01-01", "DateTime": 1_800_000_000, "String": "x"}


def values_for(sql: str) -> dict[str, Any]:
    """Some for the parameters of a query."""
    values: dict[str, Any] = {}
    for name, kind in re.findall(r"\{(\w+):([^}]+)\}", sql):
        inner = re.sub(r"Array\((.*)\)", r"\1", kind)
        value = VALUES.get(inner.partition("(")[0], 1)
        values[name] = value if inner == kind else [value]
    return values


async def test_every_query_runs_on_more_than_one_shard(server: NativeServer) -> None:
    async with opened(on_cluster(server, "two")) as store, started(store) as writer:
        await write(writer, [event()])
        await store.stage(Events.of([event()]).block(1))
        for path in sorted(SQL_FOLDER.glob("queries/*.sql")):
            sql = load_query(path.stem)
            await store.execute(f"EXPLAIN AST {sql}", values_for(sql), ahead=True)
            await store.execute(sql, values_for(sql), ahead=True)
        for rollup in await load_rollups(store):
            await repair_rollup(store, rollup, 0, 2**64 - 1)
        # Each shard is the same node here: whatever is there is found twice.
        assert await store.execute("SELECT sum(events) AS n FROM traffic_mv") == [{"n": 2}]


def test_each_table_is_replicated_on_the_nodes_and_distributed_over_them() -> None:
    plain = [
        (found["name"], found["engine"])
        for statement in schema_statements(DATABASE, None)
        if (found := re.search(r"TABLE IF NOT EXISTS (?P<name>\w+).*ENGINE = (?P<engine>\w+)",
                               statement, re.DOTALL))
    ]  # fmt: skip
    assert tuple(name for name, _ in plain) == TABLES
    for name, engine in plain:
        [local] = [one for one in RENDERED if f" `{DATABASE}`.{name}_local ON CLUSTER" in one]
        assert (
            f"ENGINE = Replicated{engine}"
            "('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')" in local
        )
    engines = {
        found["name"]: found["engine"]
        for one in RENDERED
        if (found := re.search(r"`\.(?P<name>\w+) .*ENGINE = (?P<engine>Distr.*)", one, re.DOTALL))
    }  # fmt: skip
    keys = {
        "viewing_events": "cityHash64(user_id)",
        "user_stats": "cityHash64(user_id)",
        "popular_content": "cityHash64(event_date, movie_id)",
        "traffic": "cityHash64(quarter)",
        "audience": "cityHash64(minutes, days, begin)",
        "rejected_events": "cityHash64(topic, `partition`, `offset`, cityHash64(payload))",
        "erased_users": "cityHash64(user_hash)",
        "movies": "cityHash64(movie_id)",
    }
    views = ("popular_content", "user_stats", "traffic", "audience")
    assert engines == {
        **{n: f"Distributed('{CLUSTER}', '{DATABASE}', '{n}_local', {k})" for n, k in keys.items()},
        **{
            f"{n}_mv": f"Distributed('{CLUSTER}', '{DATABASE}', '{n}_local', rand())" for n in views
        },
    }


def test_without_a_cluster_the_schema_is_as_it_is_written() -> None:
    statements = schema_statements(DATABASE, None)
    assert len(statements) == 12
    assert not any("_local" in one or "CLUSTER" in one or "--" in one for one in statements)


def test_what_has_no_form_for_a_cluster_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "schema.sql").write_text("CREATE DICTIONARY films (id UUID) PRIMARY KEY id;\n")
    monkeypatch.setattr("app.core.schema.SQL_FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match="CREATE DICTIONARY films"):
        schema_statements(DATABASE, CLUSTER)


async def test_a_cluster_that_would_store_events_twice_is_refused(server: NativeServer) -> None:
    with pytest.raises(ConfigurationError, match="internal_replication"):
        async with opened(on_cluster(server, "doubling")):
            pass


@pytest.mark.parametrize("first", ["one", None])
async def test_tables_of_the_other_kind_are_refused(
    server: NativeServer, first: str | None
) -> None:
    made = on_cluster(server, "one").model_copy(update={"clickhouse_cluster": first})
    async with opened(made):
        pass
    other = made.model_copy(update={"clickhouse_cluster": None if first else "one"})
    with pytest.raises(ConfigurationError, match="CLICKHOUSE_CLUSTER: the tables of the database"):
        async with opened(other):
            pass


@pytest.mark.parametrize("tz", ["UTC", "Asia/Kathmandu"])
async def test_the_answers_of_distributed_tables_are_the_truth(
    server: NativeServer, tz: str
) -> None:
    now = datetime.now(UTC)
    batches = [make_batch(random.Random(number), 80) for number in range(6)]
    async with running(on_cluster(server, "one"), lambda: now) as (_, client):
        stored = 0
        for batch in [*batches, *batches]:
            answer = await client.post(f"{PREFIX}/events/batch", json=batch)
            stored += answer.json()["stored"]
        assert stored == 6 * 80
        truth = Truth([one for batch in batches for one in batch], now)
        await assert_answers(client, truth, USERS, 90, tz)


async def test_what_is_torn_behind_distributed_tables_is_repaired(server: NativeServer) -> None:
    async with opened(on_cluster(server, "one")) as store:
        async with started(store) as writer:
            await write(writer, [event() for _ in range(50)])
            torn = [event() for _ in range(50)]
            async with refusing(store, "traffic", "_mv_local"):
                with pytest.raises(AnalyticsError):
                    await write(writer, torn)
            with pytest.raises(AssertionError):
                await assert_rollups_match(store)
            await write(writer, torn)
        await assert_rollups_match(store)
        [row] = await store.execute("SELECT count() AS n, uniqExact(id) AS ids FROM viewing_events")
        assert row == {"n": 100, "ids": 100}
