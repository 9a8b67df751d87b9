"""What every test may use. The engine in these tests is the real one."""

import zoneinfo
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.core.clickhouse_embedded import EmbeddedClickHouse
from app.core.config import Settings
from app.main import create_app

# The truth is told by the same time zone database as the answers, whatever the machine has.
zoneinfo.reset_tzpath(to=[])

# One instant for a whole run: the service under test and the truth agree on what today is.
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, clickhouse_path=tmp_path / "store", enable_kafka=False)


@asynccontextmanager
async def opened_store(path: Path) -> AsyncIterator[EmbeddedClickHouse]:
    store = EmbeddedClickHouse(path, "analytics")
    try:
        await store.connect()
        await store.ensure_database()
        await store.ensure_tables()
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedClickHouse]:
    async with opened_store(tmp_path / "store") as opened:
        yield opened


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The service in this process, its clock standing at NOW, and a client for it."""
    app = create_app(settings, clock=lambda: NOW)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield app, client


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with running(settings) as (_, opened):
        yield opened
