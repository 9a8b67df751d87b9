"""The HTTP door."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Request, Response

from app.api.deps import Body, Events, sender_of
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.events import MAX_BATCH_EVENTS, BatchReceipt, EventReceipt, ViewingEvent

router = APIRouter(
    prefix=PREFIX, tags=["events"], responses=described(400, 413, 415, 422, 500, 503)
)

_EVENT = {"$ref": "#/components/schemas/ViewingEvent"}
_EVENTS = {
    "type": "array",
    "items": {
        "anyOf": [_EVENT, {}],
        "description": "What is no event is rejected, and named in the receipt.",
    },
    "maxItems": MAX_BATCH_EVENTS,
}
_EXAMPLE = {
    "user_id": "0b9c2c9e-54a1-5b8e-8f60-52f3b0b1c9d4",
    "movie_id": "5a4f8cde-3f0b-5a0e-9a4c-8d1f0f1f6b7e",
    "event_type": "progress",
    "position_seconds": 1260,
}


def event_schemas() -> dict[str, Any]:
    """The schemas of what producers send, for the OpenAPI description."""
    _, schemas = msgspec.json.schema_components(
        [ViewingEvent], ref_template="#/components/schemas/{name}"
    )
    return schemas


def _request_body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/events",
    status_code=201,
    responses={
        200: {
            "model": EventReceipt,
            "description": "It was stored before",
            "content": {
                "application/json": {
                    "example": {
                        "id": "7d3a8f52-6c1e-5b0d-9f4a-2e8b1c6d5a90",
                        "status": "duplicate",
                    }
                }
            },
        }
    },
    openapi_extra=_request_body({"application/json": {"schema": _EVENT, "example": _EXAMPLE}}),
)
async def store_event(
    events: Events, body: Body, request: Request, response: Response
) -> EventReceipt:
    """Store one event. The answer is sent when it is on the disk."""
    receipt = await events.take_event(body, sender_of(request))
    response.status_code = 201 if receipt.status == "stored" else 200
    return receipt


@router.post(
    "/events/batch",
    openapi_extra=_request_body(
        {
            "application/json": {
                "schema": {
                    "anyOf": [
                        _EVENTS,
                        {
                            "type": "object",
                            "properties": {"events": _EVENTS},
                            "required": ["events"],
                        },
                    ]
                },
                "example": [_EXAMPLE],
            },
            "application/x-ndjson": {
                "schema": {"description": "One event a line."},
                "example": msgspec.json.encode(_EXAMPLE).decode() + "\n",
            },
        }
    ),
)
async def store_events(
    events: Events,
    body: Body,
    request: Request,
    content_type: Annotated[str, Header(include_in_schema=False)] = "application/json",
) -> BatchReceipt:
    """Store up to 10,000 events in 16 MiB. A bad one is rejected; the others are stored."""
    lines = content_type.partition(";")[0].strip().lower() == "application/x-ndjson"
    return await events.take_batch(body, lines=lines, sender=sender_of(request))
