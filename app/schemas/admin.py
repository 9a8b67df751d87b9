"""The answers about the store itself, as they go over the wire."""

import datetime as dt

from pydantic import BaseModel, Field


class Difference(BaseModel):
    """Something that a rollup says otherwise than the events do."""

    day: dt.date = Field(
        description="UTC day; of rows about several days the first.", examples=["2026-01-20"]
    )
    rollup: str = Field(examples=["popular_content"])
    what: str = Field(
        description="`rows that differ`; `rows`: how many there are; or a column: the sum over "
        "the day's rows, of counts or of numbers of distinct ids.",
        examples=["starts"],
    )
    expected: int = Field(description="What the events say.", examples=[31])
    found: int = Field(description="What the rollup says.", examples=[30])


class Audit(BaseModel):
    first_day: dt.date = Field(
        description="The first UTC day that was checked.", examples=["2025-10-23"]
    )
    last_day: dt.date = Field(description="The last: today.", examples=["2026-01-20"])
    days: int = Field(description="How many days these are.", examples=[90])
    rollups: list[str] = Field(examples=[["audience", "popular_content", "traffic", "user_stats"]])
    differences: list[Difference] = Field(description="Empty: all is well.")
    took_seconds: float = Field(examples=[1.5])


class Repair(BaseModel):
    repaired: list[Difference] = Field(description="What was found, and rebuilt.")
    differences: list[Difference] = Field(
        description="What an audit after it found. Empty: all is well."
    )
    took_seconds: float = Field(examples=[2.5])
