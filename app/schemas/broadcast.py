"""What goes over the WebSocket."""

import datetime as dt
from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.analytics import CompletionRate
from app.schemas.live import Now


class Today(BaseModel):
    """Today in the time zone that was asked for, until now."""

    date: dt.date = Field(examples=["2026-01-20"])
    total_views: int = Field(description="Start events.", examples=[31])
    finishes: int = Field(description="Finish events.", examples=[17])
    events_count: int = Field(description="Events of all kinds.", examples=[412])
    unique_viewers: int = Field(description="Distinct users over all events.", examples=[10])
    completion_rate: CompletionRate


class Snapshot(BaseModel):
    type: Literal["snapshot"] = "snapshot"
    as_of: dt.datetime
    now: Now
    events_per_second: float = Field(description="Mean of the last 60 seconds, by their time.")
    today: Today


class Unavailable(BaseModel):
    """The store doesn't answer. The next snapshot comes when it does."""

    type: Literal["unavailable"] = "unavailable"
