"""The Kafka door of the service as a process: killed, paused, stopped; its brokers too."""

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.conftest import opened_store, require_java
from tests.support.answers import PREFIX
from tests.support.brokers import Kafka, Message, RealKafka, real_kafka
from tests.support.ingestion import caught_up, report_when
from tests.support.kills import Batch, assert_exact, killing, make_batch, post
from tests.support.process import ROOT, Service, running_service

TOPICS = {"start": "stream.start", "progress": "stream.progress", "finish": "stream.stop"}
SMALL_BATCHES = {"KAFKA_BATCH_EVENTS": "150", "KAFKA_BATCH_AGE_MS": "20"}


def as_messages(events: Batch) -> list[Message]:
    """As producers send them: the topic says the type, the user is the key."""
    return [
        Message(
            TOPICS[event["event_type"]],
            msgspec.json.encode({k: v for k, v in event.items() if k != "event_type"}),
            event["user_id"].encode(),
        )
        for event in events
    ]


def make_garbage(dice: random.Random, count: int) -> list[Message]:
    return [
        Message(dice.choice(list(TOPICS.values())), dice.randbytes(dice.randrange(1, 200)))
        for _ in range(count)
    ]


def kept(kafka: Kafka, garbage: Iterable[Message]) -> list[tuple[str, bytes]]:
    return [(kafka.prefix + one.topic, one.value or b"") for one in garbage]


class Feed:
    """Events with 5 % repeats and 1 % garbage, shuffled, to be sent piece by piece."""

    def __init__(self, dice: random.Random, events: int, pieces: int) -> None:
        self.events = make_batch(dice, events)
        self.garbage = make_garbage(dice, events // 100)
        messages = as_messages(self.events + dice.sample(self.events, events // 20))
        messages += self.garbage
        dice.shuffle(messages)
        self.count = len(messages)
        size = -(-len(messages) // pieces)
        self.pieces = [messages[start : start + size] for start in range(0, self.count, size)]


@contextmanager
def sending(kafka: Kafka, messages: list[Message]) -> Iterator[None]:
    """In the meantime; it ends when all of them are in the topics."""
    failed: list[BaseException] = []

    def send() -> None:
        try:
            kafka.send(messages)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert failed == []


async def all_taken_in(service: Service, sent: int) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=service.url) as client:
        return await caught_up(client, sent)


async def something_taken_in(service: Service) -> None:
    def any_settled(report: dict[str, Any]) -> bool:
        kafka = report["kafka"]
        return bool(kafka["received"] - kafka["in_flight"] > 0)

    async with httpx.AsyncClient(base_url=service.url) as client:
        await report_when(client, any_settled)


async def test_killed_at_random_while_both_doors_are_open(kafka: Kafka, tmp_path: Path) -> None:
    dice = random.Random(3)
    feed = Feed(dice, events=2400, pieces=7)
    with running_service(tmp_path / "store", **kafka.environment, **SMALL_BATCHES) as service:
        for piece in feed.pieces:
            with sending(kafka, piece):
                # The same events by HTTP: whichever door is first, the other one's are repeats.
                post(service.url, dice.sample(feed.events, 40))
                await something_taken_in(service)
                await asyncio.sleep(dice.uniform(0, 0.3))  # the instant of the kill
                service.kill()
            service.start()
        await all_taken_in(service, feed.count)
        await assert_exact(service, feed.events, kept(kafka, feed.garbage))


@pytest.mark.parametrize(
    ("syscalls", "stride"),
    [("rename,renameat2", 2), ("fsync,fdatasync", 6), ("sendto,write,writev,sendmsg", 24)],
)
async def test_killed_at_chosen_system_calls_of_a_batch(
    kafka: Kafka, tmp_path: Path, syscalls: str, stride: int
) -> None:
    """Of keeping what is rejected, of storing the events, of committing the offsets."""
    dice = random.Random(syscalls)
    events: Batch = []
    garbage: list[Message] = []
    kills = 0
    with running_service(
        tmp_path / "store", **kafka.environment, KAFKA_BATCH_AGE_MS="300", LOG_REQUESTS="false"
    ) as service:
        for when in range(1, 1000, stride):
            await all_taken_in(service, len(events) + len(garbage))
            batch, bad = make_batch(dice, 30), make_garbage(dice, 3)
            events += batch
            garbage += bad
            with killing(service.pid, syscalls, when):
                kafka.send(as_messages(batch) + bad)
                died = await _died_before_it_was_done(service, len(events) + len(garbage))
            died = died or service.is_gone()  # the very last moment
            if not died:
                break
            kills += 1
            service.wait()
            service.start()
        assert kills >= 4
        assert not died, "the calls of one batch were not passed through to the end"
        await assert_exact(service, events, kept(kafka, garbage))


async def _died_before_it_was_done(service: Service, sent: int) -> bool:
    try:
        await all_taken_in(service, sent)
    except httpx.TransportError:
        return True
    return False


async def test_brokers_that_are_stopped_and_killed(own_kafka: RealKafka, tmp_path: Path) -> None:
    dice = random.Random(5)
    feed = Feed(dice, events=2000, pieces=4)
    by_http = make_batch(dice, 100)
    with running_service(tmp_path / "store", **own_kafka.environment, **SMALL_BATCHES) as service:
        pieces = iter(feed.pieces)
        for end in (own_kafka.stop, own_kafka.kill):
            own_kafka.send(next(pieces))
            with sending(own_kafka, next(pieces)):
                await something_taken_in(service)
                end()
                wait_for(lambda: health(service) == "degraded")
                post(service.url, by_http)
                own_kafka.start()
        await all_taken_in(service, feed.count)
        assert health(service) == "healthy"
        # What aiokafka and the consumer say of it again and again is said once a minute.
        assert service.log.count("WARNING") + service.log.count("ERROR") < 60
        await assert_exact(service, feed.events + by_http, kept(own_kafka, feed.garbage))


class Member(threading.Thread):
    """Another member of the group: takes its share of the partitions, and commits nothing."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__()
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.servers,
                "group.id": kafka.group,
                "session.timeout.ms": kafka.session_ms,
                "heartbeat.interval.ms": kafka.session_ms // 4,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "roundrobin",
                "log_level": 0,
            }
        )
        self._assigned = threading.Event()
        self._leave = threading.Event()
        self._topics = [kafka.prefix + topic for topic in TOPICS.values()]

    def run(self) -> None:
        def assigned(_: Consumer, partitions: list[Any]) -> None:
            if partitions:
                self._assigned.set()

        self._consumer.subscribe(self._topics, on_assign=assigned)
        while not self._leave.is_set():
            self._consumer.poll(0.05)
        self._consumer.close()

    def join_group(self) -> None:
        """Returns when it has partitions."""
        self.start()
        assert self._assigned.wait(60)

    def leave_group(self) -> None:
        self._leave.set()
        self.join()


async def test_members_that_come_and_go(kafka: Kafka, tmp_path: Path) -> None:
    dice = random.Random(7)
    feed = Feed(dice, events=2000, pieces=4)
    with running_service(tmp_path / "store", **kafka.environment, **SMALL_BATCHES) as service:
        await something_taken_in_of(service, kafka, feed.pieces[0])
        for piece in feed.pieces[1:]:
            other = Member(kafka)
            with sending(kafka, piece):
                await asyncio.to_thread(other.join_group)
            await asyncio.to_thread(other.leave_group)
        await all_taken_in(service, feed.count)
        await assert_exact(service, feed.events, kept(kafka, feed.garbage))


async def something_taken_in_of(service: Service, kafka: Kafka, piece: list[Message]) -> None:
    kafka.send(piece)
    await something_taken_in(service)


async def test_paused_for_longer_than_its_session(kafka: Kafka, tmp_path: Path) -> None:
    """Taken for dead in the middle of a batch, while another member takes over and leaves."""
    dice = random.Random(9)
    feed = Feed(dice, events=2000, pieces=2)
    with running_service(tmp_path / "store", **kafka.environment, **SMALL_BATCHES) as service:
        with sending(kafka, feed.pieces[0]):
            await something_taken_in(service)
            service.signal(signal.SIGSTOP)
        other = Member(kafka)
        # It can't, before the service is taken for dead.
        await asyncio.to_thread(other.join_group)
        kafka.send(feed.pieces[1])
        service.signal(signal.SIGCONT)
        await asyncio.to_thread(other.leave_group)
        await all_taken_in(service, feed.count)
        await assert_exact(service, feed.events, kept(kafka, feed.garbage))


async def test_a_stop_finishes_the_batch_and_leaves_the_group(
    true_kafka: Kafka, tmp_path: Path
) -> None:
    dice = random.Random(11)
    feed = Feed(dice, events=3000, pieces=1)
    # Were it not to leave, it would be a member for another half minute.
    environment = {**true_kafka.environment, "KAFKA_SESSION_TIMEOUT_MS": "30000"}
    with running_service(tmp_path / "store", **environment, **SMALL_BATCHES) as service:
        with sending(true_kafka, feed.pieces[0]):
            await something_taken_in(service)
            began = time.monotonic()
            service.signal(signal.SIGTERM)
            assert service.wait() == 0
            assert time.monotonic() - began < 10
        assert members(true_kafka) == 0
        # What was stored was committed, to the last message.
        async with opened_store(service.store) as store:
            [row] = await store.execute(
                "SELECT (SELECT count() FROM viewing_events) AS stored,"
                " (SELECT count() FROM rejected_events) AS rejected"
            )
        committed = sum(true_kafka.committed(topic) for topic in TOPICS.values())
        assert row["stored"] + row["rejected"] <= committed
        assert committed <= row["stored"] + row["rejected"] + len(feed.events) // 20
        service.start()
        report = await all_taken_in(service, feed.count)
        assert report["kafka"]["received"] == feed.count - committed
        await assert_exact(service, feed.events, kept(true_kafka, feed.garbage))
        assert "Traceback" not in service.log


def health(service: Service) -> str:
    answer = httpx.get(f"{service.url}/health")
    assert answer.status_code == 200
    status: str = answer.json()["status"]
    return status


def members(kafka: Kafka) -> int:
    admin = AdminClient({"bootstrap.servers": kafka.servers, "log_level": 0})
    [described] = admin.describe_consumer_groups([kafka.group]).values()
    return len(described.result().members)


async def test_a_stop_without_brokers_takes_no_longer(own_kafka: RealKafka, tmp_path: Path) -> None:
    with running_service(tmp_path / "store", **own_kafka.environment) as service:
        await something_taken_in_of(
            service, own_kafka, as_messages(make_batch(random.Random(1), 9))
        )
        own_kafka.kill()
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        assert time.monotonic() - began < 10
        assert "Traceback" not in service.log


async def test_topics_that_the_brokers_do_not_make_are_waited_for(tmp_path: Path) -> None:
    require_java()
    dice = random.Random(13)
    events = make_batch(dice, 60)
    with (
        real_kafka(tmp_path / "kafka", "auto.create.topics.enable=false") as kafka,
        running_service(tmp_path / "store", **kafka.environment) as service,
    ):
        wait_for(lambda: "has no topic" in service.log)
        assert health(service) == "healthy"
        admin = AdminClient({"bootstrap.servers": kafka.servers, "log_level": 0})
        for topic in TOPICS.values():
            created = admin.create_topics([NewTopic(kafka.prefix + topic, 2, 1)])
            created[kafka.prefix + topic].result()
            kafka.send([one for one in as_messages(events) if one.topic == topic])
        report = await all_taken_in(service, len(events))
        assert len(report["kafka"]["partitions"]) == 6
        await assert_exact(service, events)


LOG_IN = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{other}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=\\
    org.apache.kafka.common.security.plain.PlainLoginModule required user_cinema="open-sesame";
ssl.keystore.location={folder}/brokers.p12
ssl.keystore.password=open-sesame
"""


async def test_brokers_with_tls_and_a_log_in(tmp_path: Path) -> None:
    require_java()
    make_certificate(tmp_path)
    events = make_batch(random.Random(17), 60)
    with real_kafka(tmp_path / "kafka", LOG_IN.replace("{folder}", str(tmp_path))) as kafka:
        environment = {
            **kafka.environment,
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.port + 2}",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_CA_FILE": str(tmp_path / "brokers.pem"),
            "KAFKA_USERNAME": "cinema",
            "KAFKA_PASSWORD": "open-sesame",
        }
        kafka.send(as_messages(events))
        with running_service(tmp_path / "wrong", **{**environment, "KAFKA_PASSWORD": "x"}) as wrong:
            wait_for(lambda: "trying again" in wrong.log)
            assert health(wrong) == "degraded"
            assert "open-sesame" not in wrong.log
        with running_service(tmp_path / "store", **environment) as service:
            await all_taken_in(service, len(events))
            await assert_exact(service, events)


def make_certificate(folder: Path) -> None:
    """A key for brokers on 127.0.0.1, and the certificate that it is signed with."""
    keytool = ["keytool", "-keystore", "brokers.p12", "-storepass", "open-sesame", "-alias", "b"]
    for command in (
        ["-genkeypair", "-keyalg", "RSA", "-dname", "CN=localhost", "-ext", "SAN=IP:127.0.0.1"],
        ["-exportcert", "-rfc", "-file", "brokers.pem"],
    ):
        subprocess.run([*keytool, *command], cwd=folder, check=True, capture_output=True)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_the_consumer_as_a_process_of_its_own(kafka: Kafka, tmp_path: Path) -> None:
    dice = random.Random(15)
    feed = Feed(dice, events=1000, pieces=1)
    service = Service(tmp_path / "store", module="app.kafka_consumer", **kafka.environment)
    kafka.send(feed.pieces[0])
    service.launch()
    try:
        wait_for(lambda: sum(map(kafka.committed, TOPICS.values())) == feed.count, seconds=60)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    finally:
        service.kill()
    assert "Traceback" not in service.log
    with running_service(tmp_path / "store") as api:
        await assert_exact(api, feed.events, kept(kafka, feed.garbage))


def test_the_same_viewing_by_both_doors_is_stored_once(kafka: Kafka, tmp_path: Path) -> None:
    with running_service(tmp_path / "store", **kafka.environment) as service:
        command = [sys.executable, "test_events.py", "--url", service.url, "--sessions", "60"]
        by_kafka = [
            "--via", "kafka", "--kafka", kafka.servers, "--topic-prefix", kafka.prefix,
        ]  # fmt: skip
        sent = subprocess.run(
            [*command, *by_kafka], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "The service had taken it in" in sent.stdout
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        with httpx.Client(base_url=service.url) as client:
            report = client.get(f"{PREFIX}/ingestion").json()
        # What has happened between the two runs is new.
        assert report["kafka"]["stored"] == report["kafka"]["received"] > 500
        assert report["http"]["duplicates"] == report["kafka"]["stored"], again.stdout


def test_viewing_without_kafka_says_so(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "test_events.py", "--via", "kafka", "--kafka", "127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "no Kafka answers at 127.0.0.1:1" in ended.stderr.splitlines()[-1]
