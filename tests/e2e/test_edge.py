"""What reaches the service before there is a request: its size, its slowness, its number."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.api import edge
from app.core.config import Settings
from app.main import serve
from app.schemas.events import MAX_BODY_BYTES
from tests.support.answers import PREFIX
from tests.support.process import free_port


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """Of the service on a socket, in this process."""
    async with served(tmp_path) as one:
        yield one


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[int]:
    port = free_port()
    settings = Settings(
        _env_file=None, enable_kafka=False, clickhouse_path=path / "store", port=port
    )
    with socket.create_server(("127.0.0.1", port)) as listener:
        serving = asyncio.create_task(serve(settings, listener))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            while (await client.get("/readyz")).status_code != 200:
                assert not serving.done()
        yield port
        signal.raise_signal(signal.SIGTERM)
        await serving


async def exchange(port: int, *pieces: bytes, pause: float = 0.0, wait: float = 0.0) -> bytes:
    """Send these, and return all that comes until the service closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = asyncio.create_task(reader.read())
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
    await asyncio.sleep(wait)
    try:
        return await asyncio.wait_for(received, 20)
    except ConnectionResetError:  # it had closed while we were still sending
        return b""
    finally:
        writer.transport.abort()


def assert_refused(answer: bytes, status: int) -> None:
    """The whole answer is a problem of this status."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["request_id"].encode() in head
    assert (b"retry-after: " in head) == (status in (408, 503))


HOST = b"Host: service\r\n"
LONG = b"x" * edge.MAX_HEAD_BYTES


GROWING: list[tuple[int, list[bytes]]] = [
    (414, [b"GET /" + b"x" * edge.MAX_URL_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n"]),
    (414, [b"GET /", *[b"x" * 4096] * 9]),
    (431, [b"GET /livez HTTP/1.1\r\n" + HOST + b"A: " + LONG + b"\r\n\r\n"]),
    (431, [b"GET /livez HTTP/1.1\r\n" + HOST + b"A: ", *[b"x" * 4096] * 9]),
    (431, [b"GET /livez HTTP/1.1\r\n", *[b"A: b\r\n" * 800] * 9]),
    (431, [b"\r\n" * 4096] * 9),
    # After the body in chunks, headers may come once more.
    (
        431,
        [
            b"POST " + f"{PREFIX}/events".encode() + b" HTTP/1.1\r\n" + HOST,
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nA: ",
            *[b"x" * 4096] * 9,
        ],
    ),
]


async def test_what_grows_without_end_is_refused(port: int) -> None:
    for status, pieces in GROWING:
        assert_refused(await exchange(port, *pieces, pause=0.001), status)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        longest = {"a": "x" * (edge.MAX_HEAD_BYTES - 1000)}
        assert (await client.get("/livez", headers=longest)).status_code == 200
        path = "/" + "x" * (edge.MAX_URL_BYTES - 1)
        assert (await client.get(path)).status_code == 404


async def test_requests_of_one_connection_do_not_pile_up(port: int) -> None:
    one = b"GET /livez HTTP/1.1\r\n" + HOST
    some = (one + b"\r\n") * (edge.MAX_PIPELINED - 1) + one + b"Connection: close\r\n\r\n"
    assert (await exchange(port, some)).count(b"HTTP/1.1 200 ") == edge.MAX_PIPELINED
    answers = await exchange(port, (one + b"\r\n") * 1000)
    assert answers.count(b"HTTP/1.1 ") <= edge.MAX_PIPELINED + 1


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(port: int) -> None:
    size = MAX_BODY_BYTES + 1
    head = f"POST {PREFIX}/events/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.transport.abort()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\n".replace(str(size), str(10**12)).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.transport.abort()


async def test_slow_clients_are_parted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(edge, name, 1)
    post = f"POST {PREFIX}/events HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n".encode()
    async with served(tmp_path) as port:
        began = time.monotonic()
        nothing, head, second, body, reading = await asyncio.gather(
            exchange(port),
            exchange(port, *[b"GET /livez HTTP/1.1\r\nA: "], *[b"x"] * 20, pause=0.2),
            exchange(port, b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /", wait=0.1),
            exchange(port, post, *[b" "] * 20, pause=0.2),
            unread(port),
        )
        assert time.monotonic() - began < 15
        assert nothing == b""
        assert_refused(head, 408)
        first, _, rest = second.partition(b'{"status":"ok"}')
        assert first.startswith(b"HTTP/1.1 200 ")
        assert_refused(rest, 408)
        assert_refused(body, 408)
        assert reading
        # One that is on the way for long, but comes fast enough, is nobody's trouble.
        size = 6 * edge.MIN_BODY_RATE
        steady = (
            f"POST {PREFIX}/events/batch HTTP/1.1\r\nHost: x\r\n"
            f"Connection: close\r\nContent-Length: {size}\r\n\r\n"
        )
        pieces = [b"[" + b" " * (size // 12 - 1), *[b" " * (size // 12)] * 10]
        pieces.append(b" " * (size // 12 - 1) + b"]")
        stored = await exchange(port, steady.encode(), *pieces, pause=0.2)
        assert stored.startswith(b"HTTP/1.1 200 ")


async def unread(port: int) -> bool:
    """Ask for much, read nothing, and see the connection go."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ask = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            writer.write(ask * 10)
            await asyncio.sleep(0.1)
            if writer.transport.is_closing():
                return True
    except ConnectionError:
        return True
    finally:
        writer.transport.abort()
    return False


async def test_probes_are_answered_when_there_are_too_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(edge, "_GUESTS", 5)
    post = f"POST {PREFIX}/events HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n".encode()

    def get(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()

    async with served(tmp_path) as port:
        busy = []
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post)
            busy.append(writer)
        assert (await exchange(port, get("/livez"))).startswith(b"HTTP/1.1 200 ")
        assert_refused(await exchange(port, get(f"{PREFIX}/trends")), 503)
        guests = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        assert_refused(await exchange(port), 503)
        for writer in [*busy, *(one[1] for one in guests)]:
            writer.transport.abort()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + 10
            while (await client.get(f"{PREFIX}/trends")).status_code != 200:
                assert time.monotonic() < deadline
        # Those who only keep their connections make room for others.
        idle = [httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") for _ in range(20)]
        for one in idle:
            assert (await one.get("/livez")).status_code == 200
        assert (await exchange(port, get(f"{PREFIX}/trends"))).startswith(b"HTTP/1.1 200 ")
        for one in idle:
            await one.aclose()
