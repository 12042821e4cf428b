"""Logs when the process becomes ready, and when it no longer is, and why."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Self

from streams import ticks
from streams.tasks import end_tasks, keep

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.25
"""Seconds between two looks."""
READY_LOOK_EVERY = 1.0
"""The same while nothing changes."""
SETTLED_AFTER = 2.0
"""Seconds that a change must last to be logged; the first one is logged at once. A rebalance takes less."""

STOPPING = "stopping"
"""The state of a part that ends because the process does."""


class Announcer:
    """Opened with `async with`. `parts` returns for each part `ok` or the reason; `describe` returns what is ready."""

    def __init__(
        self,
        parts: Callable[[], Mapping[str, str]],
        describe: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = parts
        self._describe = describe
        self._clock = clock
        self._opened = clock()
        self._ready: bool | None = None
        self._changed: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = keep(
            self._run, "announcing readiness", means="the log does not say what is ready", again=READY_LOOK_EVERY
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._task)

    async def _run(self) -> None:
        while True:
            self.look()
            await ticks.sleep(READY_LOOK_EVERY if self._ready and self._changed is None else LOOK_EVERY)

    def look(self) -> None:
        """Log a change that has lasted."""
        parts = self._parts()
        wrong = [f"{part}: {state}" for part, state in parts.items() if state != "ok"]
        ready, now = not wrong, self._clock()
        if STOPPING in parts.values():
            return  # stopping is logged elsewhere
        if ready == bool(self._ready):
            self._changed = None
            return
        self._changed = now if self._changed is None else self._changed
        first = self._ready is None
        if not first and now - self._changed < SETTLED_AFTER:
            return
        self._ready, self._changed = ready, None
        if not ready:
            logger.warning("not ready: %s", "; ".join(wrong))
        elif first:
            logger.info("ready after %.1f s: %s", now - self._opened, self._describe())
        else:
            logger.info("ready again: %s", self._describe())
