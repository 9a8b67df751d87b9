"""The catalogue of films."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AfterValidator, BeforeValidator

from app.api.deps import Body, Catalog, Films, Format, plain_number
from app.api.errors import described
from app.api.tables import DESCRIBED, csv_response, prefers_csv, stream_csv
from app.api.v1 import PREFIX
from app.schemas.catalog import FILM, MAX_MOVIES, CatalogPage, CatalogReceipt, Film, Movie
from app.services.movies import read_cursor

router = APIRouter(prefix=PREFIX, tags=["catalogue"])

_PAGE = 50
_MOVIE = {"$ref": "#/components/schemas/Movie"}
_EXAMPLE = {
    "movie_id": FILM,
    "title": "Heat (1995)",
    "duration_seconds": 10200,
    "genres": ["Action", "Crime"],
    "released": 1995,
}


def movie_schemas() -> dict[str, Any]:
    """The schema of a film as it is sent, for the OpenAPI description."""
    _, schemas = msgspec.json.schema_components([Movie], ref_template="#/components/schemas/{name}")
    return schemas


def _readable(cursor: str) -> str:
    read_cursor(cursor)
    return cursor


@router.put(
    "/catalog/movies",
    responses=described(400, 413, 415, 422, 500, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {
                            "anyOf": [_MOVIE, {}],
                            "description": "What is no film is rejected, and named in the receipt.",
                        },
                        "maxItems": MAX_MOVIES,
                    },
                    "example": [_EXAMPLE],
                },
                "application/x-ndjson": {
                    "schema": {"description": "One film a line."},
                    "example": msgspec.json.encode(_EXAMPLE).decode() + "\n",
                },
            },
        }
    },
)
async def put_movies(
    body: Body,
    catalog: Catalog,
    content_type: Annotated[str, Header(include_in_schema=False)] = "application/json",
) -> CatalogReceipt:
    """Add up to 10,000 films, or replace those that are there. A bad one is rejected; the others
    are stored, and their titles are in every answer from then on."""
    lines = content_type.partition(";")[0].strip().lower() == "application/x-ndjson"
    return await catalog.take(body, lines=lines)


@router.get(
    "/catalog/movies",
    response_model=CatalogPage,
    responses={**described(414, 422, 500, 503), **DESCRIBED},
)
async def movies(
    request: Request,
    films: Films,
    q: Annotated[
        str,
        Query(
            max_length=200,
            description="Only films whose titles hold this text, in whatever case.",
            examples=["heat"],
        ),
    ] = "",
    limit: Annotated[
        int | None,
        Query(
            ge=1,
            le=1000,
            description="How many films. Left out, 50, and in CSV all of them.",
            examples=[50],
        ),
        BeforeValidator(plain_number),
    ] = None,
    cursor: Annotated[
        str | None,
        AfterValidator(_readable),
        Query(
            max_length=4000,
            description="`next_cursor` of the page before; left out for the first page.",
            examples=["WyJoZWF0ICgxOTk1KSIsIjVhNGY4Y2RlLTNmMGItNWEwZS05YTRjLThkMWYwZjFmNmI3ZSJd"],
        ),
    ] = None,
    form: Format = None,
) -> Response | CatalogPage:
    """The films of the catalogue by title, a page at a time."""
    if not prefers_csv(request, form):
        return await films.page(q, limit or _PAGE, cursor)
    if limit is not None:
        page = await films.page(q, limit, cursor)
        return csv_response(page.model_dump_json().encode(), films.page)
    return stream_csv(Film, await films.every(q, cursor))
