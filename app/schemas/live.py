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
