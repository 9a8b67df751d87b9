"""A backup, as it goes over the wire."""

from pydantic import BaseModel, Field


class BackupReceipt(BaseModel):
    """A copy of the store is complete, and on the disk."""

    path: str = Field(
        description="The folder, on the machine of the service: a service can be started on it.",
        examples=["/var/backups/analytics/20260120T211405.118042Z"],
    )
    size_bytes: int = Field(
        ge=0, description="Of its files; some may be shared with the store.", examples=[48210331]
    )
    seconds: float = Field(ge=0, description="How long it took.", examples=[0.11])
