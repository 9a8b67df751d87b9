"""A ClickHouse server for tests: the native protocol, with the embedded engine behind it.

    python -m tests.support.native_server STORE --port N [--password P] [--clustered]

The real driver talks to it over a real socket, and the real engine answers. What is not real is
what lies between: users (`default`; `reader`, who may not write; `tight`, who has little memory),
and the packets, those of revision 54459. It may be killed and started again on the same store.

Clustered, it has a cluster `one` of one shard, itself, and a cluster `two` of two, itself twice:
every row is read by both. Distributed tables are real there; ON CLUSTER and replicas are left out.
"""

import argparse
import io
import logging
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import lz4.block
from clickhouse_cityhash.cityhash import CityHash128

from tests.support.process import ROOT, free_port

logger = logging.getLogger(__name__)

REVISION = 54459  # the first with parameters
HELLO, DATA, EXCEPTION, PROGRESS, PONG, END_OF_STREAM, PROFILE_EVENTS = 0, 1, 2, 3, 4, 5, 14
QUERY, SENT_DATA, CANCEL, PING = 1, 2, 3, 4  # from the client
LZ4 = 0x82
PROGRESS_SECONDS = 0.1

USERS = {"default": "", "reader": "readonly = 2", "tight": "max_memory_usage = 55000000"}
SIZES = {
    "Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "UUID": 16, "IPv4": 4, "IPv6": 16,
    "Enum8": 1, "Enum16": 2, "Bool": 1, "Nothing": 1, "Float32": 4, "Float64": 8,
    **{f"{sign}Int{bits}": bits // 8 for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)},
}  # fmt: skip
ESCAPES = {"b": "\b", "f": "\f", "r": "\r", "n": "\n", "t": "\t", "0": "\0", "a": "\a", "v": "\v"}


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FromSocket:
    """Reads as many bytes as are asked for."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._buffer = b""
        self._place = 0

    def read(self, size: int, /) -> bytes:
        while len(self._buffer) - self._place < size:
            piece = self._wire.recv(1 << 18)
            if not piece:
                raise EOFError
            self._buffer = self._buffer[self._place :] + piece
            self._place = 0
        self._place += size
        return self._buffer[self._place - size : self._place]

    def peek(self) -> bytes | None:
        """The next byte, without waiting for it: None if there is none, empty if none will come."""
        if self._place < len(self._buffer):
            return self._buffer[self._place : self._place + 1]
        readable, _, _ = select.select([self._wire], [], [], 0)
        return self._wire.recv(1, socket.MSG_PEEK) if readable else None


def varint(number: int) -> bytes:
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def read_varint(source: Source) -> int:
    number = shift = 0
    while True:
        [byte] = source.read(1)
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number
        shift += 7


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


def read_text(source: Source) -> str:
    return source.read(read_varint(source)).decode()


def arguments(kind: str) -> list[str]:
    """What is between the outer parentheses of a type, at its commas."""
    inner = kind[kind.index("(") + 1 : -1]
    found, depth, quoted, start = [], 0, False, 0
    for place, letter in enumerate(inner):
        if letter == "'" and inner[place - 1 : place] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if letter == "," and depth == 0:
                found.append(inner[start:place].strip())
                start = place + 1
    return [*found, inner[start:].strip()]


def read_column(source: Source, kind: str, rows: int) -> bytes:
    """The bytes of so many values of a type: where they end follows from the type."""
    name = kind.partition("(")[0]
    if not rows:
        return b""
    if name in SIZES:
        return source.read(SIZES[name] * rows)
    if name == "String":
        pieces = []
        for _ in range(rows):
            length = read_varint(source)
            pieces.append(varint(length) + source.read(length))
        return b"".join(pieces)
    if name == "FixedString":
        return source.read(int(arguments(kind)[0]) * rows)
    if name == "Nullable":
        return source.read(rows) + read_column(source, arguments(kind)[0], rows)
    if name in ("Array", "Map"):
        offsets = source.read(8 * rows)
        count = int.from_bytes(offsets[-8:], "little")
        inner = f"Tuple({', '.join(arguments(kind))})" if name == "Map" else arguments(kind)[0]
        return offsets + read_column(source, inner, count)
    if name == "LowCardinality":  # version, type of indexes, keys, indexes
        head = source.read(3 * 8)
        _, flags, keys = struct.unpack("<QQQ", head)
        inner = re.sub(r"Nullable\((.*)\)", r"\1", arguments(kind)[0])
        return head + read_column(source, inner, keys) + source.read(8 + (rows << flags % 256))
    if name == "Tuple":  # its elements may have names
        kinds = [re.sub(r"^(`[^`]*`|\w+) ", "", one) for one in arguments(kind)]
        return b"".join(read_column(source, one, rows) for one in kinds)
    raise ValueError(f"a column of type {kind} is not known here")


def read_block(source: Source, *, flagged: bool) -> tuple[int, list[tuple[str, str]], list[bytes]]:
    """Rows, names and types, and columns. On the wire, columns have a flag that files have not."""
    if flagged:
        while field := read_varint(source):  # of the block itself
            source.read(1 if field == 1 else 4)
    columns, rows = read_varint(source), read_varint(source)
    header, data = [], []
    for _ in range(columns):
        name, kind = read_text(source), read_text(source)
        if flagged:
            assert source.read(1) == b"\0"
        header.append((name, kind))
        data.append(read_column(source, kind, rows))
    return rows, header, data


def block(rows: int, header: list[tuple[str, str]], data: list[bytes], *, flagged: bool) -> bytes:
    info = varint(1) + b"\0" + varint(2) + struct.pack("<i", -1) + varint(0) if flagged else b""
    columns = [
        text(name) + text(kind) + (b"\0" if flagged else b"") + column
        for (name, kind), column in zip(header, data, strict=True)
    ]
    return info + varint(len(header)) + varint(rows) + b"".join(columns)


def hashed(data: bytes) -> bytes:
    """The checksum of a compressed block, as it travels: the upper half before the lower."""
    number = CityHash128(data)
    return struct.pack("<QQ", number >> 64, number & (2**64 - 1))


class GoneError(Exception):
    """The client is."""


class Session:
    """One connection, its engine's connection in a thread of its own."""

    def __init__(self, server: "Endpoint", wire: socket.socket) -> None:
        self._server = server
        self._wire = wire
        self._source = FromSocket(wire)
        self._engine = ThreadPoolExecutor(1)
        self._connection: Any = None
        self._compressed = False
        self._settings: dict[str, str] = {}

    def run(self) -> None:
        try:
            with suppress(EOFError, OSError, GoneError):
                self._connection = self._engine.submit(self._server.connect).result()
                self._greet()
                while True:
                    self._serve(read_varint(self._source))
        finally:
            if self._connection is not None:
                self._engine.submit(self._connection.close)
            self._engine.shutdown()
            self._wire.close()

    def _greet(self) -> None:
        assert read_varint(self._source) == HELLO
        read_text(self._source)
        for _ in range(3):
            read_varint(self._source)
        database, user, password = (read_text(self._source) for _ in range(3))
        if user not in USERS or password != self._server.password:
            self._refuse(516, "AUTHENTICATION_FAILED", f"{user}: Authentication failed")
        try:
            if database:
                self._ask(f"USE `{database}`")
            if USERS[user]:
                self._ask(f"SET {USERS[user]}")
        except RuntimeError as error:
            self._fail(error)
            raise GoneError from None
        self._send(
            varint(HELLO) + text("ClickHouse") + varint(26) + varint(9) + varint(REVISION)
            + text("UTC") + text("test") + varint(2)
        )  # fmt: skip
        read_text(self._source)  # the quota key

    def _serve(self, packet: int) -> None:
        if packet == PING:
            self._send(varint(PONG))
        elif packet == QUERY:
            try:
                self._query(*self._read_query())
            except RuntimeError as error:
                self._fail(error)
        elif packet != CANCEL:  # that may come when all is over
            raise GoneError

    def _read_query(self) -> tuple[str, dict[str, str], dict[str, str]]:
        source = self._source
        read_text(source)  # query_id
        source.read(1)
        for _ in range(3):
            read_text(source)
        source.read(8 + 1)
        for _ in range(3):
            read_text(source)
        for _ in range(3):
            read_varint(source)
        read_text(source)
        for _ in range(2):
            read_varint(source)
        assert source.read(1) == b"\0"  # no OpenTelemetry
        for _ in range(3):
            read_varint(source)
        settings = self._read_settings()
        read_text(source)
        read_varint(source)
        self._compressed = bool(read_varint(source))
        statement = read_text(source)
        quoted = self._read_settings()
        rows, header, _ = self._receive_block()
        assert (rows, header) == (0, [])  # no external tables
        parameters = {
            name: re.sub(
                r"\\(.)", lambda one: ESCAPES.get(one[1], one[1]), value[1:-1], flags=re.DOTALL
            )
            for name, value in quoted.items()
        }
        return statement, settings, parameters

    def _read_settings(self) -> dict[str, str]:
        settings = {}
        while name := read_text(self._source):
            self._source.read(1)
            settings[name] = read_text(self._source)
        return settings

    def _query(self, sql: str, settings: dict[str, str], parameters: dict[str, str]) -> None:
        self._apply(settings)
        values = re.search(r"\bVALUES\s*$", sql)
        if values and re.match(r"\s*INSERT\b", sql):
            self._insert(sql[: values.start()])
        else:
            answer = io.BytesIO(self._watched(self._server.here(sql).encode(), parameters))
            size = answer.getbuffer().nbytes
            first = True
            while answer.tell() < size:
                rows, header, data = read_block(answer, flagged=False)
                if first:
                    self._send_block(DATA, 0, header, [b""] * len(header))
                    first = False
                if rows:
                    self._send_block(DATA, rows, header, data)
        self._send(varint(END_OF_STREAM))

    def _insert(self, insert: str) -> None:
        target = re.match(r"\s*INSERT\s+INTO\s+(\S+)\s*\((.*?)\)", insert, re.DOTALL)
        assert target, insert
        described = self._ask(f"DESCRIBE (SELECT {target[2]} FROM {target[1]})", "TabSeparated")
        header = []
        for line in described.decode().splitlines():
            name, kind = line.split("\t")[:2]
            kind = re.sub(r"LowCardinality\((\w+)\)", r"\1", kind.replace("\\'", "'"))
            header.append((name, kind))
        self._send_block(DATA, 0, header, [b""] * len(header))
        blocks = []
        while True:
            assert read_varint(self._source) == SENT_DATA
            rows, given, data = self._receive_block(named=True)
            if not rows:
                break
            blocks.append(block(rows, given, data, flagged=False))
            self._send_events()
        if blocks:
            # Not as data behind the statement, where the engine takes an empty line for the end.
            with tempfile.NamedTemporaryFile(dir=self._server.scratch) as file:
                file.write(b"".join(blocks))
                file.flush()
                structure = ", ".join(f"`{name}` {kind}" for name, kind in header)
                source = f"file('{file.name}', Native, '{_escaped(structure)}')"
                self._watched(f"{insert} SELECT * FROM {source}".encode(), {})
        self._send_events()

    def _receive_block(
        self, *, named: bool = False
    ) -> tuple[int, list[tuple[str, str]], list[bytes]]:
        if not named:
            assert read_varint(self._source) == SENT_DATA
        read_text(self._source)
        if not self._compressed:
            return read_block(self._source, flagged=True)
        checksum = self._source.read(16)
        head = self._source.read(9)
        method, size, full = struct.unpack("<BII", head)
        packed = self._source.read(size - len(head))
        assert method == LZ4
        assert checksum == hashed(head + packed)
        return read_block(io.BytesIO(lz4.block.decompress(packed, full)), flagged=True)

    def _send_block(
        self, packet: int, rows: int, header: list[tuple[str, str]], data: list[bytes]
    ) -> None:
        raw = block(rows, header, data, flagged=True)
        if self._compressed:
            packed = lz4.block.compress(raw, store_size=False)
            framed = struct.pack("<BII", LZ4, len(packed) + 9, len(raw)) + packed
            raw = hashed(framed) + framed
        self._send(varint(packet) + text("") + raw)

    def _send_events(self) -> None:
        self._send(varint(PROFILE_EVENTS) + text("") + block(0, [], [], flagged=True))

    def _send(self, packet: bytes) -> None:
        self._wire.sendall(packet)

    def _apply(self, settings: dict[str, str]) -> None:
        """For the next query alone. What the engine doesn't know is passed over, as by a server."""
        wanted = {name: value for name, value in settings.items() if name in self._server.settings}
        changes = [f"{name} = DEFAULT" for name in self._settings if name not in wanted]
        changes += [
            f"{name} = '{_escaped(value)}'"
            for name, value in wanted.items()
            if self._settings.get(name) != value
        ]
        self._settings = wanted
        if changes:
            self._ask(f"SET {', '.join(changes)}")

    def _ask(self, sql: str, form: str = "Native") -> bytes:
        result: bytes = self._engine.submit(
            lambda: bytes(self._connection.query(sql, form).bytes())
        ).result()
        return result

    def _watched(self, statement: bytes, parameters: dict[str, str]) -> bytes:
        """Run it, say so ten times a second, and kill it when the client has gone or cancels."""
        mark = f"/* {uuid4()} */"

        def run() -> bytes:
            options = {"params": parameters} if parameters else {}
            return bytes(
                self._connection.query(mark.encode() + statement, "Native", **options).bytes()
            )

        running: Future[bytes] = self._engine.submit(run)
        done = threading.Event()
        running.add_done_callback(lambda _: done.set())
        while not done.wait(PROGRESS_SECONDS):
            if not self._is_wanted():
                while not done.wait(PROGRESS_SECONDS):
                    self._server.kill(mark)
        return running.result()

    def _is_wanted(self) -> bool:
        try:
            if self._source.peek() in (b"", bytes([CANCEL])):
                return False
            self._send(varint(PROGRESS) + varint(0) * 5)
        except OSError:
            return False
        return True

    def _fail(self, error: RuntimeError) -> None:
        found = re.findall(
            r"Code: (\d+)\. DB::\w*Exception: (.*?) \(([A-Z_0-9]+)\)", str(error), re.DOTALL
        )
        code, message, name = found[-1] if found else ("1002", str(error), "UNKNOWN_EXCEPTION")
        self._send_exception(int(code), name, message)

    def _refuse(self, code: int, name: str, message: str) -> None:
        self._send_exception(code, name, message)
        raise GoneError

    def _send_exception(self, code: int, name: str, message: str) -> None:
        self._send(
            varint(EXCEPTION) + struct.pack("<i", code) + text("DB::Exception")
            + text(f"DB::Exception: {message} ({name})") + text("0. here") + b"\0"
        )  # fmt: skip


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


REPLICA = "<replica><host>127.0.0.1</host><port>9000</port></replica>"
SHARD = f"<shard><internal_replication>true</internal_replication>{REPLICA}</shard>"
# Nothing listens on the port: it makes the engine take the shards for itself.
CLUSTERS = f"""<clickhouse><tcp_port>9000</tcp_port><remote_servers>
<one>{SHARD}</one><two>{SHARD}{SHARD}</two><doubling><shard>{REPLICA}</shard></doubling>
</remote_servers></clickhouse>
"""


class Endpoint:
    """Listens, with a thread for each connection."""

    def __init__(self, store: Path, port: int, password: str, *, clustered: bool) -> None:
        from chdb.state.sqlitelike import Connection  # not in the process that runs the tests

        self.password = password
        self._clustered = clustered
        self.scratch = store.with_name(f"{store.name}.scratch")
        self.scratch.mkdir(exist_ok=True)
        place = str(store)
        if clustered:
            configuration = self.scratch / "clusters.xml"
            configuration.write_text(CLUSTERS)
            place += f"?config-file={configuration}"
        self.connect: Callable[[], Any] = lambda: Connection(place)
        self._killer = self.connect()
        self._killing = threading.Lock()
        names = self._killer.query("SELECT name FROM system.settings", "TabSeparated").bytes()
        self.settings = set(names.decode().split())
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def kill(self, mark: str) -> None:
        with self._killing, suppress(RuntimeError):
            self._killer.query(f"KILL QUERY WHERE startsWith(query, '{mark}') ASYNC")

    def here(self, sql: str) -> str:
        """What is left of a statement for a cluster where there is one node."""
        if not self._clustered:
            return sql
        sql = re.sub(r" ON CLUSTER `\w+`", "", sql)
        return re.sub(r"ENGINE = Replicated(\w+)\(.*?\)", r"ENGINE = \1", sql)

    def serve(self) -> None:
        while True:
            wire, _ = self._listener.accept()
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Session(self, wire).run, daemon=True).start()


class NativeServer:
    """The endpoint as a process of its own, on a port that stays the same."""

    def __init__(
        self,
        store: Path,
        password: str = "",
        *,
        clustered: bool = False,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self._clustered = clustered
        self._store = store
        self._password = password
        self._log = store.with_name(f"{store.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Of the service, to use it."""
        return {
            "clickhouse_host": "127.0.0.1",
            "clickhouse_port": self.port,
            "clickhouse_password": self._password,
        }

    @property
    def environment(self) -> dict[str, str]:
        return {name.upper(): str(value) for name, value in self.settings.items()}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it can be connected to."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._store), "--port", str(self.port),
                 "--password", self._password,
                 *(["--clustered"] if self._clustered else [])],
                cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the server can't be connected to after a minute")

    def pause(self) -> None:
        """As if it hung, until `go_on`."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Harmless when it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def native_server(
    store: Path, password: str = "", *, clustered: bool = False, port: int | None = None
) -> Iterator[NativeServer]:
    server = NativeServer(store, password, clustered=clustered, port=port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


if __name__ == "__main__":
    logging.basicConfig()
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--password", default="")
    parser.add_argument("--clustered", action="store_true")
    flags = parser.parse_args()
    Endpoint(flags.store, flags.port, flags.password, clustered=flags.clustered).serve()
