"""Collects the keys that are looked for in one turn of the event loop, so that a lower tier gets them in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from streams.cache.entry import Entry
from streams.tasks import end_tasks, start

MAX_LOOKUPS = 32
"""Keys that are looked for at once: of a backlog's thousands, most wait here rather than in a tier, which would seem
slow otherwise."""
TURN = 0.005
"""Seconds of work after which other tasks get their turn."""

Found: TypeAlias = Callable[[Entry | None], None]
Later: TypeAlias = partial[Coroutine[Any, Any, Entry | None]]
"""Finds an entry that others do not have to wait for."""


class LookupQueue:
    """Looks for keys with `look_up`, which returns what it found by key, or what finds it, and does not raise."""

    def __init__(self, look_up: Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, Entry | Later]]]) -> None:
        self._look_up = look_up
        self._waiting: dict[bytes, list[Found]] = {}
        self._in_flight = 0
        self._flushing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: bytes, found: Found) -> None:
        """Look for a key, and call `found` with its entry. Those who look for the same at the same time share it."""
        self._waiting.setdefault(key, []).append(found)
        self._flush_soon()

    async def find(self, key: bytes) -> Entry | None:
        """Return the entry of a key."""
        future: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
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

    async def _run(self, batch: dict[bytes, list[Found]]) -> None:
        later: list[tuple[list[Found], Later]] = []
        entries: dict[bytes, Entry] = {}
        try:
            for key, entry in (await self._look_up(list(batch))).items():
                if isinstance(entry, partial):
                    later.append((batch.pop(key), entry))
                else:
                    entries[key] = entry
        finally:
            self._free(len(batch))
        end = time.monotonic() + TURN
        for key, calls in batch.items():
            for found in calls:
                found(entries.get(key))
                if time.monotonic() >= end:
                    await asyncio.sleep(0)
                    end = time.monotonic() + TURN
        if later:
            await asyncio.gather(*(self._find_later(calls, find) for calls, find in later))

    async def _find_later(self, calls: list[Found], find: Later) -> None:
        try:
            entry = await find()
        finally:
            self._free(1)
        for found in calls:
            found(entry)

    def _free(self, count: int) -> None:
        self._in_flight -= count
        self._flush_soon()
