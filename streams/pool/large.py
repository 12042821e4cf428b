"""A process for work on large values (`models/large.py`), started when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from models import errors
from models.errors import AnswerError, InternalError, InvalidDocument, InvalidRequest, Overloaded, SettingsError
from streams.pool.pool import OVERRAN, CheckPool

PROCESSES = 1
"""Processes for large values; checks have their own, so that neither waits for the other."""


class LargeWork:
    """Opened with `async with`. The process imports `plugins`, whose schemas load documents."""

    def __init__(self, plugins: Sequence[str] = ()) -> None:
        self._plugins = tuple(plugins)
        self._pool: CheckPool | None = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, task: str, content: bytes, *arguments: Any) -> bytes:
        """Run a task on a large value. Raises the AnswerError that it raises; InvalidDocument, or for a request or
        record InvalidRequest, if it takes too much memory; InvalidDocument if it takes too long, as a schema may never
        end, but for a request or record Overloaded, as that is bounded work; InternalError if there is no process.
        """
        pool = self._pool or await self._open()
        outcome = await pool.work(task, content, arguments)
        if outcome.error is not None:
            raise _error(task, outcome.error)
        done: bytes = outcome.value
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
    if not task.endswith(("a request", "a record")):
        return InvalidDocument(f"it is too large to be read: that {reason}")
    if reason.startswith(OVERRAN):
        return Overloaded(f"reading it {reason}: the worker is too busy for a request of this size")
    return InvalidRequest(f"it is too large to be read: that {reason}")
