"""Single-flight: of all requests for the same at the same time, one fetches and the others wait for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_PARTED = 4_096
"""Keys that are remembered of answers that must not be shared."""


class Flight(Generic[T]):
    """One fetch, and the requests that wait for it. `began`: the number of known changes when it began."""

    __slots__ = ("began", "waiting")

    def __init__(self, began: int) -> None:
        self.began = began
        self.waiting: list[asyncio.Future[T | None]] = []


class SingleFlight(Generic[T]):
    """The fetches in progress, by key. A leader costs a dict entry; only a waiting request costs a future."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[T]] = {}
        self._parted: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def begin(self, key: Hashable, changes: int = 0, changed: int = 0) -> Flight[T] | None:
        """Begin a flight; None if there is one, for which `wait` waits.

        `changes` is the number of known changes, `changed` that of the last one to this key. A flight that began before
        it continues for those that wait already.
        """
        flight = self._flights.get(key)
        if flight is not None and flight.began >= changed:
            return None
        flight = self._flights[key] = Flight(changes)
        return flight

    async def wait(self, key: Hashable) -> T | None:
        """Wait for the flight in progress; None if it ended without an answer: then try `begin` again."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._flights[key].waiting.append(future)
        return await future

    def finish(self, key: Hashable, flight: Flight[T], answer: T | None) -> None:
        """End a flight. None means that the leader gave up for its own reasons, not that there is no answer."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        for future in flight.waiting:
            if not future.done():
                future.set_result(answer)

    def part(self, key: Hashable, until: float) -> None:
        """Let nobody wait for this key `until` (epoch seconds); 0 lifts that."""
        if not until:
            self._parted.pop(key, None)
            return
        if len(self._parted) >= MAX_PARTED:
            self._parted.clear()
        self._parted[key] = until

    def parted(self, key: Hashable, now: float) -> bool:
        """Whether requests for this key do not wait for one another at `now` (epoch seconds)."""
        return bool(self._parted) and now < self._parted.get(key, 0.0)
