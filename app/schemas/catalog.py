"""The catalogue of films, as it goes over the wire."""

from typing import Annotated
from uuid import UUID

import msgspec
from pydantic import BaseModel, Field

from app.schemas.events import MAX_POSITION_SECONDS, Rejection

MAX_MOVIES = 10_000
MAX_TITLE = 500
MAX_GENRES = 50
MAX_GENRE = 100

FILM = "5a4f8cde-3f0b-5a0e-9a4c-8d1f0f1f6b7e"


def _described(
    text: str, example: object, least: int | None = None, most: int | None = None
) -> msgspec.Meta:
    return msgspec.Meta(description=text, examples=[example], min_length=least, max_length=most)


_Seconds = msgspec.Meta(ge=1, le=MAX_POSITION_SECONDS)
_Genre = msgspec.Meta(min_length=1, max_length=MAX_GENRE)
_Year = msgspec.Meta(ge=1, le=9999)


class Movie(msgspec.Struct, frozen=True, gc=False):
    """A film as it is sent to the catalogue. Unknown fields are ignored."""

    movie_id: Annotated[UUID, _described("As in the events.", FILM)]
    title: Annotated[str, _described("What it is called.", "Heat (1995)", 1, MAX_TITLE)]
    duration_seconds: Annotated[
        Annotated[int, _Seconds] | Annotated[float, _Seconds] | None,
        _described("How long it is. Fractions are cut off.", 10200),
    ] = None
    genres: Annotated[
        list[Annotated[str, _Genre]],
        _described("In the order of the answers.", ["Action", "Crime"], 0, MAX_GENRES),
    ] = []
    released: Annotated[Annotated[int, _Year] | None, _described("The year it came out.", 1995)] = (
        None
    )


class CatalogReceipt(BaseModel):
    """received = stored + rejected; what was stored is on the disk."""

    received: int = Field(examples=[62])
    stored: int = Field(examples=[61])
    rejected: int = Field(examples=[1])
    rejections: list[Rejection]


class Film(BaseModel):
    """A film of the catalogue."""

    movie_id: UUID = Field(examples=[FILM])
    title: str = Field(examples=["Heat (1995)"])
    duration_seconds: int | None = Field(description="Null when unknown.", examples=[10200])
    genres: list[str] = Field(examples=[["Action", "Crime"]])
    released: int | None = Field(
        description="The year it came out; null when unknown.", examples=[1995]
    )


class CatalogPage(BaseModel):
    """Films by title, then by id, without regard to the title's case."""

    items: list[Film]
    total_items: int = Field(
        description="Films that fit `q`, on this page and all others.", examples=[1]
    )
    next_cursor: str | None = Field(
        description="Asks for the page after this one; null on the last.", examples=[None]
    )
