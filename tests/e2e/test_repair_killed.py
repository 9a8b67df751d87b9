"""SIGKILL at any instant of a repair: answers stay right, and the next repair completes it."""

import contextlib
import random
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.conftest import opened_store
from tests.integration.test_audit import UNSEEN
from tests.support.answers import PREFIX, assert_answers
from tests.support.kills import USERS, Batch, assert_exact, flat, killing, make_batch, post
from tests.support.oracle import Truth
from tests.support.process import Service, running_service
from tests.support.repair import left_behind


async def damage(service: Service) -> None:
    """In every month, and such that no answer shows it: a wrong one is the repair's fault."""
    async with opened_store(service.store) as store:
        for statement in UNSEEN:
            await store.execute(statement)


def repair(url: str) -> None:
    """Raises httpx.TransportError when the service dies."""
    answer = httpx.post(f"{url}{PREFIX}/admin/repair?days=120", timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["differences"] == []


async def assert_right(service: Service, batches: list[Batch]) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        truth = Truth(flat(batches), datetime.now(UTC))
        for tz in ("UTC", "Asia/Kathmandu"):
            await assert_answers(client, truth, USERS[:2], 100, tz)


async def assert_mended(service: Service, batches: list[Batch]) -> None:
    repair(service.url)
    await assert_exact(service, flat(batches))
    async with opened_store(service.store) as store:
        assert await left_behind(store) == []


async def test_killed_at_random(tmp_path: Path) -> None:
    dice = random.Random(7)
    sent = [make_batch(dice, 100) for _ in range(3)]
    cut_off = 0
    with running_service(tmp_path / "store") as service:
        for batch in sent:
            post(service.url, batch)
        service.kill()
        await damage(service)
        service.start()
        for _ in range(4):
            killer = threading.Timer(dice.uniform(0.02, 0.5), service.kill)
            killer.start()
            try:
                repair(service.url)
            except httpx.TransportError:
                cut_off += 1
            killer.join()
            service.start()
            await assert_right(service, sent)
            sent.append(make_batch(dice, 20))
            post(service.url, sent[-1])
        assert cut_off >= 1
        await assert_mended(service, sent)


@pytest.mark.parametrize("when", [9, 25, 49])
async def test_killed_where_parts_change_places(tmp_path: Path, when: int) -> None:
    """The calls by which tables and parts get their names, those of a swap among them."""
    dice = random.Random(when)
    sent = [make_batch(dice, 100)]
    with running_service(tmp_path / "store") as service:
        post(service.url, sent[0])
        service.kill()
        await damage(service)
        service.start()
        with (
            killing(service.pid, "rename,renameat2", when),
            contextlib.suppress(httpx.TransportError),
        ):
            repair(service.url)
        service.kill()
        service.start()
        await assert_right(service, sent)
        sent.append(make_batch(dice, 20))
        post(service.url, sent[-1])
        await assert_mended(service, sent)
