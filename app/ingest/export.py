"""All that is stored of a user, as it can be sent again: in pieces, however much it is."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from app.core.clickhouse_client import ClickHouseClient, Row, load_query
from app.core.errors import StoreUnavailableError
from app.ingest.tombstones import Tombstones
from app.schemas.users import ExportFormat

# Of events that have up to 16 KiB of metadata.
_PIECE_EVENTS = 1_000

FIELDS = (
    "event_id", "user_id", "movie_id", "event_type", "timestamp", "position_seconds", "session_id",
    "metadata",
)  # fmt: skip
"""Of each event, in this order: those that events are sent with."""


class Export:
    """Reads the events of one user."""

    def __init__(self, store: ClickHouseClient, tombstones: Tombstones) -> None:
        self._store = store
        self._tombstones = tombstones

    async def pieces(self, user_id: UUID, form: ExportFormat) -> AsyncIterator[bytes]:
        """The events in order of time, then of id; of a user without events, none.

        NDJSON: a line an event, as it can be sent to this service. CSV: a line with the names of
        the fields first, `metadata` as JSON text, nothing for no session.

        What was stored before it is asked for is in it; what comes meanwhile may be.

        Returns:
            When the first piece is there: the pieces, which are never empty.

        Raises:
            StoreUnavailableError, StoreError: also from the pieces, and when the user is erased
                meanwhile: what was given is not all.
        """
        first = await self._events(user_id, None)
        return self._written(user_id, first, _as_csv if form is ExportFormat.CSV else _as_ndjson)

    async def _written(
        self, user_id: UUID, rows: list[Row], write: Callable[[list[Row]], bytes]
    ) -> AsyncIterator[bytes]:
        if write is _as_csv:
            yield _csv_line(FIELDS)
        found = bool(rows)
        while rows:
            yield write(rows)
            if len(rows) < _PIECE_EVENTS:
                break
            rows = await self._events(user_id, rows[-1])
        await self._tombstones.refresh()
        if found and self._tombstones.has(user_id):
            raise StoreUnavailableError("the user was erased while their events were read")

    async def _events(self, user_id: UUID, after: Row | None) -> list[Row]:
        return await self._store.execute(
            load_query("export_events"),
            {
                "user_id": user_id,
                "after_time": 0 if after is None else after["time"],
                "after_id": UUID(int=0) if after is None else after["id"],
                "limit": _PIECE_EVENTS,
            },
        )


def _as_ndjson(rows: list[Row]) -> bytes:
    return b"".join(_json_line(row) for row in rows)


def _json_line(row: Row) -> bytes:
    event = dict(zip(FIELDS, _values(row), strict=True))
    event["metadata"] = msgspec.Raw(row["metadata"].encode())
    return msgspec.json.encode(event) + b"\n"


def _as_csv(rows: list[Row]) -> bytes:
    return b"".join(_csv_line(_values(row)) for row in rows)


def _csv_line(values: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)  # None as nothing; lines end in CR LF (RFC 4180)
    return line.getvalue().encode()


def _values(row: Row) -> tuple[object, ...]:
    return (
        row["id"],
        row["user_id"],
        row["movie_id"],
        row["event_type"],
        f"{datetime.fromtimestamp(row['time'], UTC):%Y-%m-%dT%H:%M:%SZ}",
        row["position_seconds"],
        row["session_id"],
        row["metadata"],
    )
