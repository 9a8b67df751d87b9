"""Disks that are full, or refuse what is written: what was acknowledged is there, and once."""

import asyncio
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.answers import PREFIX, assert_problem
from tests.support.kills import Batch, assert_exact, flat, make_batch, post
from tests.support.process import Service, running_service

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the limits of another process can be set on Linux only"
)

NO_LIMIT = resource.RLIM_INFINITY
# With the batches below: from what cuts every file short to what cuts short but a few.
FILE_SIZES = (700, 1600, 2600, 8000)


def limit_files(service: Service, size: int) -> None:
    """No file of the service can be written past so many bytes."""
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (size, NO_LIMIT))


def answer_to(service: Service, batch: Batch) -> httpx.Response:
    return httpx.post(f"{service.url}{PREFIX}/events/batch", json=batch, timeout=60)


def get(service: Service, path: str) -> httpx.Response:
    return httpx.get(f"{service.url}{path}", timeout=60)


def health(service: Service) -> str:
    status: str = get(service, "/health").json()["status"]
    return status


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def send_limited(service: Service, dice: random.Random, size: int) -> tuple[Batch, int]:
    """A batch, sent while files are limited in size, and the status of its answer."""
    batch = make_batch(dice, 3)
    limit_files(service, size)
    answer = answer_to(service, batch)
    limit_files(service, NO_LIMIT)
    if answer.status_code != 200:
        assert_problem(answer, 503)
    return batch, answer.status_code


async def test_writes_that_the_disk_refused_are_not_acknowledged(tmp_path: Path) -> None:
    dice = random.Random(7)
    with running_service(tmp_path / "store") as service:
        batches = [make_batch(dice, 30)]
        post(service.url, batches[0])
        for size in FILE_SIZES:
            batch, status = send_limited(service, dice, size)
            if size != FILE_SIZES[-1]:
                assert status == 503
                assert health(service) == "unhealthy"
                refused = get(service, f"{PREFIX}/trends?days=365&tz=Etc/GMT")
                assert_problem(refused, 503)
            # By itself or by the next request.
            if size == FILE_SIZES[0]:
                wait_until(lambda: health(service) == "healthy")
            post(service.url, batch)
            batches.append(batch)
            assert health(service) == "healthy"
        assert (tmp_path / "store" / "broken").is_dir()
        await assert_exact(service, flat(batches))


async def test_a_disk_that_goes_on_refusing_is_waited_for(tmp_path: Path) -> None:
    dice = random.Random(11)
    with running_service(tmp_path / "store") as service:
        batches = [make_batch(dice, 30), make_batch(dice, 3)]
        post(service.url, batches[0])
        limit_files(service, FILE_SIZES[1])
        # After the first, each tries to mend it before anything else; that is refused too.
        for _ in range(4):
            assert_problem(answer_to(service, batches[1]), 503)
        assert health(service) == "unhealthy"
        limit_files(service, NO_LIMIT)
        wait_until(lambda: health(service) == "healthy")
        post(service.url, batches[1])
        await assert_exact(service, flat(batches))


async def test_killed_after_the_disk_refused_it_is_in_order_when_it_starts(tmp_path: Path) -> None:
    dice = random.Random(8)
    with running_service(tmp_path / "store") as service:
        batches = [make_batch(dice, 30)]
        post(service.url, batches[0])
        for size in (2600, 1600):  # cut short where the engine doesn't see it, and where it does
            batch, status = send_limited(service, dice, size)
            assert status == 503
            assert health(service) == "unhealthy"
            service.kill()
            service.start()
            post(service.url, batch)
            batches.append(batch)
        await assert_exact(service, flat(batches))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system; root may")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filler.open("wb", buffering=0) as file, suppress(OSError):  # others fill it too
        while file.tell() < free - leave:
            file.write(bytes(min(65536, free - leave - file.tell())))
    return filler


async def test_a_full_disk_takes_nothing_and_goes_on_when_it_has_space(small_disk: Path) -> None:
    dice = random.Random(9)
    with running_service(small_disk / "store") as service:
        batches = [make_batch(dice, 500) for _ in range(8)]
        post(service.url, batches[0])
        for round_, leave in enumerate((0, 1_500_000, 20_000_000)):
            filler = fill(small_disk, leave)
            refused = batches[1 + round_]
            assert_problem(answer_to(service, refused), 503)
            told = get(service, "/health")
            assert (told.status_code, told.json()["status"]) == (200, "degraded")
            assert told.json()["warnings"] == ["the disk of the store is full: events are refused"]
            assert get(service, f"{PREFIX}/trends?days=90").status_code == 200
            filler.unlink()
            assert health(service) == "healthy"
            assert post(service.url, refused)["stored"] == 500
        # Full in the middle of it, by something else.
        for batch in batches[4:]:
            sending = asyncio.create_task(asyncio.to_thread(answer_to, service, batch))
            await asyncio.sleep(dice.random() / 10)
            filler = await asyncio.to_thread(fill, small_disk, 0)
            assert (await sending).status_code in (200, 503)
            filler.unlink()
            wait_until(lambda: health(service) == "healthy")
            post(service.url, batch)
        await assert_exact(service, flat(batches))
