"""What holds for the embedded engine alone."""

import asyncio
import os
import random
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from app.core.clickhouse_embedded import EmbeddedClickHouse
from app.core.config import Settings
from app.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from tests.conftest import NOW, opened_store, running
from tests.support.answers import PREFIX, assert_answers
from tests.support.consistency import assert_rollups_match
from tests.support.kills import USERS, flat, make_batch
from tests.support.oracle import Truth
from tests.support.process import ROOT

OPEN_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from uuid import uuid4
from app.core.clickhouse_embedded import EmbeddedClickHouse
store = EmbeddedClickHouse(Path(sys.argv[1]), "analytics")
asyncio.run(store.connect())
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("fsync", [False, True])
async def test_every_table_follows_the_fsync_setting(tmp_path: Path, fsync: bool) -> None:
    for setting in (not fsync, fsync):
        store = EmbeddedClickHouse(tmp_path / "store", "analytics", fsync=setting)
        await store.connect()
        await store.ensure_database()
        await store.ensure_tables()
        tables = await store.execute(
            "SELECT name, engine_full FROM system.tables"
            " WHERE database = 'analytics' AND engine LIKE '%MergeTree'"
        )
        await store.close()
    assert {table["name"] for table in tables} == {
        "viewing_events", "popular_content", "user_stats", "traffic", "audience", "rejected_events",
        "erased_users",
        "movies",
    }  # fmt: skip
    for table in tables:
        for name in ("after_insert", "part_directory"):
            assert f"fsync_{name} = {int(fsync)}" in table["engine_full"]
        assert f"min_rows_to_fsync_after_merge = {int(fsync)}" in table["engine_full"]
        assert "old_parts_lifetime = 60" in table["engine_full"]
        assert "min_bytes_for_full_part_storage = 10485760" in table["engine_full"]


async def test_a_second_process_is_told_in_one_line(tmp_path: Path) -> None:
    other = subprocess.Popen(  # noqa: ASYNC220 - it only has to live meanwhile
        [sys.executable, "-c", OPEN_AND_WAIT, str(tmp_path / "store")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        store = EmbeddedClickHouse(tmp_path / "store", "analytics")
        with pytest.raises(ConfigurationError, match="in use by another process") as raised:
            await store.connect()
        await store.close()
        assert "\n" not in str(raised.value)
        other.kill()
    async with opened_store(tmp_path / "store") as freed:
        assert await freed.ping()


async def test_a_path_that_is_no_directory_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = EmbeddedClickHouse(tmp_path / "file", "analytics")
    with pytest.raises(ConfigurationError, match="CLICKHOUSE_PATH") as raised:
        await store.connect()
    await store.close()
    assert "\n" not in str(raised.value)


async def test_the_database_may_be_the_one_that_is_always_there(tmp_path: Path) -> None:
    for _ in range(2):
        store = EmbeddedClickHouse(tmp_path / "store", "default")
        await store.connect()
        await store.ensure_database()
        await store.ensure_tables()
        await store.insert("viewing_events", ["id", "event_time"], [(uuid4(), 1_800_000_000)])
        [row] = await store.execute("SELECT sum(events) AS n FROM traffic")
        await store.close()
    assert row["n"] == 2


# Some rows, and then an error.
HALF = (
    "SELECT throwIf(number = 2000, 'half-way') AS a FROM numbers(9000) SETTINGS max_block_size = 99"
)


async def test_rows_of_a_query_that_failed_are_in_no_other_answer(tmp_path: Path) -> None:
    async with opened_store(tmp_path / "store") as store:
        for ahead in (False, True):
            for _ in range(20):
                with pytest.raises(StoreError, match="half-way"):
                    await store.execute(HALF, ahead=ahead)
            answers = [store.execute("SELECT 1 AS one", ahead=ahead) for _ in range(20)]
            assert await asyncio.gather(*answers) == [[{"one": 1}]] * 20
        before = handles()
        for _ in range(50):
            with pytest.raises(StoreError, match="half-way"):
                await store.execute(HALF)
        assert handles() <= before + 5  # connections are made anew, and not kept


def handles() -> int:
    """Open files and threads of this process."""
    return len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))


async def test_a_merge_that_the_disk_refused_loses_nothing(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, clickhouse_path=tmp_path / "store", enable_kafka=False)
    dice = random.Random(12)
    batches = [make_batch(dice, 40, days=1) for _ in range(4)]
    async with running(settings, lambda: NOW) as (app, client):
        for batch in batches:
            assert (await client.post(f"{PREFIX}/events/batch", json=batch)).status_code == 200
        store = app.state.store
        for table in ("viewing_events", "popular_content"):
            # Less than what is merged has; the disk is full for files that are longer.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
            try:
                with suppress(StoreError, StoreUnavailableError):
                    await store.execute(f"OPTIMIZE TABLE {table} FINAL", ahead=True)
            finally:
                no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
            # It is noticed and made good without a request.
            for _ in range(2000):
                aside = list((tmp_path / "store").glob(f"broken/{table}-*"))
                if aside and (await client.get("/health")).json()["status"] == "healthy":
                    break
                await asyncio.sleep(0.05)
            assert aside
            await assert_answers(client, Truth(flat(batches), NOW), USERS[:3], 7, "UTC")
            await assert_answers(client, Truth(flat(batches), NOW), USERS[:3], 7, "Asia/Kolkata")
            await assert_rollups_match(store)
