"""How far the taking in of events is, as it goes over the wire."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.events import RejectionReason

KafkaState = Literal["enabled", "disabled", "unreachable"]


class DoorCounts(BaseModel):
    """Events by one door since the process started.

    received = stored + duplicates + rejected + in_flight. What has to be sent or delivered again,
    since it could not be stored, is not counted until then.
    """

    received: int = Field(examples=[1002])
    stored: int = Field(examples=[990])
    duplicates: int = Field(examples=[9])
    rejected: int = Field(examples=[3])
    in_flight: int = Field(description="Received and not yet stored.", examples=[0])
    rejections: dict[RejectionReason, int] = Field(
        description="`rejected` by reason.", examples=[{"not_json": 3}]
    )
    last_event_time: datetime | None = Field(
        description="The latest time of an event that was stored; null before the first.",
        examples=["2026-01-20T21:14:05Z"],
    )


class PartitionLag(BaseModel):
    topic: str = Field(examples=["stream.start"])
    partition: int = Field(examples=[0])
    next_offset: int = Field(description="Of the message that is taken in next.", examples=[501])
    end_offset: int = Field(description="Of the message that is sent next.", examples=[501])
    lag: int = Field(description="Messages that are not taken in yet.", examples=[0])
    complete_through: datetime | None = Field(
        description=(
            "All messages of the partition up to this time are taken in, by the times that Kafka "
            "has them under; null when nothing is known."
        ),
        examples=["2026-01-20T21:14:07Z"],
    )


class KafkaDoor(DoorCounts):
    state: KafkaState = Field(examples=["enabled"])
    lag: int | None = Field(
        description="The sum over all partitions; null while Kafka doesn't answer.", examples=[0]
    )
    partitions: list[PartitionLag] = Field(
        description=(
            "All partitions of the three topics, whichever member of the group reads them; empty "
            "while Kafka doesn't answer."
        )
    )


class Ingestion(BaseModel):
    since: datetime = Field(
        description="When the process started.", examples=["2026-01-20T18:00:00Z"]
    )
    complete_through: datetime | None = Field(
        description=(
            "The earliest of the partitions', as it was last known; null where one has none, or "
            "without Kafka."
        ),
        examples=["2026-01-20T21:14:07Z"],
    )
    http: DoorCounts
    kafka: KafkaDoor
