"""Runs a plugin's async functions on the event loop, and notices those that block it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from streams.log_pause import LogPause

logger = logging.getLogger(__name__)

BLOCKED = 0.1
"""Seconds that one step of an async function may take; everything else of the worker stands still meanwhile."""


class Steps:
    """An awaitable that runs a coroutine and measures each of its steps: the time from one `await` to the next.

    `blocked` is called with the seconds of a step of more than BLOCKED.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], blocked: Callable[[float], None]) -> None:
        self._work = work
        self._blocked = blocked

    def __await__(self) -> Generator[Any, Any, Any]:
        """Run it. Raises what it raises."""
        work = self._work
        try:
            awaited = self._step(work.send, None)
            while True:
                try:
                    sent = yield awaited
                except BaseException as exc:  # noqa: BLE001  the coroutine's to handle: its cancellation, for one
                    awaited = self._step(work.throw, exc)
                else:
                    awaited = self._step(work.send, sent)
        except StopIteration as done:
            return done.value
        finally:
            work.close()

    def _step(self, step: Callable[[Any], Any], sent: Any) -> Any:
        began = time.monotonic()
        try:
            return step(sent)
        finally:
            if (took := time.monotonic() - began) > BLOCKED:
                self._blocked(took)


class BlockingLog:
    """Logs which source's function blocks the event loop, once a minute for each."""

    def __init__(self) -> None:
        self._pause = LogPause()

    def note(self, source: str, call: str | None, seconds: float) -> None:
        """Note that a step took so many seconds."""
        if self._pause.is_over(source):
            logger.warning("source %s: %s blocked the event loop for %.1f s, and all else that the worker does: await "
                           "what takes long, or make it a plain function, which has a thread (logged once a minute)",
                           source, call, seconds)  # fmt: skip
