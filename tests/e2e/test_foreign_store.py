"""Directories that are no store of ours: the start ends with a line, and changes nothing there."""

import re
import subprocess
from pathlib import Path

import pytest

from app.core.clickhouse_embedded import EmbeddedClickHouse
from tests.support.process import Service


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files below, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name != "service.lock"
    }


def refused(store: Path, **environment: str) -> str:
    """The last words of a start on it."""
    ended = Service(store, **environment).run_to_end()
    assert ended.returncode == 1, ended.stderr
    *before, last = ended.stderr.splitlines()
    assert re.fullmatch(r"cannot start: CLICKHOUSE_\w+: .*", last), ended.stderr
    assert all("DB::Exception" in line for line in before), ended.stderr  # the engine's own words
    return last


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", ".git", "PG_VERSION"):
        store = tmp_path / f"of {name}"
        store.mkdir()
        (store / name).write_text("ours")
        assert "files of something else" in refused(store)
        assert [path.name for path in store.iterdir()] == [name]
        assert (store / name).read_text() == "ours"


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("ours")
    refused(tmp_path / "store")
    assert (tmp_path / "store").read_text() == "ours"


def test_a_store_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "metadata").mkdir(parents=True)
    (store / "metadata" / "analytics.sql").write_text(
        "ATTACH DATABASE analytics ENGINE = Future(2)"
    )
    before = contents(store)
    assert "no store can be opened" in refused(store)
    after = contents(store)
    assert {name: after[name] for name in before} == before


async def test_tables_of_another_version_are_told_by_their_columns(tmp_path: Path) -> None:
    store = EmbeddedClickHouse(tmp_path / "store", "analytics")
    await store.connect()
    await store.ensure_database()
    await store.execute(
        "CREATE TABLE viewing_events (id UUID, event_time DateTime) ENGINE = MergeTree ORDER BY id"
    )
    await store.execute("INSERT INTO viewing_events VALUES (generateUUIDv4(), now())")
    await store.close()
    assert "viewing_events" in refused(tmp_path / "store")
    store = EmbeddedClickHouse(tmp_path / "store", "analytics")
    await store.connect()
    assert await store.execute("SELECT count() AS n FROM analytics.viewing_events") == [{"n": 1}]
    await store.close()


def test_a_disk_that_is_read_only_is_told(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system; root may")
    try:
        assert "Read-only file system" in refused(place)
        assert "Read-only file system" in refused(place / "store", BACKUP_PATH="x")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
