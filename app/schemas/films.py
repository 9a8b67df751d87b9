"""The answers about one film, as they go over the wire."""

import datetime as dt
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from app.schemas.analytics import (
    FILM,
    CompletionRate,
    Period,
    PreviousPeriod,
    Title,
    previous_field,
)

Duration = Annotated[
    int | None,
    Field(description="Null when the catalogue doesn't know it.", examples=[10200]),
]


class FilmFigures(BaseModel):
    total_views: int = Field(description="Start events.", examples=[19])
    unique_viewers: int = Field(description="Distinct users over all events.", examples=[9])
    finishes: int = Field(description="Finish events.", examples=[12])
    completion_rate: CompletionRate
    total_watch_time_seconds: int = Field(description="Seconds watched.", examples=[93480])
    mean_watch_time_seconds: float = Field(
        description="For each view, 2 places; 0 without a view.", examples=[4920.0]
    )
    mean_share_watched: float | None = Field(
        description="100 × watch time ÷ (views × duration), at most 100, 2 places; 0 without a "
        "view, null when the duration is unknown.",
        examples=[48.24],
    )


class PreviousFilmStats(FilmFigures, PreviousPeriod):
    pass


class _OfFilm(Period):
    movie_id: UUID = Field(examples=[FILM])
    title: Title


class _OfLongFilm(_OfFilm):
    duration_seconds: Duration


class FilmStats(FilmFigures, _OfLongFilm):
    previous: PreviousFilmStats | None = previous_field("the figures of the window before.")


class FilmDay(BaseModel):
    date: dt.date = Field(examples=["2026-01-20"])
    starts: int = Field(description="Start events.", examples=[3])
    finishes: int = Field(description="Finish events.", examples=[2])
    unique_users: int = Field(description="Distinct users over all events.", examples=[3])


class FilmTrends(_OfFilm):
    items: list[FilmDay]
    total_items: int = Field(description="Days in `items`: `period_days`.", examples=[7])


class FilmStep(BaseModel):
    from_seconds: int = Field(description="Where in the film the step begins.", examples=[0])
    to_seconds: int = Field(description="Where it ends, exclusive.", examples=[60])
    viewers: int = Field(description="Who watched some of it.", examples=[9])
    share: float = Field(description="Percent of all viewers, 2 places.", examples=[100.0])
    rewatchers: int = Field(description="Who watched a second of it more than once.", examples=[1])


class FilmRetention(_OfLongFilm):
    step_seconds: int = Field(description="How long a step is.", examples=[60])
    viewers: int = Field(description="Distinct users over all events.", examples=[9])
    items: list[FilmStep] = Field(
        description="To the end of the film, where its duration is known, else to the farthest "
        "position that was watched, 2,000 steps at most."
    )
    total_items: int = Field(description="Steps in `items`.", examples=[170])
