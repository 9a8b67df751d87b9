"""The service as it is started by people: a process, a socket, and its last words."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.core.keys import digest_of, new_key
from tests.support.answers import PREFIX
from tests.support.process import ROOT, Service, running_service


def event() -> dict[str, str]:
    return {
        "user_id": str(uuid4()),
        "movie_id": str(uuid4()),
        "event_type": "start",
        "timestamp": datetime.now(UTC).isoformat(),
    }


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_service(tmp_path / "store") as started:
        yield started


def starts(service: Service) -> int:
    days = httpx.get(f"{service.url}{PREFIX}/trends").json()["items"]
    return sum(day["starts"] for day in days)


def test_it_starts_stops_and_starts_with_its_data(tmp_path: Path) -> None:
    with running_service(tmp_path / "store") as service:
        assert httpx.post(f"{service.url}{PREFIX}/events", json=event()).status_code == 201
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        service.start()
        assert starts(service) == 1
        service.signal(signal.SIGINT)
        assert service.wait() == 0
        assert "Traceback" not in service.log


def test_sigterm_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with running_service(tmp_path / "store") as service:
        acknowledged = []
        first = threading.Event()

        def send_until_refused(_: int) -> None:
            with httpx.Client(base_url=service.url) as client:
                try:
                    while client.post(f"{PREFIX}/events", json=event()).status_code == 201:
                        acknowledged.append(1)
                        first.set()
                except httpx.TransportError:
                    return

        with ThreadPoolExecutor(8) as senders:
            running = [senders.submit(send_until_refused, n) for n in range(8)]
            assert first.wait(30)
            service.signal(signal.SIGTERM)
            assert service.wait() == 0
            for sender in running:
                sender.result()
        service.start()
        # Cut off after its event was stored and before the answer was read: at most one a sender.
        assert len(acknowledged) <= starts(service) <= len(acknowledged) + 8
        assert "Traceback" not in service.log


def test_a_second_service_on_the_same_store_ends_with_one_line(tmp_path: Path) -> None:
    with running_service(tmp_path / "store"):
        ended = Service(tmp_path / "store").run_to_end()
    assert ended.returncode == 1
    assert re.fullmatch("cannot start: CLICKHOUSE_PATH: .* in use .*\n", ended.stderr)


def test_a_taken_port_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ended = Service(tmp_path / "store", PORT=port).run_to_end()
    assert ended.returncode == 1
    assert re.fullmatch(f"cannot start: HOST and PORT: .*{port} .*\n", ended.stderr)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "eight"),
        ("ENABLE_KAFKA", "perhaps"),
        ("CLICKHOUSE_PATH", "/dev/null/store"),
        ("HOST", "no.such.host.invalid"),
        ("WORKERS", "2"),
        ("CLICKHOUSE_DATABASE", "system"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_start_with_one_line(
    tmp_path: Path, variable: str, value: str
) -> None:
    ended = Service(tmp_path / "store", **{variable: value}).run_to_end()
    assert ended.returncode == 1
    assert re.fullmatch(f"cannot start: .*{variable}.*\n", ended.stderr), ended.stderr


def test_open_doors_are_named_loudly_where_others_can_come_in(tmp_path: Path) -> None:
    key = new_key()
    hashed = digest_of(key).hex()
    with running_service(tmp_path / "store", HOST="0.0.0.0", READ_API_KEYS=hashed) as service:
        warnings = [line for line in service.log.splitlines() if " WARNING " in line]
        assert len(warnings) == 1
        assert "ANYBODY" in warnings[0]
        assert "INGEST_API_KEYS" in warnings[0]
        assert "READ_API_KEYS" not in warnings[0]  # it is set
        assert "ADMIN_API_KEY" not in warnings[0]  # nobody may
        for sent in (key, f"{key}x"):
            for headers in ({"X-API-Key": sent}, {"Authorization": f"Bearer {sent}"}):
                answer = httpx.get(f"{service.url}{PREFIX}/trends", headers=headers)
                assert answer.status_code == (200 if sent == key else 401)
                assert key not in answer.text
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        assert key not in service.log
        assert hashed not in service.log
    with running_service(tmp_path / "other") as service:
        assert "WARNING" not in service.log


def test_certificates_that_cannot_be_read_end_the_start_with_one_line(tmp_path: Path) -> None:
    ended = Service(
        tmp_path / "store",
        ENABLE_KAFKA="true",
        KAFKA_SECURITY_PROTOCOL="SSL",
        KAFKA_CA_FILE=str(tmp_path / "nowhere.pem"),
    ).run_to_end()
    assert ended.returncode == 1
    assert re.fullmatch("cannot start: KAFKA_CA_FILE: .*nowhere.pem .*\n", ended.stderr)


def test_sample_viewing_is_stored_once(tmp_path: Path) -> None:
    with running_service(tmp_path / "store") as service:
        # The days in the middle of the window are over: their events are the same in both runs.
        command = [sys.executable, "test_events.py", "--url", service.url, "--sessions", "50"]
        first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        before = starts(service)
        assert before > 0
        assert "stored" in first.stdout
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "duplicates" in again.stdout
        popular = httpx.get(f"{service.url}{PREFIX}/content/popular").json()["items"]
        assert all(film["title"] for film in popular)
        assert starts(service) in (before, before + 1)


def test_sample_viewing_without_a_service_says_so(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{Service(tmp_path / 'store').port}"
    ended = subprocess.run(
        [sys.executable, "test_events.py", "--url", url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert url in ended.stderr


def test_the_ratings_of_a_file_are_counted_as_they_stand(tmp_path: Path) -> None:
    ratings = tmp_path / "ratings.csv"
    lines = ["userId,movieId,rating,timestamp"]
    counts = {film: 3 * film for film in range(1, 13)}
    for film, count in counts.items():
        lines += [f"{n},{film},4.0,{1_000_000_000 + 7919 * film * n}" for n in range(count)]
    ratings.write_text("\n".join(lines))
    movies = tmp_path / "movies.csv"
    rows = [f'{film},"Film, {film} (1995)",Drama' for film in counts]
    movies.write_text("\n".join(["movieId,title,genres", *rows]))
    with running_service(tmp_path / "store") as service:
        subprocess.run(
            [
                sys.executable, "test_events.py", "--url", service.url,
                "--ratings", str(ratings), "--compress-to-days", "30",
                "--movies-file", str(movies),
            ],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        popular = httpx.get(f"{service.url}{PREFIX}/content/popular?days=30").json()["items"]
        titles = [f"Film, {film} (1995)" for film in sorted(counts)[:1:-1]]
        assert [film["title"] for film in popular] == titles
        assert [film["total_views"] for film in popular] == sorted(counts.values())[:1:-1]
        assert [film["unique_viewers"] for film in popular] == sorted(counts.values())[:1:-1]


@pytest.mark.parametrize(
    "junk",
    [
        b"\0\0\0\0\r\n\r\n",
        b"FOO / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: service\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_same_shape(service: Service, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(junk)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert problem["status"] == 400
    assert problem["request_id"].encode() in head
    assert httpx.get(f"{service.url}/livez").json() == {"status": "ok"}


def test_a_client_that_goes_away_while_sending_is_no_fault(service: Service) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(
                f"POST {PREFIX}/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode()
            )
    assert httpx.get(f"{service.url}/livez").json() == {"status": "ok"}
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    assert "ERROR" not in service.log
    assert "Traceback" not in service.log


def test_a_request_that_outlasts_the_stop_is_answered(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(
            f"POST {PREFIX}/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        # Answered, so the one before, whose body is missing, has been read.
        assert httpx.get(f"{service.url}/livez").status_code == 200
        service.signal(signal.SIGTERM)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"application/problem+json" in answer
    assert b"retry-after" in answer.lower()
    assert service.wait() == 0
    assert "Traceback" not in service.log
