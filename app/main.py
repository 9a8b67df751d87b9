"""Puts the service together, and starts it: `python -m app.main`."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from app.api import health
from app.api.description import complete_description
from app.api.edge import Protocol, RequestIdMiddleware
from app.api.errors import install_error_handlers
from app.api.hot import HotAnswerMiddleware, Wordings
from app.api.v1.endpoints import analytics, backup, events, ingestion
from app.core.config import Settings
from app.core.entry import CANNOT_START, run, run_loop, run_processes
from app.core.errors import ConfigurationError
from app.ingest.backup import Backups
from app.ingest.doors import Doors
from app.ingest.intake import Intake
from app.ingest.writer import opened_writer
from app.kafka_consumer.consumer import KafkaConsumer
from app.services.analytics_service import AnalyticsService
from app.services.answers import Answers

VERSION = "0.1.0"

# A request that takes longer than this to finish after SIGTERM is cut off, unacknowledged.
_DRAIN_SECONDS = 20

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> FastAPI:
    """The service. Nothing is opened before its lifespan starts.

    Args:
        clock: the present time, aware; what "today", too old and in the future are told by.
    """
    app = FastAPIOffline(
        title="Cinema analytics",
        summary="What is watched in an online cinema, counted exactly.",
        version=VERSION,
        lifespan=_lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.settings = settings
    app.state.clock = clock
    app.state.store = None
    app.state.kafka = None
    app.state.ready = False
    app.state.draining = False
    for router in (
        analytics.router,
        events.router,
        ingestion.router,
        backup.router,
        health.router,
    ):
        app.router.routes.extend(router.routes)
    app.add_middleware(HotAnswerMiddleware)
    app.add_middleware(RequestIdMiddleware)
    install_error_handlers(app)
    complete_description(app)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    settings: Settings = state.settings
    async with AsyncExitStack() as stack:
        store, writer = await stack.enter_async_context(opened_writer(settings, state.clock))
        state.store = store
        state.intake = Intake(writer, state.clock)
        state.backups = Backups(writer, settings.backup_path, state.clock)
        state.service = AnalyticsService(store, state.clock)
        state.answers = Answers(lambda: writer.version)
        state.wordings = Wordings()
        if settings.enable_kafka:
            state.kafka = KafkaConsumer(settings, store, writer, state.clock)
            stack.push_async_callback(state.kafka.close)
            state.kafka.start()
        state.doors = Doors(state.intake.tally, state.kafka, state.clock)
        state.ready = True
        logger.info("ready: http://%s:%d/docs", settings.host, settings.port)
        yield
        state.ready = False
        logger.info("stopping: nothing is under way any more")


class _Server(uvicorn.Server):
    """Stops on a signal without passing it on: there is still the store to close after it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        self._app.state.draining = True
        if self._app.state.kafka is not None:
            # At once, not after the last request: others of the group can take over meanwhile.
            self._loop.call_soon_threadsafe(self._app.state.kafka.request_stop)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _bind(settings: Settings) -> socket.socket:
    """The address to serve on, taken before the store is opened, and listened on after."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"HOST and PORT: {settings.host}:{settings.port} can't be listened on: {error.strerror}"
        ) from None
    return bound


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way, and let go of everything.

    Raises:
        AnalyticsError: the start failed; the text says what to change.
    """
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=Protocol,
        lifespan="off",  # it is entered here, so that a failed start ends in one line
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config, app)
    if multiprocessing.parent_process() is not None:
        # Not before it is ready: requests go to any of the processes that listen.
        async with app.router.lifespan_context(app), _stopped_with_parent():
            await server.serve(sockets=[listener])
        return
    # From the start, so that the probes are answered while the store is opened.
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with app.router.lifespan_context(app):
            await serving
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def _stopped_with_parent() -> AsyncIterator[None]:
    """One of several processes stops when the one that started them is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(parent.sentinel)
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(parent.sentinel, stop)
    try:
        yield
    finally:
        loop.remove_reader(parent.sentinel)


def start(settings: Settings) -> int:
    """Serve with as many processes as are wanted. Returns the exit code."""
    with _bind(settings) as listener:
        if settings.workers == 1:
            return run_loop(serve(settings, listener))
        return run_processes(settings.workers, partial(_work, listener))


def _work(listener: socket.socket) -> None:
    """One of several processes; they share what they listen on."""
    failed = run(lambda settings: run_loop(serve(settings, listener)))
    sys.exit(CANNOT_START if failed else 0)


if __name__ == "__main__":
    sys.exit(run(start))
