"""SIGKILL while a user is erased: the next start completes it, and nothing else has changed."""

import random
import threading
from pathlib import Path
from uuid import UUID, uuid4

import httpx

from tests.conftest import opened_store
from tests.support.answers import PREFIX
from tests.support.consistency import assert_rollups_match
from tests.support.disk import files_with, forms_of
from tests.support.kills import NOW, Batch, killing, make_batch, post
from tests.support.oracle import Json, Truth
from tests.support.process import Service, running_service

DICE = random.Random(30)
USERS = [str(UUID(int=DICE.getrandbits(128))) for _ in range(24)]
TIMES = 2
CALLS = [
    *(("rename,renameat2", when) for when in (2, 14, 30)),
    *(("fsync,fdatasync", when) for when in (5, 30)),
    ("unlink,unlinkat", 20),
]


class Erasing:
    """Erases users one after another, and knows what is left."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.events: Batch = [
            event | {"user_id": DICE.choice(USERS)} for _ in range(3) for event in self._sent()
        ]
        for start in range(0, len(self.events), 200):
            post(service.url, self.events[start : start + 200])
        self._left = list(USERS)
        self.kills = 0
        self.finished_at_start = 0

    def _sent(self) -> Batch:
        return make_batch(DICE, 200)

    def ask(self) -> bool:
        """Whether the service lived until it was done."""
        self.user = self._left.pop()
        self.anonymise = len(self._left) % 3 == 0
        mode = "anonymise" if self.anonymise else "erase"
        try:
            answer = httpx.delete(f"{self._path}?mode={mode}", timeout=60)
        except httpx.TransportError:
            self.kills += 1
            return False
        assert answer.status_code == 200, answer.text
        return True

    def check(self, *, done: bool) -> None:
        """The service, started again, has finished it, or knows nothing of it yet."""
        before = self.events
        if self.anonymise:
            somebody = str(uuid4())
            self.events = [
                event | {"user_id": somebody} if event["user_id"] == self.user else event
                for event in before
            ]
        else:
            self.events = [event for event in before if event["user_id"] != self.user]
        stats = httpx.get(f"{self._path}/stats?days=365", timeout=60).json()
        if stats["most_watched_movie_id"] is not None:
            assert not done
            assert self._answers() == answers(Truth(before, NOW))
            assert httpx.delete(f"{self._path}?mode=erase", timeout=60).status_code == 200
            self.events = [event for event in before if event["user_id"] != self.user]
        else:
            self.finished_at_start += not done
        assert self._answers() == answers(Truth(self.events, NOW))
        assert files_with(self.service.store, forms_of(UUID(self.user))) == []

    @property
    def _path(self) -> str:
        return f"{self.service.url}{PREFIX}/user/{self.user}"

    def _answers(self) -> list[Json]:
        url = f"{self.service.url}{PREFIX}"
        window = "days=90&tz=Asia/Kathmandu"
        return [
            httpx.get(f"{url}/{path}", timeout=60).json()
            for path in (
                f"content/popular?{window}&limit=100", f"trends?{window}", f"peak-hours?{window}",
                "content/popular?days=90&limit=100",
            )
        ]  # fmt: skip


def answers(truth: Truth) -> list[Json]:
    zone = "Asia/Kathmandu"
    return [
        truth.popular(90, zone, 100),
        truth.trends(90, zone),
        truth.peak_hours(90, zone),
        truth.popular(90, "UTC", 100),
    ]


async def test_killed_at_chosen_system_calls(tmp_path: Path) -> None:
    """When copies are made, recorded and put in place, and when old files are deleted."""
    with running_service(tmp_path / "store") as service:
        erasing = Erasing(service)
        for syscalls, when in CALLS:
            with killing(service.pid, syscalls, when):
                done = erasing.ask()
            if not done:
                service.wait()
                service.start()
            erasing.check(done=done)
        assert erasing.kills > len(CALLS) // 2
        assert erasing.finished_at_start
    async with opened_store(service.store) as store:
        await assert_rollups_match(store)


async def test_killed_at_random(tmp_path: Path) -> None:
    with running_service(tmp_path / "store") as service:
        erasing = Erasing(service)
        for _ in range(TIMES):
            killer = threading.Timer(DICE.uniform(0.1, 1.2), service.kill)
            killer.start()
            done = erasing.ask()
            killer.join()
            if DICE.random() < 0.5:  # and once more, perhaps while it is finished
                starting = threading.Timer(DICE.uniform(0.3, 2), service.kill)
                starting.start()
                try:
                    service.start()
                except (AssertionError, ProcessLookupError):
                    erasing.kills += 1
                starting.join()
            service.start()
            erasing.check(done=done)
        assert erasing.finished_at_start
    async with opened_store(service.store) as store:
        await assert_rollups_match(store)
