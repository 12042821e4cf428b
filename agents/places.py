"""Places for requests that the cache cannot answer: how many a worker has begun, and what work on checks they bring.
When there is none, no more is taken from Kafka; that is the back-pressure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from agents.known import Known
from streams.pool.admission import Admission

MAX_UNDER_WAY = 4_096
"""Requests that a worker has begun beyond what its cache answers. Many more than fetch at once, so that those who wait
for a slow host leave room for others."""


class Places:
    """`admission` is the check pool's; without one, checks are no reason to wait."""

    def __init__(self, admission: Admission | None = None) -> None:
        self._free = asyncio.Semaphore(MAX_UNDER_WAY)
        self._admission = admission

    async def take(self, known: Known) -> Callable[[], None]:
        """Wait for a place; returns what gives it back."""
        await self._free.acquire()
        if self._admission is None or not known.request.checks:
            return self._free.release
        try:
            promised = await self._admission.admit(call.name for call in known.request.checks)
        except BaseException:
            self._free.release()
            raise
        return partial(self._leave, self._admission, promised)

    def _leave(self, admission: Admission, promised: float) -> None:
        admission.release(promised)
        self._free.release()
