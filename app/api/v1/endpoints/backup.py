"""Copies of the store, for who runs the service."""

from fastapi import APIRouter

from app.api.deps import Backups
from app.api.errors import described
from app.api.v1 import PREFIX
from app.schemas.backup import BackupReceipt

router = APIRouter(prefix=PREFIX, tags=["admin"], responses=described(409, 500, 503))


@router.post("/admin/backup", status_code=201)
async def make_backup(backups: Backups) -> BackupReceipt:
    """Copy the embedded store as it is now into BACKUP_PATH. Events are taken in meanwhile."""
    return await backups.make()
