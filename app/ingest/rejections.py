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
        StoreUnavailableError, StoreError: from every method; nothing can be said of what was kept.
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

    async def last_kept(self, topic: str, partition: int) -> int:
        """The greatest offset of a partition whose message was kept; -1 if there is none."""
        [row] = await self._store.execute(
            load_query("last_rejection"), {"topic": topic, "partition": partition}, ahead=True
        )
        return int(row["last"])

    async def kept(
        self, topic: str, partition: int, first: int, last: int
    ) -> dict[int, RejectedMessage]:
        """What was kept of a partition before, from the first offset to the last, by offset."""
        rows = await self._store.execute(
            load_query("kept_rejections"),
            {"topic": topic, "partition": partition, "first": first, "last": last},
            ahead=True,
        )
        return {
            row["offset"]: RejectedMessage(
                topic,
                partition,
                row["offset"],
                RejectionReason(row["reason"]),
                row["detail"],
                bytes.fromhex(row["payload"]),
            )
            for row in rows
        }
