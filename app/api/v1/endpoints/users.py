"""What a user may ask for: all that is stored of them, and to be forgotten."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import StreamingResponse

from app.api.deps import Eraser, Export
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.analytics import USER
from app.schemas.users import ERASED, ErasureMode, ErasureReceipt, ExportFormat

router = APIRouter(prefix=PREFIX, tags=["users"], responses=described(422, 500, 503))

_MEDIA_TYPES = {ExportFormat.NDJSON: "application/x-ndjson", ExportFormat.CSV: "text/csv"}


@router.delete("/user/{user_id}", responses=described(501))
async def erase_user(
    request: Request,
    eraser: Eraser,
    user_id: Annotated[UUID, Path(description="Who is to be forgotten.", examples=[ERASED])],
    mode: Annotated[
        ErasureMode,
        Query(
            description="`erase` deletes the user's events; `anonymise` keeps them, under a random "
            "new id and without metadata, so that counts stay.",
            examples=[ErasureMode.ERASE],
        ),
    ] = ErasureMode.ERASE,
) -> ErasureReceipt:
    """Remove a user. Answered when it is complete; events that come later are refused."""
    receipt = await eraser.erase(user_id, mode)
    request.app.state.wordings.forget()
    return receipt


@router.get(
    "/user/{user_id}/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "All events of the user, in the order of time",
            "content": {name: {"schema": {"type": "string"}} for name in _MEDIA_TYPES.values()},
        }
    },
)
async def export_user(
    export: Export,
    user_id: Annotated[UUID, Path(description="Whose.", examples=[USER])],
    form: Annotated[
        ExportFormat | None,
        Query(
            alias="format",
            description="By default what `Accept` asks for, or else `ndjson`.",
            examples=[ExportFormat.NDJSON],
        ),
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> StreamingResponse:
    """All that is stored of a user, as it can be sent again."""
    form = form or (ExportFormat.CSV if "text/csv" in accept.lower() else ExportFormat.NDJSON)
    pieces = await export.pieces(user_id, form)
    return StreamingResponse(pieces, media_type=_MEDIA_TYPES[form])
