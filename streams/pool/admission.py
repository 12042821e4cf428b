"""How much work on checks may be begun: when checks are slower than fetches, it is the consumer that has to wait,
not requests that were begun and run out of time in a queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from streams.pool.costs import Costs

ADMITTED = 5.0
"""Seconds of work for each process that requests may have begun: well inside a request's usual deadline of 30."""


class Admission:
    """Work promised to the pool, in seconds; who asks while there is too much waits, first come, first served."""

    def __init__(self, costs: Costs, processes: int) -> None:
        self._costs = costs
        self._most = ADMITTED * processes
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self.promised = 0.0
        self._holders = 0

    async def admit(self, names: Iterable[str]) -> float:
        """Wait until these checks may be begun; returns the seconds promised, for `release`."""
        seconds = sum(map(self._costs.expected, names))
        if not self._waiting and self._fits(seconds):
            self._promise(seconds)
            return seconds
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((seconds, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release(seconds)
            raise
        return seconds

    def release(self, seconds: float) -> None:
        """Give back what `admit` promised."""
        self._holders -= 1
        self.promised = self.promised - seconds if self._holders else 0.0
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            wanted, place = self._waiting.popleft()
            if not place.done():
                self._promise(wanted)
                place.set_result(None)

    def _fits(self, seconds: float) -> bool:
        """Whether there is room: always for one request, however much it asks for."""
        return self.promised + seconds <= self._most or not self._holders

    def _promise(self, seconds: float) -> None:
        self._holders += 1
        self.promised += seconds
