"""The answers about a moment, as they go over the wire."""

import datetime as dt
from uuid import UUID

from pydantic import BaseModel, Field

from app.schemas.analytics import FILM, Title


class WatchedFilm(BaseModel):
    movie_id: UUID = Field(examples=[FILM])
    title: Title
    sessions: int = Field(description="Sessions of this film that are under way.", examples=[3])
    viewers: int = Field(description="Distinct users in them.", examples=[3])


class Now(BaseModel):
    """The sessions under way: with an event in the last 120 seconds, the last not a finish."""

    as_of: dt.datetime = Field(examples=["2026-01-20T21:14:05Z"])
    sessions: int = Field(description="Of all films.", examples=[5])
    viewers: int = Field(description="Distinct users in them.", examples=[4])
    movies: list[WatchedFilm] = Field(description="Most sessions first, then by id.")


class Minutes(BaseModel):
    time: dt.datetime = Field(
        description="When the bucket begins, in UTC.", examples=["2026-01-20T21:00:00Z"]
    )
    sessions: int = Field(
        description="Sessions with an event in one minute: the most of the bucket's minutes.",
        examples=[5],
    )


class Concurrency(BaseModel):
    hours: int = Field(examples=[24])
    bucket_minutes: int = Field(examples=[1])
    period_start: dt.datetime = Field(
        description="When the first bucket begins.", examples=["2026-01-19T21:15:00Z"]
    )
    period_end: dt.datetime = Field(
        description="When the last one ends, exclusive: the bucket that is now is the last.",
        examples=["2026-01-20T21:15:00Z"],
    )
    items: list[Minutes]
    total_items: int = Field(description="Buckets in `items`.", examples=[1440])
