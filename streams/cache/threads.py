"""Disk work off the event loop: every call has a deadline, and a hanging call blocks no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

CLOSE_DEADLINE = 1.0
"""Seconds that closing waits for calls in progress."""


class Refused(Exception):
    """Not tried: the threads are not open, all of them hang, or too much waits for them."""


class Threads:
    """A few threads for one kind of work: at most `limit` calls at once, of at most `weight` bytes together.

    A call that is alone may have more bytes.
    """

    def __init__(self, threads: int, limit: int, weight: int = 0) -> None:
        self._threads, self._limit, self._most = threads, limit, weight
        self._calls: dict[asyncio.Future[Any], int] = {}
        self._hanging: set[asyncio.Future[Any]] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._weight = 0

    def open(self) -> None:
        """Accept calls from now on; a thread starts when it is first needed."""
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="cache")
        self._loop = asyncio.get_running_loop()
        self._calls, self._hanging, self._weight = {}, set(), 0

    async def close(self) -> None:
        """Wait CLOSE_DEADLINE seconds for calls in progress; calls that still wait then are refused."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if waited := [future for future in self._calls if not future.done()]:
            await asyncio.wait(waited, timeout=CLOSE_DEADLINE)
        executor.shutdown(wait=False, cancel_futures=True)
        for future in self._calls:
            if not future.done():
                future.set_exception(Refused())

    async def run(self, call: Callable[[], T], deadline: float | None, weight: int = 0) -> T:
        """Call in a thread. Raises Refused, TimeoutError after `deadline` seconds, and what the call raises."""
        heavy = self._weight > 0 and self._weight + weight > self._most
        if self._executor is None or heavy or len(self._calls) >= self._limit or len(self._hanging) >= self._threads:
            raise Refused
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls[future] = weight
        self._weight += weight
        work = self._executor.submit(self._work, future, call)
        try:
            async with asyncio.timeout(deadline):
                return await future
        finally:
            if work.running() and future in self._calls:
                self._hanging.add(future)

    def _work(self, future: asyncio.Future[T], call: Callable[[], T]) -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            if not future.done():  # else the caller has given up
                result = call()
        except Exception as exc:  # noqa: BLE001  `run` raises it
            error = exc
        self._loop.call_soon_threadsafe(self._settle, future, result, error)

    def _settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._weight -= self._calls.pop(future, 0)
        self._hanging.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
