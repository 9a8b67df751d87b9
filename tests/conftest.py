"""What every test may use. The engine in these tests is the real one."""

import asyncio
import os
import shutil
import zoneinfo
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from app.core.clickhouse_client import ClickHouseClient, open_clickhouse
from app.core.config import Settings
from app.main import create_app
from tests.support.brokers import (
    MOCK_SESSION_MS,
    SESSION_MS,
    Kafka,
    RealKafka,
    can_run_kafka,
    mock_cluster,
    real_kafka,
)
from tests.support.native_server import native_server

PASSWORD = "pass'word\\"  # of the server that the tests start: one that needs care

# The truth is told by the same time zone database as the answers, whatever the machine has.
zoneinfo.reset_tzpath(to=[])

# One instant for a whole run: the service under test and the truth agree on what today is.
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of a server: that of CLICKHOUSE_TEST_HOST, or else one of ours over the engine."""
    given = {
        name.replace("TEST_", "").lower(): value
        for name, value in os.environ.items()
        if name.startswith("CLICKHOUSE_TEST_")
    }
    if "clickhouse_host" in given:
        yield given
    else:
        with native_server(tmp_path_factory.mktemp("server") / "store", PASSWORD) as server:
            yield server.settings


@pytest.fixture(params=["embedded", "server"])
def engine(request: pytest.FixtureRequest) -> str:
    """What every test that asks for the store or for settings is run with, one after the other."""
    name: str = request.param
    return name


@pytest.fixture
def settings(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """For a store of this test's own. It is dropped at the end."""
    if engine == "embedded":
        yield Settings(_env_file=None, clickhouse_path=tmp_path / "store", enable_kafka=False)
    else:
        settings = own_database(request.getfixturevalue("clickhouse_server"))
        yield settings
        asyncio.run(drop_database(settings))


def own_database(server: dict[str, Any]) -> Settings:
    """Of a database on that server which nobody else has."""
    return Settings(
        _env_file=None,
        clickhouse_database=f"test_{uuid4().hex[:12]}",
        enable_kafka=False,
        **server,
    )


async def drop_database(settings: Settings) -> None:
    """And all that is in it."""
    store = open_clickhouse(settings)
    await store.connect()
    await store.execute(f"DROP DATABASE IF EXISTS {settings.clickhouse_database}")
    await store.close()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[ClickHouseClient]:
    """The store of these settings, with its tables."""
    store = open_clickhouse(settings)
    try:
        await store.connect()
        await store.ensure_database()
        await store.ensure_tables()
        yield store
    finally:
        await store.close()


def opened_store(path: Path) -> AbstractAsyncContextManager[ClickHouseClient]:
    """An embedded store."""
    return opened(Settings(_env_file=None, clickhouse_path=path))


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[ClickHouseClient]:
    async with opened(settings) as ours:
        yield ours


@asynccontextmanager
async def running(
    settings: Settings, clock: Callable[[], datetime] = lambda: NOW
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The service in this process, its clock standing at NOW unless told, and a client for it."""
    app = create_app(settings, clock)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield app, client


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings) as (_, ours):
        yield ours


@pytest.fixture(scope="session")
def kafka_servers() -> Iterator[str]:
    """The brokers of KAFKA_BOOTSTRAP_SERVERS, or else a mock of them."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
    else:
        with mock_cluster() as servers:
            yield servers


@pytest.fixture
def kafka(kafka_servers: str) -> Iterator[Kafka]:
    """Topics and a group for this test alone."""
    real = "KAFKA_BOOTSTRAP_SERVERS" in os.environ
    ours = Kafka(kafka_servers, SESSION_MS if real else MOCK_SESSION_MS)
    yield ours
    if real:  # the mock can't, and ends with the tests
        ours.remove()


@pytest.fixture
def true_kafka(kafka: Kafka) -> Kafka:
    """Not the mock, which knows no transactions and keeps little."""
    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        if "CI" in os.environ:
            pytest.fail("KAFKA_BOOTSTRAP_SERVERS is not set")
        pytest.skip("set KAFKA_BOOTSTRAP_SERVERS (after `make kafka`, say) to run this test")
    return kafka


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[RealKafka]:
    """An Apache Kafka that may be stopped and killed."""
    require_java()
    with real_kafka(tmp_path / "kafka") as started:
        yield started


def require_java() -> None:
    if not can_run_kafka() and "CI" not in os.environ:
        pytest.skip("Java 17 and Maven are needed to run Apache Kafka in this test")


@pytest.fixture(scope="session")
def promtool() -> str:
    """What Prometheus itself says of metrics and rules."""
    found = shutil.which("promtool")
    if found is None:
        if "CI" in os.environ:
            pytest.fail("promtool is not installed")
        pytest.skip("promtool (Debian: `apt install prometheus`) is needed to run this test")
    return found
