"""Kafka for the tests: the brokers of KAFKA_BOOTSTRAP_SERVERS, or else librdkafka's mock of them.

What must be stopped and started again is a real Apache Kafka of its own, by scripts/kafka.sh.
Messages are produced and counted by librdkafka, not by the client that the service uses.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support.process import ROOT

# How long nobody reads after each kill -9. Brokers have a minimum; that of `make kafka` is lower
# than most. The mock gives up whoever has not joined within 3 seconds.
SESSION_MS = 2_000
MOCK_SESSION_MS = 6_000

_UNREADABLE_HEADER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_):
        return bytes([255, 254])

async def send():
    producer = AIOKafkaProducer(bootstrap_servers=sys.argv[1])
    await producer.start()
    value = sys.stdin.buffer.read()
    await producer.send_and_wait(sys.argv[2], value, partition=0, headers=[(Name("x"), b"1")])
    await producer.stop()

asyncio.run(send())
"""


@dataclass(frozen=True)
class Message:
    """As a producer sends it. `topic` without the prefix; a value of None is a tombstone."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int = -1


class Kafka:
    """A cluster, with topics that no other test uses."""

    def __init__(self, servers: str, session_ms: int = SESSION_MS) -> None:
        self.servers = servers
        self.session_ms = session_ms
        self.prefix = f"test-{uuid4().hex[:12]}."
        self.group = f"{self.prefix}group"
        self._producer: Producer | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes a service read from it."""
        return {
            "ENABLE_KAFKA": "true",
            "KAFKA_BOOTSTRAP_SERVERS": self.servers,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "KAFKA_CONSUMER_GROUP": self.group,
            "KAFKA_SESSION_TIMEOUT_MS": str(self.session_ms),
        }

    def producer(self, **options: str | int) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self.servers,
                "enable.idempotence": True,
                "message.max.bytes": 10_000_000,
                "linger.ms": 5,
                "log_level": 0,
                **options,
            }
        )

    def send(self, messages: Iterable[Message], **options: str | int) -> None:
        """Returns when all are in the topics; a restart of the brokers doesn't matter."""
        if options:
            producer = self.producer(**options)
        else:
            producer = self._producer = self._producer or self.producer()
        failed: list[str] = []

        def report(error: object, _: object) -> None:
            if error is not None:
                failed.append(str(error))

        for message in messages:
            while True:
                try:
                    producer.produce(
                        self.prefix + message.topic,
                        message.value,
                        message.key,
                        message.partition,
                        on_delivery=report,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(60) == 0
        assert failed == []

    def send_with_unreadable_header(self, topic: str, value: bytes) -> None:
        """To partition 0, with a header whose name is not UTF-8, as programs in C may send it.

        librdkafka's Python side can't, and aiokafka's can where it is made of Python alone.
        """
        command = [sys.executable, "-c", _UNREADABLE_HEADER, self.servers, self.prefix + topic]
        environment = {**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"}
        subprocess.run(command, input=value, env=environment, check=True, capture_output=True)

    def remove(self) -> None:
        """Remove its topics, which nobody else has."""
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        topics = [name for name in admin.list_topics(timeout=10).topics if self.prefix in name]
        if topics:
            for removed in admin.delete_topics(topics).values():
                with suppress(KafkaException):
                    removed.result()

    def committed(self, topic: str) -> int:
        """The offsets that the group has committed, added up over the partitions of a topic."""
        # Not by a consumer, which the mock takes for a member of the group.
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        name = self.prefix + topic
        partitions = admin.list_topics(name, timeout=10).topics[name].partitions
        asked = ConsumerGroupTopicPartitions(
            self.group, [TopicPartition(name, one) for one in partitions]
        )
        [answer] = admin.list_consumer_group_offsets([asked]).values()
        return sum(max(0, place.offset) for place in answer.result().topic_partitions)


@contextmanager
def mock_cluster() -> Iterator[str]:
    """The address of a cluster that lives in this process. Every topic has 4 partitions."""
    owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    [broker] = owner.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    owner.flush()


def can_run_kafka() -> bool:
    """Whether `make kafka` can work here."""
    return shutil.which("java") is not None and shutil.which("mvn") is not None


class RealKafka(Kafka):
    """An Apache Kafka of its own, which may be stopped and killed."""

    def __init__(self, folder: Path, options: str = "") -> None:
        self.port = first_of_free_ports()
        self._options = options.format(
            port=self.port, controller=self.port + 1, other=self.port + 2
        )
        self._folder = folder
        super().__init__(f"127.0.0.1:{self.port}")

    def start(self) -> None:
        self._script("start")

    def stop(self) -> None:
        self._script("stop")

    def kill(self) -> None:
        """SIGKILL; what it had not yet written to the disk may be gone from its memory."""
        pid_file = self._folder / "broker.pid"
        os.kill(int(pid_file.read_text()), 9)

    def _script(self, command: str) -> None:
        subprocess.run(
            ["bash", "scripts/kafka.sh", command],
            cwd=ROOT,
            env={
                **os.environ,
                "KAFKA_PORT": str(self.port),
                "KAFKA_DATA": str(self._folder),
                "KAFKA_OPTIONS": self._options,
            },
            check=True,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def real_kafka(folder: Path, options: str = "") -> Iterator[RealKafka]:
    """`options` are further lines of its server.properties, with {port}, {controller}, {other}."""
    kafka = RealKafka(folder, options)
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()


def first_of_free_ports() -> int:
    """The first of three free ports side by side: broker, controller, and another listener."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000, 3):
        try:
            with ExitStack() as taken:
                for one in (port, port + 1, port + 2):
                    taken.enter_context(socket.create_server(("127.0.0.1", one)))
                return port
        except OSError:
            continue
    raise AssertionError("no three free ports")
