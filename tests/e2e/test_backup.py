"""Copies of the store: made while it is in use, and the way the README says."""

import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import running
from tests.e2e.test_disk import health, limit_files, wait_until
from tests.support.answers import PREFIX, assert_problem
from tests.support.kills import Batch, assert_exact, flat, make_batch, post
from tests.support.process import ROOT, Service, running_service

OTHER_DISK = Path("/dev/shm")
BACKUP = f"{PREFIX}/admin/backup"


def ask_for_backup(service: Service) -> httpx.Response:
    return httpx.post(f"{service.url}{BACKUP}", timeout=60)


def make_backup(service: Service) -> dict[str, Any]:
    answer = ask_for_backup(service)
    assert answer.status_code == 201, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


def run(command: str, folder: Path) -> None:
    subprocess.run(command, shell=True, cwd=folder, check=True)


async def test_a_backup_under_load_has_what_was_acknowledged(tmp_path: Path) -> None:
    dice = random.Random(3)
    acknowledged: list[Batch] = []
    offered: list[Batch] = []
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            offered.append(make_batch(dice, 50))
            post(service.url, offered[-1])
            acknowledged.append(offered[-1])

    copies: list[tuple[dict[str, Any], int, int]] = []
    folder = tmp_path / "backups"
    with running_service(tmp_path / "store", BACKUP_PATH=str(folder)) as service:
        post(service.url, make_batch(random.Random(4), 200))
        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(3):
            before = len(acknowledged)
            copies.append((make_backup(service), before, len(offered)))
        done.set()
        sender.join()
        # The copies are apart: what is written, merged and removed here changes nothing there.
        for batch in (make_batch(random.Random(5), 500) for _ in range(3)):
            post(service.url, batch)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        Path(copy["path"]).name for copy, _, _ in copies
    )
    first, last = copies[0], copies[-1]
    for copy, before, offered_then in (first, last):
        assert copy["size_bytes"] > 0
        with running_service(Path(copy["path"])) as restored:
            there = starts_of_all_kinds(restored)
            least = 200 + sum(len(batch) for batch in acknowledged[:before])
            assert least <= there <= 200 + 50 * offered_then
            # What it lacks can be sent again, and it is written on as any other store.
            batches = [make_batch(random.Random(4), 200), *acknowledged]
            for batch in batches:
                post(restored.url, batch)
            await assert_exact(restored, flat(batches))


def starts_of_all_kinds(service: Service) -> int:
    answer = httpx.get(f"{service.url}{PREFIX}/peak-hours?days=90")
    return sum(hour["events_count"] for hour in answer.json()["items"])


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second file system to write to")
async def test_a_backup_to_another_disk_is_copied(tmp_path: Path) -> None:
    other = OTHER_DISK / f"backups-{tmp_path.parent.name}-{tmp_path.name}"
    try:
        with running_service(tmp_path / "store", BACKUP_PATH=str(other)) as service:
            batch = make_batch(random.Random(6), 100)
            post(service.url, batch)
            copy = make_backup(service)
            assert not list((tmp_path / "store" / "shadow").glob("backup*"))
        with running_service(Path(copy["path"])) as restored:
            await assert_exact(restored, batch)
    finally:
        shutil.rmtree(other, ignore_errors=True)


async def test_without_a_place_or_with_a_server_there_is_none(settings: Any) -> None:
    async with running(settings) as (_, client):
        body = assert_problem(await client.post(BACKUP), 409)
        assert body["detail"] == "backups are off: set BACKUP_PATH"
    place = settings.clickhouse_path.parent / "taken"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    async with running(settings.model_copy(update={"backup_path": place})) as (_, client):
        body = assert_problem(await client.post(BACKUP), 409)
        server = settings.clickhouse_host is not None
        assert ("BACKUP DATABASE" if server else "can't be written") in body["detail"]
    place.unlink()


async def test_the_commands_of_the_readme_back_up_and_restore(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Backup\n")[2].partition("\n## ")[0]
    copy, restore = re.findall(r"^    (cp -a .*)$", section, re.MULTILINE)
    batch = make_batch(random.Random(2), 100)
    for folder in ("data", "safe"):
        (tmp_path / folder).mkdir()
    with running_service(tmp_path / "data" / "clickhouse") as service:
        post(service.url, batch)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    for command in (copy, restore):
        run(command.replace("/safe/place", str(tmp_path / "safe")), tmp_path)
    path = re.search(r"CLICKHOUSE_PATH=(\S+) make run", section)
    assert path is not None
    with running_service(tmp_path / path[1]) as restored:
        await assert_exact(restored, batch)


@pytest.mark.skipif(sys.platform != "linux", reason="another process is limited on Linux only")
async def test_a_backup_that_the_disk_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    with running_service(tmp_path / "store", BACKUP_PATH=str(folder)) as service:
        batch = make_batch(random.Random(6), 200)
        post(service.url, batch)
        limit_files(service, 100)
        assert_problem(ask_for_backup(service), 503)
        limit_files(service, resource.RLIM_INFINITY)
        assert list((tmp_path / "store" / "shadow").glob("backup_*")) == []
        assert not folder.exists() or list(folder.iterdir()) == []
        wait_until(lambda: health(service) == "healthy")
        copy = Path(make_backup(service)["path"])
        await assert_exact(service, batch)
    with running_service(copy) as service:
        await assert_exact(service, batch)
