"""Single-flight: of all who ask for the same at the same time, one fetches and the others wait for what it brings."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_PARTED = 4_096
"""Keys that are remembered of answers which nobody else may have."""


class Flight(Generic[T]):
    """One fetch, and who waits for it. `began`: how many changes of upstreams were known when it did."""

    __slots__ = ("began", "waiting")

    def __init__(self, began: int) -> None:
        self.began = began
        self.waiting: list[asyncio.Future[T | None]] = []


class SingleFlight(Generic[T]):
    """What is being fetched now, by key. A leader costs a dict entry; only those who wait cost a future."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[T]] = {}
        self._parted: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def begin(self, key: Hashable, changes: int = 0, changed: int = 0) -> Flight[T] | None:
        """Begin a flight; None if there is one, which `join` then waits for.

        `changes` are those known so far, of which `changed` was the last one to this key. A flight that began before
        that goes on for those who wait already.
        """
        flight = self._flights.get(key)
        if flight is not None and flight.began >= changed:
            return None
        flight = self._flights[key] = Flight(changes)
        return flight

    async def wait(self, key: Hashable) -> T | None:
        """Wait for the flight under way; None if it ended without an answer, and whoever still wants one may lead."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._flights[key].waiting.append(future)
        return await future

    def finish(self, key: Hashable, flight: Flight[T], answer: T | None) -> None:
        """End a flight. None says that the leader gave up on its own account, not that there is no answer."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        for future in flight.waiting:
            if not future.done():
                future.set_result(answer)

    def part(self, key: Hashable, until: float) -> None:
        """Have nobody wait for another's answer `until` (epoch seconds) or, if that is past, from now on again."""
        if not until:
            self._parted.pop(key, None)
            return
        if len(self._parted) >= MAX_PARTED:
            self._parted.clear()
        self._parted[key] = until

    def parted(self, key: Hashable, now: float) -> bool:
        """Whether who asks for this waits for nobody at `now` (epoch seconds)."""
        return bool(self._parted) and now < self._parted.get(key, 0.0)
