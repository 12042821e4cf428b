"""Collects the keys that are looked for in one turn of the event loop, so that a lower tier gets them in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

from streams.tasks import end_tasks, start

MAX_LOOKUPS = 32
"""Keys that are looked for at once: of a backlog's thousands, most wait here rather than in a tier, which would seem
slow otherwise."""
TURN = 0.005
"""Seconds of work after which other tasks get their turn."""

T = TypeVar("T")
Found: TypeAlias = Callable[[T | None], None]


class LookupQueue(Generic[T]):
    """Looks for keys with `look_up`, which returns what it found by key and does not raise."""

    def __init__(self, look_up: Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, T]]]) -> None:
        self._look_up = look_up
        self._waiting: dict[bytes, list[Found[T]]] = {}
        self._in_flight = 0
        self._flushing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: bytes, found: Found[T]) -> None:
        """Look for a key, and call `found` with its entry. Those who look for the same at the same time share it."""
        self._waiting.setdefault(key, []).append(found)
        self._flush_soon()

    async def find(self, key: bytes) -> T | None:
        """Return the entry of a key."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self.add(key, lambda entry: None if future.done() else future.set_result(entry))
        return await future

    async def close(self) -> None:
        """End the lookups; what they were for is not called."""
        self._waiting.clear()
        await end_tasks(*self._tasks)

    def _flush_soon(self) -> None:
        if not self._flushing and self._waiting and self._in_flight < MAX_LOOKUPS:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        count = min(len(self._waiting), MAX_LOOKUPS - self._in_flight)
        if count <= 0:
            return
        if count == len(self._waiting):
            batch, self._waiting = self._waiting, {}
        else:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:count]}
        self._in_flight += count
        task = start(self._run(batch), "looking into lower tiers", means="requests are not answered")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: dict[bytes, list[Found[T]]]) -> None:
        try:
            entries = await self._look_up(list(batch))
        finally:
            self._in_flight -= len(batch)
            self._flush_soon()
        end = time.monotonic() + TURN
        for key, calls in batch.items():
            entry = entries.get(key)
            for found in calls:
                found(entry)
                if time.monotonic() >= end:
                    await asyncio.sleep(0)
                    end = time.monotonic() + TURN
