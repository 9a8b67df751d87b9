"""Copies of a store that is in use, each complete and as it was between two flushes."""

import asyncio
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from app.core.errors import BackupRefusedError
from app.ingest.writer import Writer
from app.schemas.backup import BackupReceipt


class Backups:
    """A folder of copies, each in one named by the time it was made at.

    Args:
        folder: None where none are wanted.
    """

    def __init__(self, writer: Writer, folder: Path | None, clock: Callable[[], datetime]) -> None:
        self._writer = writer
        self._folder = folder
        self._clock = clock

    async def make(self) -> BackupReceipt:
        """Holds up writing for as long as it takes to link the files; then copies, if it must.

        Raises:
            BackupRefusedError: none are wanted, the store can't make one, or the folder can't be
                written.
            StoreUnavailableError, StoreError: as the store does.
        """
        if self._folder is None:
            raise BackupRefusedError("backups are off: set BACKUP_PATH")
        began = asyncio.get_running_loop().time()
        name = f"{self._clock():%Y%m%dT%H%M%S.%fZ}"
        snapshot = await self._writer.snapshot()
        try:
            size = await asyncio.to_thread(_move, snapshot, self._folder, name)
        except OSError as error:
            raise BackupRefusedError(f"BACKUP_PATH can't be written: {error.strerror}") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, snapshot, ignore_errors=True)
        seconds = asyncio.get_running_loop().time() - began
        return BackupReceipt(
            path=str(self._folder / name), size_bytes=size, seconds=round(seconds, 3)
        )


def _move(snapshot: Path, folder: Path, name: str) -> int:
    """The size of what was moved. It has its name only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / f".{name}"
    try:
        shutil.move(snapshot, begun)
        os.sync()
        size = sum(file.lstat().st_size for file in begun.rglob("*") if file.is_file())
        begun.rename(folder / name)
    except OSError:
        shutil.rmtree(begun, ignore_errors=True)
        raise
    return size
