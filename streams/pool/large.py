"""A process for work on large values (`models/large.py`), started when there is some for the first time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from models import errors
from models.errors import AnswerError, InternalError, InvalidDocument, InvalidRequest, Overloaded, SettingsError
from streams.pool.pool import OVERRAN, CheckPool

PROCESSES = 1
"""Those that large values share; checks have their own, so that neither waits for the other."""


class LargeWork:
    """Opened with `async with`. `plugins` is what the process imports: their schemas load documents."""

    def __init__(self, plugins: Sequence[str] = ()) -> None:
        self._plugins = tuple(plugins)
        self._pool: CheckPool | None = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, task: str, *arguments: Any) -> bytes:
        """Have some work done. Raises the AnswerError that it ends with, InvalidDocument or for a request
        InvalidRequest if it takes too much memory; if it takes too long InvalidDocument, since a schema may never end,
        but for a request Overloaded: reading one is bounded work. Raises InternalError if there is no process.
        """
        pool = self._pool or await self._open()
        verdict = await pool.work(task, arguments)
        if verdict.error is not None:
            raise _error(task, verdict.error)
        done: bytes = verdict.value
        return done

    async def _open(self) -> CheckPool:
        async with self._opening:
            if self._pool is None:
                try:
                    self._pool = await self._stack.enter_async_context(CheckPool(PROCESSES, self._plugins))
                except SettingsError as exc:
                    raise InternalError(str(exc)) from None
            return self._pool


def _error(task: str, reason: str) -> AnswerError:
    name, _, text = reason.partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, AnswerError):
        return kind(text)
    if reason.startswith("no process"):
        return InternalError(reason)
    if task != "read a request":
        return InvalidDocument(f"it is too large to be read: that {reason}")
    if reason.startswith(OVERRAN):
        return Overloaded(f"reading it {reason}: the worker is too busy for a request of this size")
    return InvalidRequest(f"it is too large to be read: that {reason}")
