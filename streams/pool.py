"""The process pool that runs checks. What is asked for in one turn of the event loop travels together: one
submission per batch of checks. A child that dies or runs too long takes only its batch with it, whose checks are
then tried one by one, so that the guilty one fails alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import multiprocessing
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, Self

from pebble import ProcessExpired, ProcessPool

from models import checks
from models.checks import Verdict
from models.errors import SettingsError
from streams.settings import CHECK_TIMEOUT

logger = logging.getLogger(__name__)

BATCH = 64
"""Checks that travel together at most."""
RECYCLE_AFTER = 1_000
"""Batches after which a child is replaced, so that what checks leak does not add up."""
MAX_BREAKS = 3
"""Times in a row that a new pool is tried when one breaks, before checks fail."""
STOP_TIMEOUT = 5.0
"""Seconds that the children may take to end."""


class _Job(NamedTuple):
    call: tuple[str, Any, Mapping[str, Any]]
    done: asyncio.Future[Verdict]


class CheckPool:
    """Opened with `async with`. Children are spawned, never forked: this process has threads."""

    def __init__(self, processes: int, plugins: Sequence[str] = ()) -> None:
        self._processes = processes
        self._plugins = tuple(plugins)
        self._free = processes
        self._waiting: deque[_Job] = deque()
        self._suspects: deque[_Job] = deque()
        self._pumping = False
        self._breaks = 0
        self._broken: list[ProcessPool] = []
        self._pool = self._new_pool()
        self.submissions = 0
        self.failures = 0

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._processes,
            max_tasks=RECYCLE_AFTER,
            initializer=checks.prepare_child,
            initargs=(self._plugins,),
            context=multiprocessing.get_context("spawn"),
        )

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        # Children start with the first task: have them up before the first request waits for one.
        try:
            await asyncio.wrap_future(self._pool.schedule(checks.run_batch, args=([],)))
        except BrokenProcessPool as exc:
            await self.__aexit__()
            msg = "the processes that run checks do not start: does every plugin import in a process of its own?"
            raise SettingsError(msg) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        for job in (*self._waiting, *self._suspects):
            job.done.cancel()
        # Stopping and joining wait for processes and threads: not on the event loop.
        await asyncio.to_thread(self._end, [self._pool, *self._broken])

    @staticmethod
    def _end(pools: Sequence[ProcessPool]) -> None:
        for pool in pools:
            pool.stop()
            pool.join(STOP_TIMEOUT)

    @property
    def queued(self) -> int:
        """Return how many checks wait for a child."""
        return len(self._waiting) + len(self._suspects)

    def submit(self, name: str, value: Any, args: Mapping[str, Any]) -> asyncio.Future[Verdict]:
        """Ask for one check; the future always ends with a verdict."""
        job = _Job((name, value, args), self._loop.create_future())
        self._waiting.append(job)
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)
        return job.done

    def _pump(self) -> None:
        self._pumping = False
        for queue in (self._waiting, self._suspects):
            if any(job.done.done() for job in queue):  # their requests ran out of time
                left = [job for job in queue if not job.done.done()]
                queue.clear()
                queue.extend(left)
        while self._suspects and self._free:
            self._submit([self._suspects.popleft()])
        while self._waiting and self._free:
            share = -(-len(self._waiting) // self._free)
            self._submit([self._waiting.popleft() for _ in range(min(BATCH, share))])

    def _submit(self, jobs: list[_Job]) -> None:
        self._free -= 1
        self.submissions += 1
        if not self._pool.active:
            # A child that is killed between two batches breaks the whole of Pebble's pool.
            self._broken.append(self._pool)
            self._pool = self._new_pool()
        calls = [job.call for job in jobs]
        future = self._pool.schedule(checks.run_batch, args=(calls,), timeout=CHECK_TIMEOUT)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._settle, jobs, done))

    def _settle(self, jobs: list[_Job], done: concurrent.futures.Future[list[Verdict]]) -> None:
        self._free += 1
        try:
            verdicts = done.result()
        except (Exception, asyncio.CancelledError, concurrent.futures.CancelledError) as exc:  # noqa: BLE001
            self._blame(jobs, exc)
        else:
            self._breaks = 0
            for job, verdict in zip(jobs, verdicts, strict=True):
                if not job.done.done():
                    job.done.set_result(verdict)
        self._pump()

    def _blame(self, jobs: list[_Job], exc: BaseException) -> None:
        if isinstance(exc, BrokenProcessPool) and self._breaks < MAX_BREAKS:
            self._breaks += 1
            self._suspects.extend(jobs)  # no check of theirs was running when the pool broke
            return
        if len(jobs) > 1:
            self._suspects.extend(jobs)
            return
        self.failures += 1
        reason = _reason(exc)
        logger.warning("check %s failed: %s", jobs[0].call[0], reason)
        if not jobs[0].done.done():
            jobs[0].done.set_result(Verdict(error=reason))


def _reason(exc: BaseException) -> str:
    match exc:
        case TimeoutError() | concurrent.futures.TimeoutError():
            return f"ran longer than {CHECK_TIMEOUT:g} s"
        case ProcessExpired():
            return f"its process ended with code {exc.exitcode}"
        case concurrent.futures.CancelledError() | asyncio.CancelledError():
            return "the worker is stopping"
    return f"{type(exc).__name__}: {exc}"[:400]
