"""What becomes of the service when its ClickHouse server, or the wire to it, fails."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.clickhouse_client import ClickHouseClient
from app.core.clickhouse_server import ClickHouseServer
from app.core.config import Settings
from app.core.errors import ConfigurationError, StoreUnavailableError
from tests.conftest import PASSWORD, drop_database, opened, own_database, running
from tests.support.answers import PREFIX, assert_answers, assert_problem
from tests.support.consistency import assert_rollups_match
from tests.support.kills import USERS, Batch, make_batch
from tests.support.native_server import native_server
from tests.support.oracle import Truth
from tests.support.wire import Direction, Wire, wire_to

QUERY_SECONDS = 1.0


@pytest.fixture
def wire(clickhouse_server: dict[str, Any]) -> Iterator[Wire]:
    address = (clickhouse_server["clickhouse_host"], clickhouse_server.get("clickhouse_port", 9000))
    with wire_to(address[0], int(address[1])) as between:
        yield between


@pytest.fixture
def settings(clickhouse_server: dict[str, Any]) -> Iterator[Settings]:
    """Of a server that is reached directly; a service in these tests goes by the wire."""
    ours = own_database(clickhouse_server)
    yield ours
    asyncio.run(drop_database(ours))


@dataclass
class Service:
    client: httpx.AsyncClient
    store: ClickHouseClient
    sent: Batch

    async def post(self, batch: Batch) -> httpx.Response:
        self.sent += batch
        return await self.client.post(f"{PREFIX}/events/batch", json=batch)

    async def post_until_taken(self, batch: Batch) -> int:
        """As a sender does that is told to try again. Returns how many were stored at last."""
        deadline = time.monotonic() + 30
        while True:
            answer = await self.post(batch)
            if answer.status_code == 200:
                receipt = answer.json()
                assert receipt["stored"] + receipt["duplicates"] == len(batch)
                return int(receipt["stored"])
            assert_problem(answer, 503)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    async def health_becomes(self, healthy: bool) -> None:
        """Within 2 seconds it says so, and goes on to."""
        deadline = time.monotonic() + 2
        while True:
            answer = await self.client.get("/health")
            if (answer.status_code == 200) == healthy:
                break
            assert time.monotonic() < deadline
        assert answer.json()["clickhouse"] == ("healthy" if healthy else "unhealthy")
        assert ((await self.client.get("/readyz")).status_code == 200) == healthy

    async def assert_exact(self) -> None:
        """Each event that was sent is there once, and every answer is the truth."""
        ids = await self.store.execute("SELECT toString(id) AS id FROM viewing_events")
        assert sorted(row["id"] for row in ids) == sorted({one["event_id"] for one in self.sent})
        await assert_rollups_match(self.store)
        truth = Truth(self.sent, datetime.now(UTC))
        await assert_answers(self.client, truth, USERS[:3], 90, "Asia/Kathmandu")
        await assert_answers(self.client, truth, USERS[:3], 90, "UTC")


@asynccontextmanager
async def service_on(settings: Settings) -> AsyncIterator[Service]:
    """With all that it has sent in order at the end, and nothing left behind."""
    before = set(threading.enumerate())
    async with running(settings, lambda: datetime.now(UTC)) as (app, client):
        service = Service(client, app.state.store, [])
        yield service
        await service.assert_exact()
    left = [one.name for one in set(threading.enumerate()) - before if "clickhouse" in one.name]
    assert left == []


@asynccontextmanager
async def over(wire: Wire, settings: Settings) -> AsyncIterator[Service]:
    changes = {
        "clickhouse_host": "127.0.0.1",
        "clickhouse_port": wire.port,
        "clickhouse_query_timeout": QUERY_SECONDS,
    }
    async with service_on(settings.model_copy(update=changes)) as service:
        yield service
    deadline = time.monotonic() + 5
    while wire.connections:
        assert time.monotonic() < deadline, "a connection is left behind"
        await asyncio.sleep(0.02)


def batch(number: int, size: int = 500) -> Batch:
    return make_batch(random.Random(number), size)


async def test_the_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(_env_file=None, enable_kafka=False, **server.settings)
        async with service_on(settings) as service:
            await service.post_until_taken(batch(1))
            for number in (2, 3):
                server.kill()
                await service.health_becomes(False)
                assert_problem(await service.post(batch(number)), 503)
                assert_problem(await service.client.get(f"{PREFIX}/trends"), 503)
                server.start()
                await service.health_becomes(True)
                assert await service.post_until_taken(batch(number)) == 500


async def test_the_server_is_killed_in_the_middle_of_inserts(tmp_path: Path) -> None:
    dice = random.Random(5)
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(_env_file=None, enable_kafka=False, **server.settings)
        async with service_on(settings) as service:
            for number in range(5):
                posting = asyncio.create_task(service.post(batch(number, 3000)))
                await asyncio.sleep(dice.uniform(0, 0.15))
                await asyncio.to_thread(server.kill)
                await posting
                await asyncio.to_thread(server.start)
                await service.post_until_taken(batch(number, 3000))


@pytest.mark.parametrize(("direction", "stride"), [("to server", 4_000), ("to client", 60)])
async def test_the_connection_is_reset_at_any_byte_of_an_insert(
    wire: Wire, settings: Settings, direction: Direction, stride: int
) -> None:
    """Later each time, until a batch passes before it happens."""
    async with over(wire, settings) as service:
        await service.post_until_taken(batch(0, 300))
        for number in range(1, 1000):
            wire.strike(direction, number * stride, "cut")
            answer = await service.post(batch(number, 300))
            assert answer.status_code in (200, 503)
            struck = wire.struck.is_set()
            await service.post_until_taken(batch(number, 300))
            if not struck:
                break
        assert 5 < number < 1000


async def test_what_is_stored_is_acknowledged_though_the_turn_is_not_given_back(
    wire: Wire, settings: Settings
) -> None:
    """The last that travels to the client says that it was given back."""
    async with over(wire, settings) as service:
        for number in range(20):
            await service.post_until_taken(batch(4 * number, 10))
            before = wire.passed["to client"]
            await service.post_until_taken(batch(4 * number + 1, 10))
            wire.strike("to client", wire.passed["to client"] - before - 1, "refuse")
            answer = await service.post(batch(4 * number + 2, 10))
            wire.spare()
            if wire.struck.is_set():
                wire.accept()
            if wire.struck.is_set() and answer.status_code == 200:
                break
            # It has taken longer, and there was a report of progress more.
            await service.post_until_taken(batch(4 * number + 3, 10))
        assert number < 19


@pytest.mark.parametrize("after", [0, 1, 100, 500])
async def test_a_query_whose_answer_is_cut_off_is_asked_again(
    wire: Wire, settings: Settings, after: int
) -> None:
    async with over(wire, settings) as service:
        await service.post_until_taken(batch(1))
        path = f"{PREFIX}/content/popular?days=90&limit=100&tz=Asia/Kathmandu"
        whole = await service.client.get(path)
        wire.strike("to client", after, "cut")
        again = await service.client.get(path)
        assert wire.struck.is_set(), "nothing was cut"
        assert (again.status_code, again.content) == (200, whole.content)


@pytest.mark.parametrize(
    ("direction", "after"), [("to client", 0), ("to client", 200), ("to server", 20_000)]
)
async def test_what_stalls_is_given_up_and_taken_up_again(
    wire: Wire, settings: Settings, direction: Direction, after: int
) -> None:
    async with over(wire, settings) as service:
        await service.post_until_taken(batch(1))
        wire.strike(direction, after, "stall")
        began = time.monotonic()
        assert_problem(await service.post(batch(2)), 503)
        assert wire.struck.is_set(), "nothing has stalled"
        assert_problem(await service.client.get(f"{PREFIX}/trends"), 503)
        assert time.monotonic() - began < 20 * QUERY_SECONDS
        await service.health_becomes(False)
        wire.flow()
        await service.health_becomes(True)
        await service.post_until_taken(batch(2))


async def test_a_server_that_hangs_for_a_while(tmp_path: Path) -> None:
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(
            _env_file=None, enable_kafka=False, clickhouse_query_timeout=1, **server.settings
        )
        async with service_on(settings) as service:
            await service.post_until_taken(batch(1))
            server.pause()
            posting = asyncio.create_task(service.post(batch(2)))
            await service.health_becomes(False)
            assert_problem(await posting, 503)
            server.go_on()
            await service.health_becomes(True)
            await service.post_until_taken(batch(2))


async def test_connections_are_refused(wire: Wire, settings: Settings) -> None:
    async with over(wire, settings) as service:
        wire.refuse()
        await service.health_becomes(False)
        assert_problem(await service.post(batch(1)), 503)
        assert_problem(await service.client.get(f"{PREFIX}/peak-hours"), 503)
        wire.accept()
        await service.health_becomes(True)
        await service.post_until_taken(batch(1))


async def test_the_password_is_changed(tmp_path: Path) -> None:
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(_env_file=None, enable_kafka=False, **server.settings)
        async with service_on(settings) as service:
            await service.post_until_taken(batch(1))
            server.kill()
            with native_server(tmp_path / "store", "another", port=server.port):
                await service.health_becomes(False)
                answer = assert_problem(await service.post(batch(2)), 503)
                assert "another" not in str(answer)
            server.start()
            await service.health_becomes(True)
            await service.post_until_taken(batch(2))


async def test_too_many_parts(settings: Settings) -> None:
    async with service_on(settings) as service:
        await service.post_until_taken(batch(1))
        await service.store.execute("SYSTEM STOP MERGES viewing_events")
        await service.store.execute(
            "ALTER TABLE viewing_events"
            " MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 100"
        )
        assert_problem(await service.post(batch(2)), 503)
        await service.health_becomes(True)  # it answers
        await service.store.execute(
            "ALTER TABLE viewing_events RESET SETTING parts_to_throw_insert, parts_to_delay_insert"
        )
        await service.store.execute("SYSTEM START MERGES viewing_events")
        await service.post_until_taken(batch(2))


async def test_no_memory(tmp_path: Path) -> None:
    large = batch(2, 1_000)
    for one in large:
        one["metadata"] = {"note": "x" * 16_000}
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(_env_file=None, enable_kafka=False, **server.settings)
        async with running(settings.model_copy(update={"clickhouse_user": "tight"})) as (_, client):
            answer = await client.post(f"{PREFIX}/events/batch", json=large)
            assert_problem(answer, 503)
            answer = await client.post(f"{PREFIX}/events/batch", json=batch(1, 20))
            assert answer.json()["stored"] == 20
        async with service_on(settings) as service:
            service.sent += batch(1, 20)
            await service.post_until_taken(large)


async def test_a_user_who_may_not_write(tmp_path: Path) -> None:
    with native_server(tmp_path / "store", PASSWORD) as server:
        settings = Settings(_env_file=None, enable_kafka=False, **server.settings)
        async with opened(settings):
            pass
        reader = ClickHouseServer(settings.model_copy(update={"clickhouse_user": "reader"}))
        try:
            await reader.connect()
            await reader.ensure_database()
            assert await reader.execute("SELECT count() AS n FROM viewing_events") == [{"n": 0}]
            with pytest.raises(StoreUnavailableError, match="164"):
                await reader.insert("viewing_events", ["event_time"], [(1_800_000_000,)])
            with pytest.raises(ConfigurationError, match="CLICKHOUSE_USER: reader has not the"):
                await reader.ensure_tables()
        finally:
            await reader.close()


async def test_a_database_that_is_dropped_meanwhile(settings: Settings) -> None:
    """No fault that passes: the service has to be started again, which makes it anew."""
    async with running(settings, lambda: datetime.now(UTC)) as (_, client):
        answer = await client.post(f"{PREFIX}/events/batch", json=batch(1))
        assert answer.status_code == 200
        await drop_database(settings)
        for request in (
            client.post(f"{PREFIX}/events/batch", json=batch(2)),
            client.get(f"{PREFIX}/trends"),
        ):
            assert_problem(await request, 500)
    async with service_on(settings) as service:
        await service.post_until_taken(batch(2))


@pytest.mark.parametrize("fault", ["refuse", "stall"])
async def test_it_closes_though_the_server_is_away(
    wire: Wire, settings: Settings, fault: str
) -> None:
    changes = {"clickhouse_port": wire.port, "clickhouse_query_timeout": QUERY_SECONDS}
    act: dict[str, Callable[[], None]] = {"refuse": wire.refuse, "stall": wire.stall}
    async with asyncio.timeout(30):
        async with running(settings.model_copy(update=changes)) as (_, client):
            act[fault]()
            assert_problem(await client.get(f"{PREFIX}/trends"), 503)
    assert [one.name for one in threading.enumerate() if "clickhouse" in one.name] == []
