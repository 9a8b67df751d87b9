"""What the catalogue says of films."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import msgspec

from app.core.clickhouse_client import ClickHouseClient, Parameters, Row, load_query
from app.schemas.catalog import CatalogPage, Film

# Where other instances change the catalogue too, what they changed is seen after so long.
_KNOWN_SECONDS = 2.0
_KNOWN_FILMS = 100_000
_CSV_PAGE = 5_000

_START = ("", "")


class Movies:
    """Films by id, at hand once they were asked for, and the catalogue by title.

    Args:
        version: another number after each change of the catalogue by this process.

    Raises:
        StoreUnavailableError: from every method: try again later.
    """

    def __init__(self, store: ClickHouseClient, version: Callable[[], int]) -> None:
        self._store = store
        self._version = version
        self._known: dict[str, Film | None] = {}
        self._known_version = -1
        self._known_until = 0.0

    async def films(self, ids: Iterable[str]) -> Mapping[str, Film | None]:
        """What is known of each of these films; None where it isn't in the catalogue."""
        wanted = set(ids)
        version = self._freshen()
        found = {one: self._known[one] for one in wanted if one in self._known}
        missing = sorted(wanted.difference(found))
        if missing:
            rows = await self._store.execute(load_query("films"), {"ids": missing})
            asked: dict[str, Film | None] = dict.fromkeys(missing)
            asked |= {row["movie_id"]: _film(row) for row in rows}
            found |= asked
            # What was read before a change of meanwhile is of no use after it.
            if version == self._freshen():
                self._known |= asked
        return found

    async def titles(self, ids: Iterable[str]) -> Mapping[str, str | None]:
        """The title of each of these films, or None; in their order."""
        wanted = list(ids)
        films = await self.films(wanted)
        return {one: film.title if (film := films[one]) else None for one in wanted}

    async def page(self, text: str, limit: int, cursor: str | None) -> CatalogPage:
        """Films by title that hold the text, from the cursor of a page before on.

        Raises:
            ValueError: the cursor is none of ours.
        """
        after = _START if cursor is None else read_cursor(cursor)
        [size], rows = await asyncio.gather(
            self._store.execute(load_query("catalogue_size"), {"text": text}),
            self._rows(text, limit + 1, after),
        )
        more = len(rows) > limit
        rows = rows[:limit]
        return CatalogPage(
            items=[_film(row) for row in rows],
            total_items=size["films"],
            next_cursor=_cursor(rows[-1]) if more else None,
        )

    async def every(self, text: str, cursor: str | None) -> AsyncIterator[Row]:
        """The fields of all films that hold the text, by title, from the cursor on, some at a time.

        What can't be answered is found out before the first of them is handed out.
        """
        rows = await self._rows(text, _CSV_PAGE, _START if cursor is None else read_cursor(cursor))

        async def each(rows: list[Row]) -> AsyncIterator[Row]:
            while rows:
                for row in rows:
                    yield row
                after = rows[-1]["sort_title"], rows[-1]["movie_id"]
                rows = await self._rows(text, _CSV_PAGE, after)

        return each(rows)

    async def _rows(self, text: str, limit: int, after: tuple[str, str]) -> list[Row]:
        about: Parameters = {
            "text": text, "limit": limit, "after_title": after[0], "after_id": after[1],
        }  # fmt: skip
        return await self._store.execute(load_query("catalogue"), about)

    def _freshen(self) -> tuple[int, float]:
        """Forget what may not be so any more. Returns what changes whenever that happens."""
        version, now = self._version(), asyncio.get_running_loop().time()
        stale = not self._store.exclusive and now >= self._known_until
        if version != self._known_version or stale or len(self._known) > _KNOWN_FILMS:
            self._known = {}
            self._known_version = version
            self._known_until = now + _KNOWN_SECONDS
        return self._known_version, self._known_until


def _film(row: Mapping[str, Any]) -> Film:
    return Film(**{name: row[name] for name in Film.model_fields})


def _cursor(row: Row) -> str:
    place = msgspec.json.encode((row["sort_title"], row["movie_id"]))
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[str, str]:
    """The title and id that a page begins after. Raises ValueError: it is none of ours."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        place = base64.b64decode(padded, altchars=b"-_", validate=True)
        title, movie_id = msgspec.json.decode(place, type=tuple[str, str])
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise ValueError("not the next_cursor of an answer") from None
    return title, movie_id
