"""Metrics and logs of processes: what is refused before it is a request, and several at once."""

import json
import os
import re
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx

from tests.conftest import PASSWORD
from tests.e2e.test_server import wait_for_workers, workers
from tests.support.answers import PREFIX, assert_problem
from tests.support.brokers import first_of_free_ports
from tests.support.native_server import native_server
from tests.support.process import Service, free_port, running_service
from tests.support.scrapes import Scrape


def scrape(url: str) -> Scrape:
    return Scrape(httpx.get(f"{url}/metrics").raise_for_status().text)


def refused(port: int, junk: bytes) -> tuple[int, str]:
    """The status and the request's id of the answer to what is no request."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(junk)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    return problem["status"], problem["request_id"]


def test_what_is_no_request_is_counted_and_logged_too(tmp_path: Path) -> None:
    own = free_port()
    environment = {"LOG_FORMAT": "json", "PROCESS_PORTS": str(own)}
    with running_service(tmp_path / "store", **environment) as service:
        answers = [
            refused(service.port, b"FOO / HTTP/1.1\r\n\r\n"),
            refused(service.port, b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
            refused(own, b"GET / HTTP/1.1\r\nX: " + b"x" * 33_000 + b"\r\n\r\n"),
        ]
        assert [status for status, _ in answers] == [400, 414, 431]
        for port in (service.port, own):
            seen = scrape(f"http://127.0.0.1:{port}").requests()
            for status, _ in answers:
                assert seen["other", "unmatched", str(status)] == 1
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        lines = [json.loads(line) for line in service.log.splitlines()]
        logged = {one["request_id"]: one for one in lines if "request_id" in one}
        for status, request_id in answers:
            assert logged[request_id]["route"] == "unmatched"
            assert logged[request_id]["status"] == status


def test_each_process_is_asked_at_a_port_of_its_own(tmp_path: Path) -> None:
    first = first_of_free_ports()
    urls = [f"http://127.0.0.1:{first + place}" for place in range(2)]
    with native_server(tmp_path / "server", PASSWORD) as server:
        environment = {"WORKERS": "2", "PROCESS_PORTS": str(first), **server.environment}
        with running_service(tmp_path / "service", **environment) as service:
            for _ in range(20):
                assert httpx.get(f"{service.url}{PREFIX}/trends").status_code == 200
            before = [when_answered(url) for url in urls]
            counts = [one.requests().get(("GET", f"{PREFIX}/trends", "200"), 0) for one in before]
            assert sum(counts) == 20
            assert_problem(httpx.get(f"{service.url}/metrics"), 421)

            os.kill(workers(service)[0], signal.SIGKILL)
            wait_for_workers(service, 2)
            deadline = time.monotonic() + 60
            started = "process_start_time_seconds"
            while True:
                after = [when_answered(url) for url in urls]
                again = [
                    one.value(started) != other.value(started)
                    for one, other in zip(before, after, strict=True)
                ]
                if any(again):
                    break
                assert time.monotonic() < deadline, "nobody answers at the port of the killed one"
            assert again.count(True) == 1, "the other has gone on"
            service.signal(signal.SIGTERM)
            assert service.wait() == 0


def when_answered(url: str) -> Scrape:
    """Once its process listens, which may be starting."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError):
            return scrape(url)
        assert time.monotonic() < deadline


def test_a_taken_port_of_a_process_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ended = Service(tmp_path / "store", PROCESS_PORTS=port).run_to_end()
    assert ended.returncode == 1
    assert re.fullmatch(f"cannot start: HOST and PROCESS_PORTS: .*{port} .*\n", ended.stderr)
