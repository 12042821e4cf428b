"""The processes of the pool and their calls. Processes start, are replaced when they end or grow old, end with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from models.checks import CheckOutcome
from models.errors import SettingsError
from models.process import RESTING
from streams.pool.child import Child, NumberedOutcome
from streams.tasks import start

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0
"""Seconds for a process to start, including the import of the plugins."""
START_PAUSE, LONGEST_START_PAUSE = 0.1, 5.0
"""Seconds until the next try after a failed start, doubled each time."""
GIVE_UP_AFTER = 5.0
"""Seconds without any process, after a failed start, until waiting checks fail."""
STOP_TIMEOUT = 0.5
"""Seconds for a process to end by itself once its socket is closed."""
RECYCLE_AFTER = 1_000
"""Batches of calls before a process is replaced, so that leaks of checks do not add up."""
RECYCLE_AGE = 60.0
"""Least age of a process before it is replaced, in seconds: starting one takes 0.15 s of CPU."""


class Job:
    """One submitted check. `size` is its size class, None if it is not small. `deaths` counts processes that ended
    while they ran it, `run_seconds` the time that it ran in them. `alone`: it is sent in a batch of its own, with
    `content`, the large value that it is about, behind it.
    """

    __slots__ = ("alone", "call", "content", "deaths", "done", "name", "run_seconds", "size")

    def __init__(self, name: str, value: Any, arguments: Mapping[str, Any], size: int | None) -> None:
        self.name = name
        self.call = name, value, arguments
        self.size = size
        self.deaths = 0
        self.run_seconds = 0.0
        self.alone = False
        self.content = b""
        self.done: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: CheckOutcome) -> None:
        """Set the outcome, unless the future is cancelled or done."""
        if not self.done.done():
            self.done.set_result(outcome)


class WorkerSlot:
    """A child, and the calls that it was given, by number and in order.

    `late`: its call takes long, so it gets no more. `overran`: it was killed for that. `retiring`: it ends once its
    calls are done. `suspect`: its call has ended a process before.
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        self.given: dict[int, Job] = {}
        self.batches = 0
        self.late = self.overran = self.retiring = self.suspect = False

    @property
    def idle(self) -> bool:
        """Whether it could run a call at once."""
        return not self.given and not self.retiring

    def is_old(self) -> bool:
        """Whether it is time to replace it."""
        return self.batches >= RECYCLE_AFTER and time.monotonic() - self.child.started > RECYCLE_AGE

    def take_last(self) -> tuple[Job | None, float | None]:
        """Remove and return the check during which the process ended, and the seconds since its start; None if unknown.

        If it is unknown, as outcomes were not sent or no call had started, all calls are sent alone from now on.
        """
        number, since = self.child.running()
        elapsed = None if number == RESTING else time.monotonic() - since
        if number not in self.given:
            for job in self.given.values():
                job.alone = True
            number = next(iter(self.given)) if len(self.given) == 1 else RESTING
        return self.given.pop(number, None), elapsed


class Workers:
    """Worker slots, `size` of them when all is well. Calls `on_outcomes` with outcomes, `on_lost` with the exit code of
    a process that ended by itself, `on_change` when one has started, or cannot.
    """

    def __init__(
        self,
        size: int,
        plugins: Sequence[str],
        counts: Counter[str],
        *,
        on_outcomes: Callable[[WorkerSlot, Sequence[NumberedOutcome], float], None],
        on_lost: Callable[[WorkerSlot, int], None],
        on_change: Callable[[], None],
    ) -> None:
        self.size = size
        self._plugins, self._counts = tuple(plugins), counts
        self._on_outcomes, self._on_lost, self._on_change = on_outcomes, on_lost, on_change
        self.slots: list[WorkerSlot] = []
        self._children: set[Child] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reason = ""
        """Why the last start failed; "" if it did not."""
        self._empty_since = 0.0
        self.closed = False

    def __iter__(self) -> Iterator[WorkerSlot]:
        return iter(self.slots)

    async def open(self) -> None:
        """Start all. Raises SettingsError with the reason if one does not start."""
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
        """End all: kill the busy ones, and let the idle ones exit."""
        self.closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self.slots:
            if slot.given:
                slot.child.kill()
        await asyncio.gather(*map(self._reap, list(self._children)))
        self.slots.clear()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in the background, until `close`."""
        task = start(work, "keeping the pool's processes", means="fewer processes, or none, run checks")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def health(self) -> str:
        """Return "ok", or why there is no process."""
        hopeless = self._reason and not self.slots and time.monotonic() - self._empty_since > GIVE_UP_AFTER
        return f"no process runs checks: {self._reason}" if hopeless else "ok"

    def retire(self, slot: WorkerSlot) -> None:
        """Replace a process: it gets no more calls, and ends once all of its calls are done."""
        if not slot.retiring:
            slot.retiring = True
            self._counts["recycled"] += 1
            self._spawn(self._replace())
        if not slot.given and slot in self.slots:
            self._remove(slot)
            self._spawn(self._reap(slot.child))

    def _remove(self, slot: WorkerSlot) -> None:
        self.slots.remove(slot)
        self._empty_since = time.monotonic()  # counts only if it was the last

    def _ended(self, slot: WorkerSlot) -> None:
        """A process has closed its end of the socket."""
        if slot not in self.slots or self.closed:
            return
        self._remove(slot)
        self._counts["ended"] += 1
        if not slot.retiring:
            self._spawn(self._replace())
        self._spawn(self._report_exit(slot))

    async def _report_exit(self, slot: WorkerSlot) -> None:
        """Reap a process, and report its exit code."""
        self._on_lost(slot, await self._reap(slot.child))

    async def _replace(self) -> None:
        """Start a process, with as many tries as it takes."""
        pause = START_PAUSE
        while True:
            try:
                await self._start()
            except (_UnstartedError, OSError) as exc:
                self._counts["unstarted"] += 1
                self._reason = str(exc)
                logger.warning("a process that runs checks does not start: %s", exc)
                self._on_change()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_START_PAUSE)
            else:
                self._reason = ""
                return

    async def _reap(self, child: Child) -> int:
        child.close()
        code = await child.gone(STOP_TIMEOUT)
        self._children.discard(child)
        return code

    async def _start(self) -> None:
        """Start a process and wait until it is ready. Raises OSError, and _UnstartedError with the reason."""
        child = Child(lambda outcomes, began: self._on_outcomes(slot, outcomes, began), lambda: self._ended(slot))
        slot = WorkerSlot(child)
        child.start()
        self._children.add(child)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                reason = await child.prepare(self._plugins)
        except TimeoutError:
            reason = f"it was not ready within {START_TIMEOUT:g} s"
        if reason or child.closed:
            child.kill()
            await self._reap(child)
            raise _UnstartedError(reason or "its process ended at once")
        self.slots.append(slot)
        self._on_change()


class _UnstartedError(Exception):
    """A process did not start; the message has the reason."""
