"""The catalogue's way in: the body of a request becomes films, and films a receipt."""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from app.core.clickhouse_client import ClickHouseClient, load_query
from app.core.errors import BodyTooLargeError, MalformedBodyError, UnexpectedBodyError
from app.ingest.decode import microseconds_of
from app.ingest.intake import INLINE_BYTES, RawEvents, split_json, split_lines
from app.schemas.catalog import (
    MAX_GENRE,
    MAX_GENRES,
    MAX_MOVIES,
    MAX_TITLE,
    CatalogReceipt,
    Movie,
)
from app.schemas.events import MAX_POSITION_SECONDS, Rejection, RejectionReason

_COLUMNS = ("movie_id", "title", "duration_seconds", "genres", "released", "version")

_RULES = {
    "movie_id": "movie_id must be a UUID",
    "title": f"title must be text of 1 to {MAX_TITLE} characters",
    "duration_seconds": f"duration_seconds must be a number from 1 to {MAX_POSITION_SECONDS}",
    "genres": f"genres must be at most {MAX_GENRES} texts of 1 to {MAX_GENRE} characters",
    "released": "released must be a year from 1 to 9999",
}
# At the end of what msgspec says; before it there may be what was sent.
_NAMED_FIELD = re.compile(r"(?:(missing required field) `|at `\$\.)(\w+)(?:\[[^]]*\])?`\Z")

_decode = msgspec.json.Decoder(Movie).decode


class Catalog:
    """Takes films; one that is there is replaced.

    Raises:
        StoreUnavailableError, StoreError: some may be stored; all may be sent again.
    """

    def __init__(self, store: ClickHouseClient, clock: Callable[[], datetime]) -> None:
        self.version = 0
        """Another number after each change that came this way."""
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        # One at a time: a large body takes much memory while it is decoded.
        self._large = asyncio.Lock()

    async def take(self, body: bytes, *, lines: bool) -> CatalogReceipt:
        """A JSON array of films, or (`lines`) NDJSON. Of one sent twice the last one counts.

        Raises:
            MalformedBodyError: not JSON. A line of NDJSON that is not is a rejection instead.
            UnexpectedBodyError: no array.
            BodyTooLargeError: too many films.
        """
        if len(body) <= INLINE_BYTES:
            decoded = _decode_all(body, lines)
        else:
            async with self._large:
                decoded = await asyncio.to_thread(_decode_all, body, lines)
        movies = [one for one in decoded if isinstance(one, Movie)]
        rejections = [
            Rejection(index=index, reason=one[0], detail=one[1])
            for index, one in enumerate(decoded)
            if not isinstance(one, Movie)
        ]
        if movies:
            await self._store_all(movies)
        return CatalogReceipt(
            received=len(decoded),
            stored=len(movies),
            rejected=len(rejections),
            rejections=rejections,
        )

    async def _store_all(self, movies: Sequence[Movie]) -> None:
        last_of_each = {movie.movie_id: movie for movie in movies}.values()
        async with self._turn:
            [row] = await self._store.execute(load_query("catalogue_version"), ahead=True)
            # The time, so that instances whose turns overlap have numbers of their own.
            version = max(int(row["version"]) + 1, microseconds_of(self._clock()))
            try:
                await self._store.insert(
                    "movies", _COLUMNS, [_row(movie, version) for movie in last_of_each]
                )
            finally:
                self.version += 1


def _row(movie: Movie, version: int) -> tuple[object, ...]:
    seconds = movie.duration_seconds
    return (
        movie.movie_id,
        movie.title,
        None if seconds is None else int(seconds),
        movie.genres,
        movie.released,
        version,
    )


def _decode_all(body: bytes, lines: bool) -> list[Movie | tuple[RejectionReason, str]]:
    raw = split_lines(body) if lines else _split_array(body)
    if len(raw) > MAX_MOVIES:
        raise BodyTooLargeError(f"a request holds at most {MAX_MOVIES} films")
    return [_decode_movie(bytes(one)) for one in raw]


def _split_array(body: bytes) -> RawEvents:
    if body.lstrip(b" \t\r\n").startswith(b"{"):
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.DecodeError, RecursionError):
            raise MalformedBodyError("the body is not JSON in UTF-8") from None
        raise UnexpectedBodyError(_NO_ARRAY)
    try:
        return split_json(body)
    except UnexpectedBodyError:
        raise UnexpectedBodyError(_NO_ARRAY) from None


_NO_ARRAY = "the body must be an array of films"


def _decode_movie(raw: bytes) -> Movie | tuple[RejectionReason, str]:
    """The film, or why it is none."""
    try:
        # msgspec does not look into the strings that it skips.
        raw.decode()
        return _decode(raw)
    except msgspec.ValidationError as error:
        return _invalid(raw, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOT_JSON


def _invalid(raw: bytes, said: str) -> tuple[RejectionReason, str]:
    # A wrong field is reported before the text is read to its end: it may be no JSON at all.
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return _NOT_JSON
    named = _NAMED_FIELD.search(said)
    if named is None:
        return RejectionReason.INVALID_FIELD, "a film must be a JSON object"
    field = named[2]
    return RejectionReason.INVALID_FIELD, f"{field} is required" if named[1] else _RULES[field]


_NOT_JSON = RejectionReason.NOT_JSON, "not JSON in UTF-8"
