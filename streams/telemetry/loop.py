"""Whether the event loop turns: how late it is, and what it does when it does not turn at all."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Self

from models.histogram import Histogram
from streams.tasks import start_thread
from streams.ticks import until_tick

logger = logging.getLogger(__name__)

BEAT = 0.1
"""Seconds between two beats: ten a second cost some 50 µs."""
RECENT = 50
"""Beats of which the worst is reported as the lag."""
TICK = 0.5
"""Seconds between two looks of the thread that watches."""
STALLED = 2.0
"""Seconds without a beat after which the log shows what blocks the loop."""
HOPELESS = 60.0
"""Seconds without a beat after which the process ends: its group would wait for it for ever, since the heartbeats are
another thread's."""


class LoopWatch:
    """Opened with `async with` on the loop that it watches. `exit_` ends the process.

    It counts its own looks, not the time between them: a process that was stopped for an hour has not stalled. Code
    that holds the interpreter's lock holds this thread, too; that is what a probe of `/livez` is for.
    """

    def __init__(self, exit_: Callable[[int], None] = os._exit) -> None:
        self._exit = exit_
        self._beats = 0
        self._due = 0.0
        self._closing = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._recent: deque[float] = deque([0.0], maxlen=RECENT)
        self.lags = Histogram()
        self.stalls = 0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._schedule()
        self._thread = start_thread(self._watch, "watching the loop", means="a loop that hangs is not noticed")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def lag(self) -> float:
        """Return the seconds by which the loop was late at worst, lately."""
        return max(self._recent)

    @property
    def tasks(self) -> int:
        """Return how many tasks the loop has."""
        return len(asyncio.all_tasks(self._loop))

    def _schedule(self) -> None:
        now = self._loop.time()
        pause = until_tick(now, BEAT)
        self._due = now + pause
        self._timer = self._loop.call_later(pause, self._beat)

    def _beat(self) -> None:
        lag = max(0.0, self._loop.time() - self._due)
        self._beats += 1
        self._recent.append(lag)
        self.lags.add(lag)
        self._schedule()

    def _watch(self) -> None:
        seen, looks, reported = -1, 0, False
        while not self._closing.wait(TICK):
            if seen != self._beats:
                if reported:
                    logger.warning("the event loop runs again after %.1f s", looks * TICK)
                seen, looks, reported = self._beats, 0, False
                continue
            looks += 1
            if looks * TICK >= STALLED and not reported:
                reported = True
                self.stalls += 1
                self._log(logging.ERROR, "the event loop has been blocked for %.0f s; it is here:", STALLED)
            if looks * TICK >= HOPELESS:
                self._log(
                    logging.CRITICAL, "the event loop has been blocked for %.0f s: exiting; it was here:", HOPELESS
                )
                logging.shutdown()
                self._exit(1)
                return

    def _log(self, level: int, message: str, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "(its thread has ended)"
        logger.handle(logger.makeRecord(logger.name, level, "", 0, message, (seconds,), None, sinfo=stack))
