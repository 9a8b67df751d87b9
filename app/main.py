"""Puts the service together, and starts it: `python -m app.main`."""

import asyncio
import ipaddress
import logging
import multiprocessing
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api import health, metrics, pages
from app.api.access import DOING, SETTINGS, AccessMiddleware, Rules
from app.api.browser import (
    CorsMiddleware,
    ForeignPagesMiddleware,
    HostsMiddleware,
    SecurityHeadersMiddleware,
)
from app.api.description import complete_description
from app.api.edge import Protocol
from app.api.errors import FaultsMiddleware, install_error_handlers
from app.api.hot import HotAnswerMiddleware, Wordings
from app.api.limits import RequestLimitsMiddleware
from app.api.observe import ObserveMiddleware, Observer
from app.api.sockets import SocketProtocol
from app.api.v1.endpoints import (
    admin,
    analytics,
    backup,
    broadcast,
    events,
    films,
    ingestion,
    live,
    movies,
    users,
)
from app.core.config import Settings
from app.core.entry import CANNOT_START, run, run_loop, run_processes
from app.core.errors import ConfigurationError
from app.core.keys import KeyClass, Keyring, parse_keys
from app.core.measures import Measures
from app.ingest.audit import Auditor
from app.ingest.backup import Backups
from app.ingest.catalog import Catalog
from app.ingest.doors import Doors
from app.ingest.erasure import Eraser
from app.ingest.export import Export
from app.ingest.intake import Intake
from app.ingest.rate import EventRate
from app.ingest.writer import Writer, opened_writer
from app.services.analytics_service import AnalyticsService
from app.services.answers import Answers
from app.services.broadcast import Broadcast
from app.services.movies import Movies

VERSION = "0.1.0"

# A request that takes longer than this to finish after SIGTERM is cut off, unacknowledged.
_DRAIN_SECONDS = 20

# uvicorn's own.
_TICKS_A_SECOND = 10

# The loop takes one new connection at a time from each socket that listens, and looks after all
# others in between: with one socket, who comes after hundreds of others waits for seconds.
_LISTENERS = 16

# Enough for the connections and for the engine's files; many systems give a process 1,024.
_WANTED_FILES = 65_536

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
    app.state.rules = _rules(settings)
    app.state.clock = clock
    app.state.store = None
    app.state.kafka = None
    app.state.broadcast = None
    app.state.writer = None
    app.state.intake = None
    app.state.ready = False
    app.state.draining = False
    engine = "embedded" if settings.clickhouse_host is None else "server"
    app.state.measures = Measures(VERSION, engine)
    app.state.scrapes = metrics.Scrapes(app.state.measures, settings, app.state)
    app.state.observer = Observer(app.state.measures, log_requests=settings.log_requests)
    for router in (
        analytics.router,
        films.router,
        live.router,
        movies.router,
        events.router,
        ingestion.router,
        admin.router,
        backup.router,
        users.router,
        health.router,
        metrics.router,
        broadcast.router,
        pages.router,
    ):
        app.router.routes.extend(router.routes)
    _add_middleware(app, settings, clock)
    install_error_handlers(app)
    complete_description(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings, clock: Callable[[], datetime]) -> None:
    """From the inside out: each sees what those after it have let through."""
    app.add_middleware(HotAnswerMiddleware)
    rules: Rules = app.state.rules
    if rules.keys.guarded:
        app.add_middleware(AccessMiddleware, rules=rules, clock=clock)
    app.add_middleware(RequestLimitsMiddleware)
    origins = _listed(settings.cors_origins)
    app.add_middleware(ForeignPagesMiddleware, origins=origins)
    if settings.allowed_hosts:
        app.add_middleware(HostsMiddleware, hosts=_listed(settings.allowed_hosts.lower()))
    app.add_middleware(FaultsMiddleware)
    if origins:
        app.add_middleware(CorsMiddleware, origins=origins)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(ObserveMiddleware, observer=app.state.observer)


def _rules(settings: Settings) -> Rules:
    keys = {
        KeyClass.INGEST: settings.ingest_api_keys,
        KeyClass.READ: settings.read_api_keys,
        KeyClass.ADMIN: settings.admin_api_key,
    }
    return Rules(
        Keyring({of: parse_keys(text.get_secret_value()) for of, text in keys.items()}),
        _listed(settings.public_pages),
    )


def _listed(text: str) -> list[str]:
    return list(filter(None, text.replace(" ", "").split(",")))


def _warn_of_open_doors(settings: Settings, address: str) -> None:
    """Where others than this machine's own can come in, what they may do without a key.

    Args:
        address: the IP address that is listened on.
    """
    rules = _rules(settings)
    if rules.unguarded() and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        logger.warning(
            "ANYBODY who reaches %s:%d is let in without a key for %s; set %s, or HOST=127.0.0.1",
            settings.host,
            settings.port,
            ", ".join(DOING[of] for of in rules.unguarded()),
            ", ".join(SETTINGS[of] for of in rules.unguarded()),
        )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    settings: Settings = state.settings
    async with AsyncExitStack() as stack:
        store, writer = await stack.enter_async_context(opened_writer(settings, state.clock))
        writer.on_flush = state.measures.flushed
        state.store = store
        state.writer = writer
        rate = EventRate(settings.ingest_events_per_second)
        state.intake = Intake(writer, state.clock, rate)
        most = settings.clickhouse_readers + settings.clickhouse_query_queue
        state.backups = Backups(writer, settings.backup_path, state.clock)
        state.export = Export(store, writer.tombstones)
        state.eraser = Eraser(store, writer, state.clock)
        stack.push_async_callback(state.eraser.close)
        state.auditor = Auditor(
            store,
            writer.in_turn,
            lambda: writer.retention.first_whole_day(state.clock()),
            state.clock,
        )
        catalog = Catalog(store, state.clock)
        state.catalog = catalog
        state.service = AnalyticsService(store, state.clock, Movies(store, lambda: catalog.version))
        state.answers = Answers(lambda: _version(writer, catalog), store.gate, most)
        state.wordings = Wordings()
        state.broadcast = Broadcast(
            state.service, store, state.clock, lambda: _version(writer, catalog)
        )
        stack.push_async_callback(state.broadcast.close)
        if settings.enable_kafka:
            # Not sooner: a start without it needn't wait for its modules.
            from app.kafka_consumer.consumer import KafkaConsumer

            state.kafka = KafkaConsumer(settings, store, writer, state.clock)
            stack.push_async_callback(state.kafka.close)
            state.kafka.start()
        state.doors = Doors(state.intake.tally, state.kafka, state.clock)
        state.ready = True
        logger.info("ready: http://%s:%d/", settings.host, settings.port)
        yield
        state.ready = False
        logger.info("stopping: nothing is under way any more")


def _version(writer: Writer, catalog: Catalog) -> int | None:
    """Another number after each change of what answers are made of; None if others change it."""
    return None if writer.version is None else writer.version + catalog.version


class _Server(uvicorn.Server):
    """Stops on a signal without passing it on: there is still the store to close after it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop = asyncio.get_running_loop()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_SECOND == 0:
            now = self._loop.time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.look_after(now)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        self._app.state.draining = True
        if self._app.state.kafka is not None:
            # At once, not after the last request: others of the group can take over meanwhile.
            self._loop.call_soon_threadsafe(self._app.state.kafka.request_stop)
        if self._app.state.broadcast is not None:
            # Before uvicorn closes what is open: clients are told that they may come again.
            self._loop.call_soon_threadsafe(self._app.state.broadcast.stop)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _bind(host: str, port: int, variable: str) -> socket.socket:
    """An address to serve on, taken before the store is opened, and listened on after."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"HOST and {variable}: {host}:{port} can't be listened on: {error.strerror}"
        ) from None
    return bound


async def serve(settings: Settings, listener: socket.socket, *own: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way, and let go of everything.

    Raises:
        AnalyticsError: the start failed; the text says what to change.
    """
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws=SocketProtocol,
        ws_max_size=1024,  # clients have nothing to say
        ws_per_message_deflate=False,  # it costs more memory, for each client, than it is worth
        lifespan="off",  # it is entered here, so that a failed start ends in one line
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config, app)
    # Before it is copied: a copy of one that blocks makes it block in other processes too, which
    # then wait for a second connection with the first in hand.
    listener.setblocking(False)
    listeners = [listener, *(listener.dup() for _ in range(_LISTENERS - 1)), *own]
    if multiprocessing.parent_process() is not None:
        # Not before it is ready: requests go to any of the processes that listen.
        async with app.router.lifespan_context(app), _stopped_with_parent():
            await server.serve(sockets=listeners)
        return
    # From the start, so that the probes are answered while the store is opened.
    serving = asyncio.create_task(server.serve(sockets=listeners))
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
    _allow_many_files()
    with ExitStack() as stack:
        listener = stack.enter_context(_bind(settings.host, settings.port, "PORT"))
        first = settings.process_ports
        own = [
            [] if first is None else [_bind(settings.host, first + place, "PROCESS_PORTS")]
            for place in range(settings.workers)
        ]
        for sockets in own:
            for one in sockets:
                stack.enter_context(one)
        _warn_of_open_doors(settings, listener.getsockname()[0])
        if settings.workers == 1:
            return run_loop(serve(settings, listener, *own[0]))
        return run_processes(settings.workers, partial(_work, listener, own))


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _work(listener: socket.socket, own: list[list[socket.socket]], place: int) -> None:
    """One of several processes; they share what they listen on, but for a port of their own."""
    failed = run(lambda settings: run_loop(serve(settings, listener, *own[place])))
    sys.exit(CANNOT_START if failed else 0)


if __name__ == "__main__":
    sys.exit(run(start))
