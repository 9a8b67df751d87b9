"""Requests to erase a user: one after another, each with a receipt."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from uuid import UUID

from app.core.clickhouse_client import ClickHouseClient
from app.core.errors import NotOnClusterError
from app.ingest.lease import Turn
from app.ingest.removal import (
    Copies,
    Removal,
    begin_copies,
    begin_removal,
    clean_up,
    forget_staged,
    make_copies,
    put_in_place,
)
from app.ingest.writer import Writer
from app.schemas.users import ErasureMode, ErasureReceipt

logger = logging.getLogger(__name__)


class Eraser:
    """Erases users. There is one in a process."""

    def __init__(
        self, store: ClickHouseClient, writer: Writer, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._running: dict[tuple[UUID, ErasureMode], asyncio.Task[ErasureReceipt]] = {}

    async def erase(self, user_id: UUID, mode: ErasureMode) -> ErasureReceipt:
        """Returns when nothing of the user is left, and no event of theirs will be taken again.

        Who asks the same while it is under way gets the same receipt. It goes on when who asked is
        gone; and after a crash when the next process starts.

        Raises:
            StoreUnavailableError, StoreError: it may be done in part, of which no answer shows
                anything; asking again does the rest.
            NotOnClusterError: a cluster's tables can't be changed so.
        """
        if self._store.cluster is not None:
            raise NotOnClusterError(
                "users can't be erased on a cluster (CLICKHOUSE_CLUSTER); docs/scaling.md has the "
                "statements to do it by hand"
            )
        task = self._running.get((user_id, mode))
        if task is None:
            task = asyncio.create_task(self._erase(user_id, mode))
            self._running[user_id, mode] = task
            task.add_done_callback(lambda done: self._forget(user_id, mode, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _erase(self, user_id: UUID, mode: ErasureMode) -> ErasureReceipt:
        requested_at = self._clock()

        async def begin(turn: Turn) -> tuple[Removal, Copies | None]:
            removal = await begin_removal(
                self._store,
                self._writer.tombstones,
                user_id,
                anonymise=mode is ErasureMode.ANONYMISE,
                oldest=self._writer.oldest(requested_at),
                fence=turn.fence,
            )
            if removal.copies:  # in place; it failed in cleaning up
                return removal, None
            return removal, await begin_copies(self._store, removal, turn.number, turn.fence)

        async def finish(removal: Removal, copies: Copies | None, turn: Turn) -> Removal:
            if copies is not None:
                removal = await put_in_place(self._store, removal, copies, turn.number, turn.fence)
            await forget_staged(self._store)
            return removal

        async with self._one_at_a_time:
            removal, copies = await self._writer.in_turn(begin)
            if copies is not None:
                await make_copies(self._store, removal, copies)
            removal = await self._writer.in_turn(partial(finish, removal, copies))
            events = 0 if copies is None else copies.events
            rejected = await clean_up(self._store, removal)
        logger.info("a user was erased: %d events, %d rejected messages", events, rejected)
        return ErasureReceipt(
            user_id=user_id,
            mode=ErasureMode.ERASE if removal.new_id is None else ErasureMode.ANONYMISE,
            events=events,
            rejected_messages=rejected,
            requested_at=requested_at,
            completed_at=self._clock(),
        )

    def _forget(self, user_id: UUID, mode: ErasureMode, done: asyncio.Task[ErasureReceipt]) -> None:
        del self._running[user_id, mode]
        if not done.cancelled():
            done.exception()  # nobody's business when all who asked have gone
