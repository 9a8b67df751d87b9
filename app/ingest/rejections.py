"""Kafka messages that are no events, kept whole for whoever has to find out why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.core.clickhouse_client import ClickHouseClient, load_query
from app.schemas.events import RejectionReason

_COLUMNS = ("topic", "partition", "offset", "reason", "detail", "payload", "received_at")


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A message as it was received. One without a value (a tombstone) has an empty payload."""

    topic: str
    partition: int
    offset: int
    reason: RejectionReason
    detail: str
    payload: bytes


class RejectedEvents:
    """The table `rejected_events`.

    Raises:
        StoreUnavailableError, StoreError: from both methods; nothing can be said of what was kept.
    """

    def __init__(self, store: ClickHouseClient) -> None:
        self._store = store

    async def keep(self, messages: Sequence[RejectedMessage], received_at: datetime) -> None:
        """Returns when they are on the disk."""
        received = int(received_at.timestamp())
        rows = [
            (one.topic, one.partition, one.offset, one.reason, one.detail, one.payload, received)
            for one in messages
        ]
        if rows:
            await self._store.insert("rejected_events", _COLUMNS, rows)

    async def kept_since(
        self, topic: str, partition: int, offset: int
    ) -> dict[int, RejectionReason]:
        """What was kept of a partition before, from `offset` on: the reason by its offset."""
        rows = await self._store.execute(
            load_query("kept_rejections"),
            {"topic": topic, "partition": partition, "offset": offset},
            ahead=True,
        )
        return {row["offset"]: RejectionReason(row["reason"]) for row in rows}
