"""The answers to queries, as they go over the wire."""

import datetime as dt
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

FILM = "5a4f8cde-3f0b-5a0e-9a4c-8d1f0f1f6b7e"
USER = "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4"

CompletionRate = Annotated[
    float,
    Field(
        ge=0,
        le=100,
        description="min(100, 100 × finishes ÷ starts), 2 places; 0 without a start.",
        examples=[63.16],
    ),
]


class Period(BaseModel):
    """The window that an answer is about."""

    period_days: int = Field(description="Calendar days in the window.", examples=[7])
    period_start: dt.date = Field(description="First day.", examples=["2026-01-14"])
    period_end: dt.date = Field(
        description="Last day: today in `timezone`.", examples=["2026-01-20"]
    )
    timezone: str = Field(description="The zone that the days are in.", examples=["UTC"])


Title = Annotated[
    str | None,
    Field(description="Null when the catalogue doesn't have the film.", examples=["Heat (1995)"]),
]


class PreviousPeriod(BaseModel):
    """The window of as many days before the one that was asked for."""

    period_start: dt.date = Field(description="Its first day.", examples=["2026-01-07"])
    period_end: dt.date = Field(description="Its last day.", examples=["2026-01-13"])


def previous_field(text: str) -> Any:
    """A field that is there when it was asked for."""
    return Field(
        None,
        description=f"With `compare=previous`: {text}",
        exclude_if=lambda previous: previous is None,
    )


class PopularFilm(BaseModel):
    movie_id: UUID = Field(examples=[FILM])
    title: Title
    total_views: int = Field(description="Start events.", examples=[19])
    unique_viewers: int = Field(description="Distinct users over all events.", examples=[9])
    completion_rate: CompletionRate


class PreviousPopular(PreviousPeriod):
    items: list[PopularFilm]


class PopularContent(Period):
    items: list[PopularFilm]
    total_items: int = Field(description="Films in `items`.", examples=[1])
    previous: PreviousPopular | None = previous_field("what the same films had, in the same order.")


class UserStats(Period):
    user_id: UUID = Field(examples=[USER])
    movies_started: int = Field(description="Start events.", examples=[21])
    movies_finished: int = Field(description="Finish events.", examples=[12])
    unique_movies_watched: int = Field(description="Distinct films over all events.", examples=[11])
    total_watch_time_seconds: int = Field(description="Seconds watched.", examples=[93480])
    completion_rate: CompletionRate
    most_watched_movie_id: UUID | None = Field(
        description="The film with the greatest watch time; null without events.", examples=[FILM]
    )
    most_watched_movie_title: Title


class TrendDay(BaseModel):
    date: dt.date = Field(examples=["2026-01-20"])
    starts: int = Field(description="Start events.", examples=[31])
    finishes: int = Field(description="Finish events.", examples=[17])
    unique_users: int = Field(description="Distinct users over all events.", examples=[10])
    unique_movies: int = Field(description="Distinct films over all events.", examples=[14])


class PreviousTrends(PreviousPeriod):
    items: list[TrendDay]


class ViewingTrends(Period):
    items: list[TrendDay]
    total_items: int = Field(description="Days in `items`: `period_days`.", examples=[7])
    previous: PreviousTrends | None = previous_field("the days of the window before.")


class PeakHour(BaseModel):
    hour: int = Field(ge=0, le=23, description="On the clock of `timezone`.", examples=[21])
    events_count: int = Field(description="Events of all kinds.", examples=[412])
    unique_users: int = Field(description="Distinct users over all events.", examples=[10])


class PeakHours(Period):
    items: list[PeakHour]
    total_items: int = Field(description="Hours in `items`: 24.", examples=[24])


class OverviewFigures(BaseModel):
    total_views: int = Field(description="Start events.", examples=[211])
    finishes: int = Field(description="Finish events.", examples=[130])
    events_count: int = Field(description="Events of all kinds.", examples=[4011])
    unique_viewers: int = Field(description="Distinct users over all events.", examples=[10])
    unique_movies: int = Field(description="Distinct films over all events.", examples=[20])
    completion_rate: CompletionRate


class PreviousOverview(OverviewFigures, PreviousPeriod):
    pass


class Overview(OverviewFigures, Period):
    previous: PreviousOverview | None = previous_field("the figures of the window before.")


class PreviousWatchTime(PreviousPeriod):
    total_watch_time_seconds: int = Field(description="Seconds watched.", examples=[81200])


class WatchTime(Period):
    total_watch_time_seconds: int = Field(description="Seconds watched.", examples=[93480])
    previous: PreviousWatchTime | None = previous_field("the figure of the window before.")


class WeekHour(BaseModel):
    weekday: int = Field(ge=1, le=7, description="1 is Monday, 7 Sunday (ISO).", examples=[5])
    hour: int = Field(ge=0, le=23, description="On the clock of `timezone`.", examples=[21])
    events_count: int = Field(description="Events of all kinds.", examples=[412])
    unique_users: int = Field(description="Distinct users over all events.", examples=[10])


class Heatmap(Period):
    items: list[WeekHour]
    total_items: int = Field(description="Hours in `items`: 168.", examples=[168])


class UserMovie(BaseModel):
    movie_id: UUID = Field(examples=[FILM])
    title: Title
    starts: int = Field(description="Start events.", examples=[2])
    finishes: int = Field(description="Finish events.", examples=[1])
    events_count: int = Field(description="Events of all kinds.", examples=[31])
    watch_time_seconds: int = Field(description="Seconds watched.", examples=[7140])
    last_watched: dt.datetime = Field(
        description="The time of the last event in the window.", examples=["2026-01-20T21:14:05Z"]
    )


class UserMovies(Period):
    user_id: UUID = Field(examples=[USER])
    items: list[UserMovie] = Field(
        description="Greatest watch time first, then most events, then by id."
    )
    total_items: int = Field(description="Films in `items`.", examples=[1])
