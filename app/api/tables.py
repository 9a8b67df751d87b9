"""Answers that are lists as CSV (RFC 4180): for spreadsheets and programs that take tables."""

import csv
import io
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, get_args, get_origin

import msgspec
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

MEDIA_TYPE = "text/csv"

Json = Mapping[str, Any]

DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": "date,starts\r\n2026-01-20,31\r\n",
            }
        }
    }
}
"""What a route says of it in the OpenAPI description."""

# Text is handed on in pieces of so many rows.
_PIECE_ROWS = 500


def prefers_csv(request: Request, form: str | None) -> bool:
    """Whether the answer is wanted as CSV: `format` says it, or else `Accept`, if it names CSV and
    not JSON."""
    if form is not None:
        return form == "csv"
    accepted = request.headers.get("accept", "").lower()
    return MEDIA_TYPE in accepted and "application/json" not in accepted


def csv_response(body: bytes, ask: Callable[..., Awaitable[BaseModel]]) -> StreamingResponse:
    """The rows of the one list that an answer has.

    Args:
        body: the answer as JSON.
        ask: what gives such answers.
    """
    name, row = _list_of(ask.__annotations__["return"])
    return stream_csv(row, _each(msgspec.json.decode(body)[name]))


def _list_of(answer: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """The field that is a list, and what is in it."""
    for name, field in answer.model_fields.items():
        if get_origin(field.annotation) is list:
            [row] = get_args(field.annotation)
            return name, row
    raise TypeError(f"{answer.__name__} has no list")


def stream_csv(row: type[BaseModel], rows: AsyncIterable[Json]) -> StreamingResponse:
    """Rows of one kind, whose fields are the columns; of as many as there are, a few as text."""
    return StreamingResponse(
        _lines(list(row.model_fields), rows), media_type=f"{MEDIA_TYPE}; charset=utf-8"
    )


async def _each(rows: Iterable[Json]) -> AsyncIterator[Json]:
    for row in rows:
        yield row


async def _lines(columns: list[str], rows: AsyncIterable[Json]) -> AsyncIterator[str]:
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\r\n").writerow
    write(columns)
    waiting = 0
    async for row in rows:
        write(_cell(row[column]) for column in columns)
        waiting += 1
        if waiting == _PIECE_ROWS:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
            waiting = 0
    yield text.getvalue()


def _cell(value: Any) -> Any:
    """As JSON has it, without quotes; null is empty, and a list has `|` between its items."""
    return "|".join(value) if isinstance(value, list) else value
