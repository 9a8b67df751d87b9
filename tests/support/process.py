"""The service as a process of its own, to be talked to over a socket, and killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Service:
    """`python -m app.main` on a store of its own. Its log is kept beside the store."""

    def __init__(self, store: Path, *, module: str = "app.main", **environment: str) -> None:
        self.store = store
        self._module = module
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "CLICKHOUSE_PATH": str(store),
            "ENABLE_KAFKA": "false",
            "PORT": str(self.port),
            **environment,
        }
        self._log = store.with_name(f"{store.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Returns when it is a process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Returns when it is ready."""
        self.launch()
        assert self._process is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"the service ended by itself:\n{self.log}"
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"the service is not ready after a minute:\n{self.log}")

    def run_to_end(self) -> subprocess.CompletedProcess[str]:
        """For a start that must fail."""
        return subprocess.run(
            [sys.executable, "-m", "app.main"],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def is_gone(self) -> bool:
        """Whether it doesn't answer any more, though nothing was stopped: it has been killed."""
        try:
            httpx.get(f"{self.url}/livez", timeout=30)
        except httpx.TransportError:
            return True
        return False

    def wait(self) -> int:
        """Until it has ended. Returns its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Harmless when it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_service(store: Path, **environment: str) -> Iterator[Service]:
    service = Service(store, **environment)
    try:
        service.start()
        yield service
    finally:
        service.kill()
