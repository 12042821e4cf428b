"""How much work on checks may be begun: when checks are slower than fetches, requests with checks wait before they are
begun, not in a queue in which they run out of time.
"""

from __future__ import annotations

from collections.abc import Iterable

from streams.pool.costs import Costs

ADMITTED = 5.0
"""Seconds of work for each process that requests may have begun: well inside a request's usual deadline of 30."""


class Admission:
    """Work promised to the pool, in seconds."""

    def __init__(self, costs: Costs, processes: int) -> None:
        self._costs = costs
        self._most = ADMITTED * processes
        self.promised = 0.0
        self._holders = 0

    def admit(self, names: Iterable[str]) -> float | None:
        """Return the seconds promised, for `release`, if these checks may be begun: always if none are."""
        seconds = sum(map(self._costs.expected, names))
        if self._holders and self.promised + seconds > self._most:
            return None
        self._holders += 1
        self.promised += seconds
        return seconds

    def release(self, seconds: float) -> None:
        """Give back what `admit` promised."""
        self._holders -= 1
        self.promised = self.promised - seconds if self._holders else 0.0
