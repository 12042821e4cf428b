"""The processes of the pool: they start, are replaced when they end or grow old, and end with the pool."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from models.errors import SettingsError
from streams.pool.child import Child, Heard
from streams.pool.slot import WorkerSlot
from streams.tasks import start

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0
"""Seconds that a process may take to start, import of the plugins included."""
START_PAUSE, LONGEST_START_PAUSE = 0.1, 5.0
"""Seconds until the next try when a process does not start, doubled each time."""
GIVE_UP_AFTER = 5.0
"""Seconds without any process, and with one that did not start, after which checks are told so."""
STOP_TIMEOUT = 0.5
"""Seconds that a process may take to end by itself once its socket is closed."""


class Workers:
    """Seats, as many as `size` when all is well. Calls back: `heard` with the verdicts of one, `lost` when one has
    ended by itself and how, `changed` when one has come, or cannot.
    """

    def __init__(
        self,
        size: int,
        plugins: Sequence[str],
        counts: Counter[str],
        *,
        heard: Callable[[WorkerSlot, Sequence[Heard], float], None],
        lost: Callable[[WorkerSlot, int], None],
        changed: Callable[[], None],
    ) -> None:
        self.size = size
        self._plugins, self._counts = tuple(plugins), counts
        self._heard, self._lost, self._changed = heard, lost, changed
        self.slots: list[WorkerSlot] = []
        self._children: set[Child] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reason = ""
        """Why the last process that was to start did not; "" if it did."""
        self._empty_since = 0.0
        self.closed = False

    def __iter__(self) -> Iterator[WorkerSlot]:
        return iter(self.slots)

    async def open(self) -> None:
        """Start all. Raises SettingsError, saying why one does not start."""
        try:
            async with asyncio.TaskGroup() as starting:
                for _ in range(self.size):
                    starting.create_task(self._start())
        except BaseException as exc:
            await self.close()
            first = exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc
            if not isinstance(first, _UnstartedError | OSError):
                raise
            msg = f"the processes that run checks do not start: {first}"
            raise SettingsError(msg) from None

    async def close(self) -> None:
        """End all: those that are busy at once, the others when they have seen that there is nothing more to do."""
        self.closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for seat in self.slots:
            if seat.given:
                seat.child.kill()
        await asyncio.gather(*map(self._see_out, list(self._children)))
        self.slots.clear()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have something done in the background, for as long as the crew is not closed."""
        task = start(work, "keeping the pool's processes", means="checks are run by fewer, or by none")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def health(self) -> str:
        """Return "ok", or why there is no process."""
        hopeless = self._reason and not self.slots and time.monotonic() - self._empty_since > GIVE_UP_AFTER
        return f"no process runs checks: {self._reason}" if hopeless else "ok"

    def retire(self, seat: WorkerSlot) -> None:
        """Give a process nothing more to do, and have another come in its place; it ends once all is answered."""
        if not seat.retiring:
            seat.retiring = True
            self._counts["recycled"] += 1
            self._spawn(self._replace())
        if not seat.given and seat in self.slots:
            self._remove(seat)
            self._spawn(self._see_out(seat.child))

    def _remove(self, seat: WorkerSlot) -> None:
        self.slots.remove(seat)
        self._empty_since = time.monotonic()  # counts only if it was the last

    def _ended(self, seat: WorkerSlot) -> None:
        """A process has closed its end of the socket."""
        if seat not in self.slots or self.closed:
            return
        self._remove(seat)
        self._counts["ended"] += 1
        if not seat.retiring:
            self._spawn(self._replace())
        self._spawn(self._ask_for_exit_code(seat))

    async def _ask_for_exit_code(self, seat: WorkerSlot) -> None:
        """Learn how a process ended, and tell."""
        self._lost(seat, await self._see_out(seat.child))

    async def _replace(self) -> None:
        """Start a process, however many tries that takes."""
        pause = START_PAUSE
        while True:
            try:
                await self._start()
            except (_UnstartedError, OSError) as exc:
                self._counts["unstarted"] += 1
                self._reason = str(exc)
                logger.warning("a process that runs checks does not start: %s", exc)
                self._changed()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_START_PAUSE)
            else:
                self._reason = ""
                return

    async def _see_out(self, child: Child) -> int:
        child.close()
        code = await child.gone(STOP_TIMEOUT)
        self._children.discard(child)
        return code

    async def _start(self) -> None:
        """Start a process and wait until it serves. Raises OSError, and _UnstartedError saying why it does not."""
        child = Child(lambda verdicts, began: self._heard(seat, verdicts, began), lambda: self._ended(seat))
        seat = WorkerSlot(child)
        child.start()
        self._children.add(child)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                reason = await child.prepare(self._plugins)
        except TimeoutError:
            reason = f"it was not ready within {START_TIMEOUT:g} s"
        if reason or child.closed:
            child.kill()
            await self._see_out(child)
            raise _UnstartedError(reason or "its process ended at once")
        self.slots.append(seat)
        self._changed()


class _UnstartedError(Exception):
    """A process did not start; the text says why."""
