"""What lies between the service and its ClickHouse: a wire that can be cut, and go dead."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Direction = Literal["to server", "to client"]
Fault = Literal["cut", "refuse", "stall"]

_PIECE = 16 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing it tells the other side so at once


class Wire:
    """A TCP proxy on 127.0.0.1, a thread for each direction of each connection.

    Args:
        target: the server's host and port.
        tls: what clients are spoken to with; the server isn't.
        delay: seconds that it takes each way.
    """

    def __init__(
        self, target: tuple[str, int], tls: ssl.SSLContext | None = None, delay: float = 0.0
    ) -> None:
        self._delay = delay
        self._target = target
        self._tls = tls
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.RLock()
        self._open: set[socket.socket] = set()
        self._cut: set[socket.socket] = set()
        self.passed: dict[Direction, int] = {"to server": 0, "to client": 0}
        """How many bytes have gone each way."""
        self._fault: tuple[Direction, int, Fault] | None = None
        self.struck = threading.Event()
        """Set when the fault that was asked for has happened."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    @property
    def connections(self) -> int:
        """How many are open on the client's side."""
        return len(self._open) // 2

    def strike(self, direction: Direction, after: int, fault: Fault) -> None:
        """Once so many bytes more have gone that way, do what the methods of these names do."""
        with self._lock:
            self.struck.clear()
            self._fault = (direction, after, fault)

    def spare(self) -> None:
        """What hasn't happened yet of what was asked for doesn't happen any more."""
        with self._lock:
            self._fault = None

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            self._cut |= self._open
            for side in self._open:
                with suppress(OSError):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    side.shutdown(socket.SHUT_RD)  # ends the threads, and says nothing yet

    def stall(self) -> None:
        """Connections stay open, and nothing comes through."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def refuse(self) -> None:
        """No new connections, and none of those that were there."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def accept(self) -> None:
        """After `refuse`."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        directions: tuple[tuple[Direction, socket.socket, socket.socket], ...] = (
            ("to server", client, server),
            ("to client", server, client),
        )
        threads = [threading.Thread(target=self._pump, args=one, daemon=True) for one in directions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {client, server}
            self._cut -= {client, server}
        client.close()
        server.close()

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                self._pass(direction, len(piece))
                if source in self._cut:
                    break
                self._flowing.wait()
                time.sleep(self._delay)
                sink.sendall(piece)
        if source not in self._cut:
            for side in (source, sink):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def _pass(self, direction: Direction, size: int) -> None:
        with self._lock:
            self.passed[direction] += size
            if self._fault is None or self._fault[0] != direction:
                return
            _, left, fault = self._fault
            if size <= left:
                self._fault = (direction, left - size, fault)
                return
            self._fault = None
            {"cut": self.cut, "refuse": self.refuse, "stall": self.stall}[fault]()
            self.struck.set()


@contextmanager
def wire_to(
    host: str, port: int, tls: ssl.SSLContext | None = None, delay: float = 0.0
) -> Iterator[Wire]:
    wire = Wire((host, port), tls, delay)
    try:
        yield wire
    finally:
        wire.refuse()
        wire.flow()
