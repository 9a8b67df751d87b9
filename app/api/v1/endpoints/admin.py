"""What whoever runs the service may ask of the store itself."""

from fastapi import APIRouter

from app.api.deps import Auditing, LastDays
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.admin import Audit, Repair

router = APIRouter(
    prefix=f"{PREFIX}/admin", tags=["admin"], responses=described(409, 422, 500, 503)
)


@router.get("/audit")
async def audit(auditor: Auditing, days: LastDays = 3650) -> Audit:
    """Compare every row of every view with the events. It changes nothing, and may take minutes."""
    return await auditor.audit(days)


@router.post("/repair", responses=described(501))
async def repair(auditor: Auditing, days: LastDays = 3650) -> Repair:
    """Audit, make the days that differ anew from the events, and audit again."""
    return await auditor.repair(days)
