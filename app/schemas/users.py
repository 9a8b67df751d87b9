"""What is said of the removal of a user, as it goes over the wire."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, Field

# Nobody's: whoever tries the examples out shall not erase the user of the other examples.
ERASED = "e0000000-0000-4000-8000-00000000dead"


class ErasureMode(StrEnum):
    """What becomes of a user's events."""

    ERASE = "erase"
    ANONYMISE = "anonymise"


class ExportFormat(StrEnum):
    NDJSON = "ndjson"
    CSV = "csv"


class ErasureReceipt(BaseModel):
    """The user's id is in no answer and nowhere in the store."""

    user_id: UUID = Field(description="Whose id it was.", examples=[ERASED])
    mode: ErasureMode = Field(examples=[ErasureMode.ERASE])
    events: int = Field(
        description="Events that were deleted, or are somebody's now whom nobody knows.",
        examples=[131],
    )
    rejected_messages: int = Field(
        description="Rejected Kafka messages with the id in them, which were deleted.", examples=[0]
    )
    requested_at: datetime = Field(examples=["2026-01-20T21:14:05Z"])
    completed_at: datetime = Field(
        description="From then on no file of the store holds the id.",
        examples=["2026-01-20T21:14:08Z"],
    )
