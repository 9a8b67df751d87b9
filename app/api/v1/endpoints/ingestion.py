"""How far the taking in of events is."""

from fastapi import APIRouter

from app.api.deps import Doors
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.ingestion import Ingestion

router = APIRouter(prefix=PREFIX, tags=["events"], responses=described(500, 503))


@router.get("/ingestion")
async def ingestion(doors: Doors) -> Ingestion:
    """What came in since the process started, by HTTP and from Kafka, and what waits there."""
    return await doors.report()
