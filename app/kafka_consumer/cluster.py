"""The brokers, asked from the side: whether they answer, and where the group stands."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from app.core.config import Settings
from app.core.errors import ConfigurationError

# What is raised when the brokers don't answer, or not as they should.
KAFKA_FAULTS = (KafkaError, OSError, TimeoutError)

_ASK_SECONDS = 1.8  # so that whoever waits for us has an answer within 2
_ATTEMPTS = 3

T = TypeVar("T")


def connection(settings: Settings) -> dict[str, Any]:
    """What every client of the brokers is made with.

    Raises:
        ConfigurationError: the certificates can't be read.
    """
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": protocol,
    }
    if protocol.endswith("SSL"):
        try:
            options["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ca_file)
        except OSError as error:
            raise ConfigurationError(
                f"KAFKA_CA_FILE: {settings.kafka_ca_file} can't be read: {error.strerror or error}"
            ) from None
    if protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_username
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the group is with a partition.

    Attributes:
        begin, end: the offsets of its first message and of the one that is sent next.
        committed: None when the group has not begun with it.
    """

    begin: int
    end: int
    committed: OffsetAndMetadata | None


@dataclass(frozen=True, slots=True)
class _Clients:
    admin: AIOKafkaAdminClient
    # Asks for offsets, and reads nothing: a request would wait behind one for messages.
    offsets: AIOKafkaConsumer


class Cluster:
    """Connections apart from those that read: a consumer that hangs hides nothing.

    Raises:
        KafkaError, OSError, TimeoutError: from every question that isn't answered within 2 s.
    """

    def __init__(self, connection: Mapping[str, Any], group: str, topics: Sequence[str]) -> None:
        self._connection = connection
        self._group = group
        self._topics = list(topics)
        self._clients: _Clients | None = None
        self._open = AsyncExitStack()
        self._one_at_a_time = asyncio.Lock()

    async def partitions(self) -> list[TopicPartition]:
        """Those of the topics that exist. Topics that don't are made, where the brokers do so."""
        return await self._ask(self._partitions)

    async def progress(self) -> dict[TopicPartition, Progress]:
        """Of all partitions of the topics, in their order."""
        return await self._ask(self._progress)

    async def close(self) -> None:
        self._clients = None
        await self._open.aclose()

    async def _ask(self, question: Callable[[_Clients], Awaitable[T]]) -> T:
        async with asyncio.timeout(_ASK_SECONDS), self._one_at_a_time:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await self._ask_once(question)
                except KafkaError:  # the broker that was asked may be the one that is down
                    continue
            return await self._ask_once(question)

    async def _ask_once(self, question: Callable[[_Clients], Awaitable[T]]) -> T:
        try:
            if self._clients is None:
                self._clients = await self._connect()
            return await question(self._clients)
        except BaseException:
            # The next question begins at the list of servers again.
            await self.close()
            raise

    async def _connect(self) -> _Clients:
        admin = AIOKafkaAdminClient(**self._connection)
        self._open.push_async_callback(admin.close)
        await admin.start()
        offsets = AIOKafkaConsumer(**self._connection, isolation_level="read_committed")
        self._open.push_async_callback(offsets.stop)
        await offsets.start()
        return _Clients(admin, offsets)

    async def _partitions(self, clients: _Clients) -> list[TopicPartition]:
        topics = await clients.admin.describe_topics(self._topics)
        return sorted(
            TopicPartition(topic["topic"], one["partition"])
            for topic in topics
            for one in topic["partitions"]
        )

    async def _progress(self, clients: _Clients) -> dict[TopicPartition, Progress]:
        partitions = await self._partitions(clients)
        if not partitions:
            return {}
        committed = await clients.admin.list_consumer_group_offsets(
            self._group, partitions=partitions
        )
        if missing := set(partitions) - set(committed):
            raise KafkaError(f"the brokers say nothing of {missing}")  # the group is moving, say
        begins = await clients.offsets.beginning_offsets(partitions)
        ends = await clients.offsets.end_offsets(partitions)
        return {
            one: Progress(
                begins[one], ends[one], committed[one] if committed[one].offset >= 0 else None
            )
            for one in partitions
        }
