"""The service as processes that share a ClickHouse server: how they start, and what kills them."""

import asyncio
import os
import random
import re
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from app.core.config import Settings
from tests.conftest import PASSWORD
from tests.e2e.test_kafka import SMALL_BATCHES, Feed, all_taken_in, kept, sending
from tests.support.brokers import Kafka
from tests.support.kills import Batch, assert_exact, make_batch, post
from tests.support.native_server import NativeServer, native_server
from tests.support.process import ROOT, Service, free_port, running_service
from tests.support.wire import wire_to


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NativeServer]:
    with native_server(tmp_path / "server", PASSWORD) as started:
        yield started


def settings_of(server: NativeServer) -> Settings:
    return Settings(_env_file=None, enable_kafka=False, **server.settings)


def test_the_start_waits_for_the_server(tmp_path: Path) -> None:
    server = NativeServer(tmp_path / "server", PASSWORD)
    late = threading.Timer(3, server.start)
    late.start()
    try:
        with running_service(tmp_path / "service", **server.environment) as service:
            assert post(service.url, make_batch(random.Random(1), 10))["stored"] == 10
            assert "waiting for ClickHouse" in service.log
    finally:
        late.join()
        server.kill()


@pytest.mark.parametrize(
    ("variable", "changes"),
    [
        ("CLICKHOUSE_HOST and CLICKHOUSE_PORT", {"CLICKHOUSE_PORT": str(free_port())}),
        ("CLICKHOUSE_HOST and CLICKHOUSE_PORT", {"CLICKHOUSE_HOST": "no.such.host.invalid"}),
        ("CLICKHOUSE_HOST and CLICKHOUSE_PORT", {"CLICKHOUSE_SECURE": "true"}),
        ("CLICKHOUSE_USER and CLICKHOUSE_PASSWORD", {"CLICKHOUSE_PASSWORD": "guessed"}),
        ("CLICKHOUSE_USER and CLICKHOUSE_PASSWORD", {"CLICKHOUSE_USER": "nobody"}),
        ("CLICKHOUSE_DATABASE", {"CLICKHOUSE_USER": "reader"}),
        ("CLICKHOUSE_CLUSTER", {"CLICKHOUSE_CLUSTER": "nowhere"}),
        ("CLICKHOUSE_CA_FILE", {"CLICKHOUSE_SECURE": "true", "CLICKHOUSE_CA_FILE": "/no/file"}),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_line(
    server: NativeServer, tmp_path: Path, variable: str, changes: dict[str, str]
) -> None:
    environment = {"CLICKHOUSE_CONNECT_TIMEOUT": "1", **server.environment, **changes}
    ended = Service(tmp_path / "service", **environment, LOG_LEVEL="WARNING").run_to_end()
    assert ended.returncode == 1
    assert re.fullmatch(f"cannot start: {variable}: .*\n", ended.stderr), ended.stderr


def test_a_server_that_speaks_tls(server: NativeServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with wire_to("127.0.0.1", server.port, context) as wire:
        environment = {
            **server.environment,
            "CLICKHOUSE_PORT": str(wire.port),
            "CLICKHOUSE_SECURE": "true",
            "CLICKHOUSE_CA_FILE": str(tmp_path / "ca.pem"),
        }
        with running_service(tmp_path / "service", **environment) as service:
            assert post(service.url, make_batch(random.Random(1), 10))["stored"] == 10
        environment["CLICKHOUSE_CA_FILE"] = str(tmp_path / "other.pem")
        ended = Service(tmp_path / "service", **environment).run_to_end()
    assert ended.returncode == 1
    assert re.search("cannot start: CLICKHOUSE_CA_FILE: .* is not trusted: .*\n$", ended.stderr)


def workers(service: Service) -> list[int]:
    """The processes that were started by this one, but not multiprocessing's own."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def wait_for_workers(service: Service, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(workers(service)) < count:
        assert time.monotonic() < deadline, "one that was killed is not replaced"
        time.sleep(0.05)


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.02)


async def test_several_processes_serve_one_port(server: NativeServer, tmp_path: Path) -> None:
    dice = random.Random(8)
    batches = [make_batch(dice, 20) for _ in range(40)]
    with running_service(tmp_path / "service", WORKERS="3", **server.environment) as service:
        assert len(workers(service)) == 3
        for number, batch in enumerate(batches):
            if number % 20 == 10:
                os.kill(dice.choice(workers(service)), signal.SIGKILL)
            deadline = time.monotonic() + 20
            while True:
                assert time.monotonic() < deadline
                with suppress(httpx.TransportError, AssertionError):
                    post(service.url, batch)
                    break
        wait_for_workers(service, 3)
        started = workers(service)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        wait_until_gone(started)
        service.start()
        started = workers(service)
        service.kill()
        wait_until_gone(started)
        service.start()
        await assert_exact(
            service, [one for batch in batches for one in batch], server=settings_of(server)
        )


def test_processes_that_cannot_start_end_with_the_first_of_them(tmp_path: Path) -> None:
    ended = Service(
        tmp_path / "service",
        WORKERS="2",
        CLICKHOUSE_HOST="127.0.0.1",
        CLICKHOUSE_PORT=str(free_port()),
        CLICKHOUSE_CONNECT_TIMEOUT="0",
        LOG_LEVEL="WARNING",
    ).run_to_end()
    assert ended.returncode == 1
    assert set(re.sub(r"\d+", "N", ended.stderr).splitlines()) == {
        "cannot start: CLICKHOUSE_HOST and CLICKHOUSE_PORT: no ClickHouse answers within N s: "
        "Connection refused (N.N.N.N:N)"
    }


class Instances:
    """Three of them, that read the same topics and take the same events by HTTP."""

    def __init__(self, stack: ExitStack, folder: Path, environment: dict[str, str]) -> None:
        self.all = [
            stack.enter_context(running_service(folder / name, **environment))
            for name in ("one", "two", "three")
        ]

    def post_anywhere(self, dice: random.Random, batch: Batch) -> bool:
        """Whether it was acknowledged; whoever is asked may be dead, or without its server."""
        with suppress(httpx.TransportError, AssertionError):
            post(dice.choice(self.all).url, batch)
            return True
        return False

    def post_until_taken(self, dice: random.Random, batch: Batch) -> None:
        deadline = time.monotonic() + 60
        while not self.post_anywhere(dice, batch):
            assert time.monotonic() < deadline
            time.sleep(0.1)


async def test_three_instances_are_killed_while_they_take_the_same_events_by_both_doors(
    kafka: Kafka, server: NativeServer, tmp_path: Path
) -> None:
    dice = random.Random(12)
    feed = Feed(dice, events=2800, pieces=7)
    environment = {**server.environment, **kafka.environment, **SMALL_BATCHES}
    with ExitStack() as stack:
        instances = Instances(stack, tmp_path, environment)
        unanswered: list[Batch] = []
        acts = ["kill"] * 3 + ["kill the server"] * 2 + ["pause"] * 2
        dice.shuffle(acts)
        for piece, act in zip(feed.pieces, acts, strict=True):
            with sending(kafka, piece):
                senders = [
                    threading.Thread(target=send_batches, args=[instances, n, feed, unanswered])
                    for n in (dice.random(), dice.random())
                ]
                for sender in senders:
                    sender.start()
                victim = dice.choice(instances.all)
                await asyncio.sleep(dice.uniform(0, 1.0))  # the instant of the fault
                if act == "kill":
                    victim.kill()
                elif act == "pause":
                    victim.signal(signal.SIGSTOP)
                    await asyncio.sleep(4)  # past the session, and past the patience with its turn
                    victim.signal(signal.SIGCONT)
                else:
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                for sender in senders:
                    await asyncio.to_thread(sender.join)
                if act == "kill":
                    await asyncio.to_thread(victim.start)
        for batch in unanswered:
            await asyncio.to_thread(instances.post_until_taken, dice, batch)
        for instance in instances.all:
            await all_taken_in(instance, feed.count)
        for instance in instances.all:
            await assert_exact(
                instance, feed.events, kept(kafka, feed.garbage), settings_of(server)
            )


async def test_the_data_moves_from_the_embedded_engine_as_documented(
    server: NativeServer, tmp_path: Path
) -> None:
    dice = random.Random(14)
    events = make_batch(dice, 3000)
    with running_service(tmp_path / "embedded", KAFKA_CONSUMER_GROUP="one") as service:
        post(service.url, events)
    with running_service(tmp_path / "on-server", **server.environment):
        pass  # makes the tables
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    export = re.search(r"<<'EOF'\n(.*?)\n *EOF\n", page, re.DOTALL)
    assert export
    for script in (textwrap.dedent(export[1]), IMPORT.format(tmp_path / "server")):
        if script.startswith("# import"):
            server.kill()  # its store is opened by one process at a time
        await asyncio.to_thread(run_script, script, tmp_path)
    server.start()
    with running_service(tmp_path / "on-server", **server.environment) as service:
        assert post(service.url, events[:10])["duplicates"] == 10
        events += (more := make_batch(dice, 20))
        post(service.url, more)
        await assert_exact(service, events, server=settings_of(server))


def run_script(script: str, folder: Path) -> None:
    environment = {**os.environ, "CLICKHOUSE_PATH": str(folder / "embedded")}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True)


IMPORT = """# import, as clickhouse client does
from chdb.state.sqlitelike import Connection
server = Connection("{}")
server.query("INSERT INTO analytics.viewing_events SELECT * FROM file('viewing_events.native')")
"""


def send_batches(instances: Instances, seed: float, feed: Feed, unanswered: list[Batch]) -> None:
    dice = random.Random(seed)
    for _ in range(6):
        batch = dice.sample(feed.events, 60)
        if not instances.post_anywhere(dice, batch):
            unanswered.append(batch)
