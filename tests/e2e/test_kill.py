"""SIGKILL at any instant: what was acknowledged is there once, and every rollup agrees."""

import queue
import random
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.kills import Batch, assert_exact, flat, killing, make_batch, post
from tests.support.process import running_service


class Senders:
    """Some threads that post batches until the service dies; nothing is given up."""

    def __init__(self, url: str, batches: list[Batch], threads: int) -> None:
        self._url = url
        self._todo: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        for batch in batches:
            self._todo.put(batch)
        self.acknowledged: list[Batch] = []
        self.unanswered: list[Batch] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while True:
            try:
                batch = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                post(self._url, batch)
            except httpx.TransportError:
                self.unanswered.append(batch)
                return
            self.acknowledged.append(batch)

    def join(self) -> list[Batch]:
        """Returns what has not been acknowledged."""
        for thread in self._threads:
            thread.join()
        while not self._todo.empty():
            self.unanswered.append(self._todo.get())
        return self.unanswered


async def test_killed_at_random_under_load(tmp_path: Path) -> None:
    dice = random.Random(20)
    left = [make_batch(dice, dice.randint(1, 60)) for _ in range(300)]
    everything = list(left)
    acknowledged: list[Batch] = []
    kills = cut_off = 0
    with running_service(tmp_path / "store") as service:
        while left and kills < 6:
            senders = Senders(service.url, left, threads=4)
            killer = threading.Timer(dice.uniform(0.05, 0.6), service.kill)
            killer.start()
            left = senders.join()
            killer.join()
            kills += 1
            cut_off += bool(senders.unanswered)
            acknowledged += senders.acknowledged
            if dice.random() < 0.3:  # and once more, perhaps in the middle of the repair
                starting = threading.Timer(dice.uniform(0.2, 1.5), service.kill)
                starting.start()
                try:
                    service.start()
                except (AssertionError, ProcessLookupError):
                    kills += 1
                starting.join()
            service.start()
            for batch in dice.sample(senders.acknowledged, min(5, len(senders.acknowledged))):
                assert post(service.url, batch)["stored"] == 0
        assert cut_off >= 2
        for batch in left:
            post(service.url, batch)
        await assert_exact(service, flat(everything))


@pytest.mark.parametrize(
    ("syscalls", "stride"),
    [
        ("rename,renameat2", 1),  # a part appears
        ("fsync,fdatasync", 4),  # its files reach the disk
        ("openat", 12),  # its files are made
    ],
)
async def test_killed_at_chosen_system_calls(tmp_path: Path, syscalls: str, stride: int) -> None:
    dice = random.Random(f"{syscalls}")
    sent: list[Batch] = []
    kills = 0
    with running_service(tmp_path / "store") as service:
        for when in range(1, 1000, stride):
            batch = make_batch(dice, 30)
            sent.append(batch)
            died = False
            with killing(service.pid, syscalls, when):
                try:
                    post(service.url, batch)
                except httpx.TransportError:
                    died = True
            died = died or service.is_gone()  # the very last moment
            if not died:
                break
            kills += 1
            service.wait()
            service.start()
            receipt = post(service.url, batch)
            assert receipt["stored"] + receipt["duplicates"] == len(batch)
        assert kills >= 4
        assert not died, "the calls of one insert were not passed through to the end"
        await assert_exact(service, flat(sent))
