"""What is happening now, over a WebSocket: through a socket, from the service in this process."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from app.api.edge import Protocol
from app.api.sockets import SocketProtocol
from app.core.config import Settings
from app.core.keys import digest_of
from app.main import create_app
from tests.support.answers import PREFIX
from tests.support.process import running_service

WINDOW = "days=1&tz=Pacific/Kiritimati"
QUERIES = "SELECT value FROM system.events WHERE event = 'SelectQuery'"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not holds():  # noqa: ASYNC110 - uvicorn sets no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[uvicorn.Server, str]]:
    """The application behind a socket, in this process; its server, and its address."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws=SocketProtocol,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    # Without its own handling of signals, which is for the main program.
    running = asyncio.create_task(server._serve([listener]))
    await until(lambda: server.started)
    try:
        yield server, f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[tuple[Any, str, httpx.AsyncClient]]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        serving(app) as (_, address),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        yield app, address, client


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, clickhouse_path=tmp_path / "store", enable_kafka=False)


def live(address: str, query: str = "", **options: Any) -> connect:
    return connect(f"ws://{address}{PREFIX}/live{query}", **options)


async def told(connection: ClientConnection, seconds: float = 5) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        message: dict[str, Any] = json.loads(await connection.recv())
    return message


def event(kind: str = "start", **fields: Any) -> dict[str, Any]:
    return {
        "event_id": str(uuid4()),
        "user_id": str(uuid4()),
        "movie_id": str(uuid4()),
        "event_type": kind,
        **fields,
    }


async def store(client: httpx.AsyncClient, *events: dict[str, Any]) -> None:
    receipt = (await client.post(f"{PREFIX}/events/batch", json=events)).json()
    assert receipt["stored"] == len(events), receipt


async def test_who_connects_is_told_what_is_so_and_what_changes(settings: Settings) -> None:
    async with service(settings) as (_, address, client):
        await store(client, *[event() for _ in range(3)])
        # So far east that it is another day than in UTC for most of it.
        async with live(address, "?tz=Pacific/Kiritimati") as listener:
            first = await told(listener)
            assert without_time(first) == await expected(client, rate=3)
            assert first["today"]["total_views"] == first["now"]["sessions"] == 3
            assert first["as_of"] == first["now"]["as_of"]
            await store(client, event(), event("finish"))
            truth = await expected(client, rate=5)
            # Its parts are asked for at the same time: one may have been so before the other.
            while without_time(await told(listener)) != truth:
                pass
            assert truth["today"]["total_views"] == truth["now"]["sessions"] == 4


async def expected(client: httpx.AsyncClient, rate: int) -> dict[str, Any]:
    """What the API answers, as a snapshot has it."""
    now = (await client.get(f"{PREFIX}/now")).json()
    day = (await client.get(f"{PREFIX}/overview?{WINDOW}")).json()
    figures = ("total_views", "finishes", "events_count", "unique_viewers", "completion_rate")
    del now["as_of"]
    return {
        "type": "snapshot",
        "now": now,
        "events_per_second": round(rate / 60, 2),
        "today": {"date": day["period_end"], **{name: day[name] for name in figures}},
    }


def without_time(message: dict[str, Any]) -> dict[str, Any]:
    now = {name: value for name, value in message["now"].items() if name != "as_of"}
    return {name: value for name, value in message.items() if name != "as_of"} | {"now": now}


async def test_nobody_is_told_more_than_once_a_second_or_nothing_new(embedded: Settings) -> None:
    clock = asyncio.get_running_loop().time
    async with service(embedded) as (_, address, client), live(address) as listener:
        await told(listener)
        times = [clock()]

        async def listen() -> None:
            async for message in listener:
                times.append(clock())
                views.append(json.loads(message)["today"]["total_views"])

        views: list[int] = []
        listening = asyncio.create_task(listen())
        until = clock() + 2.5
        sent = 0
        while clock() < until:
            await store(client, event())
            sent += 1
        await asyncio.sleep(1.5)
        assert views[-1] == sent
        assert len(times) >= 3
        # The messages are on their way for a moment, the one less than the other.
        assert all(later - earlier > 0.9 for earlier, later in pairwise(times))
        told_so_far = len(times)
        await store(client, event(timestamp=(datetime.now(UTC) - timedelta(days=3)).isoformat()))
        await asyncio.sleep(1.5)
        assert len(times) == told_so_far  # it is no event of today, nor one of now
        listening.cancel()


async def test_one_look_at_the_store_serves_all_and_without_them_there_is_none(
    embedded: Settings,
) -> None:
    async with service(embedded) as (app, address, client):

        async def looks(seconds: float) -> int:
            """How many queries the store answers meanwhile, apart from this question."""
            [before] = await app.state.store.execute(QUERIES)
            await asyncio.sleep(seconds)
            [after] = await app.state.store.execute(QUERIES)
            return int(after["value"] - before["value"] - 1)

        listeners = await asyncio.gather(*(connected(address) for _ in range(60)))
        await asyncio.gather(*map(told, listeners))
        await store(client, event())
        writing = asyncio.create_task(keep_writing(client, 1.5))
        assert await looks(1.5) < 60  # of the writer, too
        await writing
        for listener in listeners:
            assert (await told(listener))["today"]["total_views"] >= 1
        await asyncio.gather(*(listener.close() for listener in listeners))
        await until(lambda: not app.state.broadcast.listeners)
        await store(client, event())
        assert await looks(1.5) == 0


async def connected(address: str) -> ClientConnection:
    return await live(address)


async def keep_writing(client: httpx.AsyncClient, seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        await store(client, event())
        await asyncio.sleep(0.3)


async def test_a_listener_that_takes_nothing_is_let_go_and_costs_the_others_nothing(
    embedded: Settings,
) -> None:
    """Its socket says so: what is sent is never taken."""
    blocked = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            blocked.set()
            await asyncio.Event().wait()

    connects = asyncio.Event()

    async def receive() -> Any:
        if connects.is_set():
            await asyncio.Event().wait()
        connects.set()
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": f"{PREFIX}/live",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
    }
    async with service(embedded) as (app, address, client), live(address) as listener:
        await told(listener)
        stuck = asyncio.create_task(app(scope, receive, send))
        await blocked.wait()
        assert app.state.broadcast.listeners == 2
        await store(client, event())
        assert (await told(listener))["today"]["total_views"] == 1
        async with asyncio.timeout(8):
            await stuck
        assert app.state.broadcast.listeners == 1


async def test_a_connection_that_takes_nothing_is_cut() -> None:
    """Closing it would wait until what is on its way is taken, which is never."""

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            async with asyncio.timeout(0.5):
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(2**20)})
        except TimeoutError:
            pass

    async with serving(flood) as (server, address):
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**10)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert await reader.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        assert server.server_state.connections
        await until(lambda: not server.server_state.connections)
        writer.close()


async def test_what_cant_be_is_refused_before_it_is_accepted(embedded: Settings) -> None:
    async with service(embedded) as (app, address, _):
        with pytest.raises(InvalidStatus) as refused:
            await live(address, "?tz=Mars/Phobos")
        answer = refused.value.response
        body = json.loads(answer.body or b"")
        assert (answer.status_code, body["status"]) == (422, 422)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == body["request_id"]
        assert "Mars" not in json.dumps(body)
        # A page from elsewhere, in the browser of somebody who may reach the service.
        with pytest.raises(InvalidStatus) as refused:
            await live(address, origin="http://evil.example")
        assert refused.value.response.status_code == 403
        app.state.ready = False
        with pytest.raises(InvalidStatus) as refused:
            await live(address)
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) > 0
        app.state.ready = True
        ours = [Subprotocol("analytics.v1"), Subprotocol("key.secret")]
        async with live(address, origin=f"http://{address}", subprotocols=ours) as listener:
            assert listener.subprotocol == "analytics.v1"
            await told(listener)


async def test_listeners_hear_when_the_store_is_away_and_go_when_the_service_stops(
    embedded: Settings,
) -> None:
    async with service(embedded) as (app, address, _), live(address) as listener:
        await told(listener)
        app.state.broadcast.stop()
        with pytest.raises(ConnectionClosed):
            await told(listener)
        assert listener.close_code == 1001
    async with service(embedded) as (app, address, client), live(address) as listener:
        await told(listener)
        await app.state.store.execute("RENAME TABLE traffic_mv TO elsewhere")
        await store(client, event())
        assert await told(listener, 20) == {"type": "unavailable"}
        await app.state.store.execute("RENAME TABLE elsewhere TO traffic_mv")
        await store(client, event())
        assert (await told(listener, 20))["type"] == "snapshot"


async def test_a_process_keeps_no_talkers_and_sends_its_listeners_away_when_stopped(
    tmp_path: Path,
) -> None:
    with running_service(tmp_path / "store") as process:
        listeners = [await live(f"127.0.0.1:{process.port}") for _ in range(5)]
        for listener in listeners[:3]:  # the others haven't read anything yet
            await told(listener)
        # Who says what nobody wants to hear, and much of it, goes first.
        talker = await live(f"127.0.0.1:{process.port}")
        await talker.send("x" * 2_000)
        await talker.wait_closed()
        assert talker.close_code == 1009
        process.signal(signal.SIGTERM)
        began = asyncio.get_running_loop().time()
        assert await asyncio.to_thread(process.wait) == 0
        assert asyncio.get_running_loop().time() - began < 10
        for listener in listeners:
            await listener.wait_closed()
            assert listener.close_code == 1001


async def test_a_connection_ends_with_its_key(embedded: Settings) -> None:
    brief, lasting = "brief", "lasting"
    expiry = datetime.now(UTC) + timedelta(seconds=3)
    keys = f"{digest_of(brief).hex()}@{expiry.isoformat()},{digest_of(lasting).hex()}"
    guarded = embedded.model_copy(update={"read_api_keys": SecretStr(keys)})
    async with service(guarded) as (_, address, _client):

        def connected(key: str) -> connect:
            return live(address, additional_headers={"X-API-Key": key})

        async with connected(brief) as going, connected(lasting) as staying:
            await told(going)
            await told(staying)
            async with asyncio.timeout(10):
                await going.wait_closed()
            assert datetime.now(UTC) >= expiry
            assert going.close_code == 1001
            await staying.ping()
            assert staying.close_code is None
        with pytest.raises(InvalidStatus) as refused:
            await connected(brief)
        assert refused.value.response.status_code == 401
