"""Answers for many who ask the same: computed once, and kept until something is written."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass

from pydantic import BaseModel

from app.core.errors import BusyError
from app.core.gate import Gate

# What retention takes away, and what another program writes, is seen after so long.
_KEPT_SECONDS = 10.0
_KEPT_ANSWERS = 1_000
_KEPT_BYTES = 64 * 1024 * 1024

Question = Hashable
Compute = Callable[[], Awaitable[BaseModel]]


@dataclass(frozen=True, slots=True)
class _Kept:
    body: bytes
    until: float


@dataclass(frozen=True, slots=True)
class _Running:
    """A computation that began when the store was at this version."""

    version: int | None
    task: asyncio.Task[bytes]


class Answers:
    """Gives the answer to a question as JSON.

    What was written before the question came is in the answer: an answer that is kept, or under
    way, is given only to those who ask while the store is as it was when its computation began. Of
    one question there is one computation at a time; who comes too late for it shares the next one.

    Args:
        version: what the store is at, another number after each write; None when that can't be
            known, because other processes write too. Then nothing is kept.
        most: answers that may be under way or wait for the store. An answer takes several queries:
            one that is refused has taken none of them.
        gate: of the store that is asked. Each computation shares it.
    """

    def __init__(
        self, version: Callable[[], int | None], gate: Gate | None = None, most: int = 1_000
    ) -> None:
        self._version = version
        self._most = most
        self._gate = gate or Gate()
        self._kept: dict[Question, _Kept] = {}
        self._kept_bytes = 0
        self._kept_version: int | None = None
        self._running: dict[Question, _Running] = {}
        self._next: dict[Question, asyncio.Task[bytes]] = {}

    async def get(self, question: Question, compute: Compute) -> bytes:
        """The answer as JSON text. Raises what `compute` raises, or BusyError.

        Args:
            question: with all that the answer depends on, the day that it is too.
        """
        body = self.kept(question)
        if body is not None:
            return body
        # One who goes away doesn't take the answer from the others.
        return await asyncio.shield(self._computation(question, self._version(), compute))

    def kept(self, question: Question) -> bytes | None:
        """The answer, if it is there and nothing was written since it was computed."""
        version = self._version()
        if version != self._kept_version or self._has_too_much():
            self._kept.clear()
            self._kept_bytes = 0
            self._kept_version = version
        kept = self._kept.get(question)
        if kept is None or asyncio.get_running_loop().time() >= kept.until:
            return None
        return kept.body

    def _has_too_much(self) -> bool:
        return len(self._kept) > _KEPT_ANSWERS or self._kept_bytes > _KEPT_BYTES

    def _computation(
        self, question: Question, version: int | None, compute: Compute
    ) -> asyncio.Task[bytes]:
        running = self._running.get(question)
        if running is not None and version is not None and running.version == version:
            return running.task
        if question in self._next:
            return self._next[question]
        if running is None:
            if len(self._running) >= self._most:
                raise BusyError("too many answers wait to be computed; try again later")
            return self._begin(question, compute)
        self._next[question] = _task(self._after(running.task, question, compute))
        return self._next[question]

    async def _after(
        self, running: asyncio.Task[bytes], question: Question, compute: Compute
    ) -> bytes:
        await asyncio.wait([running])
        del self._next[question]  # whoever comes from now on may be too late for it
        return await self._begin(question, compute)

    def _begin(self, question: Question, compute: Compute) -> asyncio.Task[bytes]:
        version = self._version()
        task = _task(self._compute(question, version, compute))
        self._running[question] = _Running(version, task)
        return task

    async def _compute(self, question: Question, version: int | None, compute: Compute) -> bytes:
        try:
            async with self._gate.shared():
                body = (await compute()).model_dump_json().encode()
        finally:
            del self._running[question]
        if version is not None and version == self._kept_version == self._version():
            until = asyncio.get_running_loop().time() + _KEPT_SECONDS
            before = self._kept.get(question)
            self._kept[question] = _Kept(body, until)
            self._kept_bytes += len(body) - (len(before.body) if before else 0)
        return body


def _task(work: Coroutine[None, None, bytes]) -> asyncio.Task[bytes]:
    """One whose failure is nobody's business when all who asked have gone."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
