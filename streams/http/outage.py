"""The log of hosts that fail: one line when one begins to, and one when it is back, with counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

IN_A_ROW = 4
"""Failures without a success between that make an outage: as many as one request is tried."""
QUIET = 60.0
"""Seconds between the first lines of two outages of one host: it may come and go all the time."""
MAX_LINES = 20
"""First lines within QUIET seconds, of all hosts: when the network is gone, all hosts are."""


class Ledger:
    """How many outages were told of lately, over all hosts."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._lines = 0

    def takes(self, now: float) -> bool:
        """Whether another line may be written at `now` (monotonic seconds), which is counted then."""
        if now - self._began >= QUIET:
            if self._lines > MAX_LINES:
                logger.warning("%d more hosts have failed that are not named here", self._lines - MAX_LINES)
            self._began, self._lines = now, 0
        self._lines += 1
        return self._lines <= MAX_LINES


_LEDGER = Ledger()


class Outage:
    """One host's: `record` how each request ended."""

    __slots__ = ("_clock", "_failed", "_ledger", "_name", "_refused", "_since", "_told_at", "is_told")

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic, ledger: Ledger = _LEDGER) -> None:
        self._name = name
        self._clock = clock
        self._ledger = ledger
        self._failed = self._refused = 0
        self._since = 0.0
        self._told_at = float("-inf")
        self.is_told = False

    def record(self, *, ok: bool, said: str) -> None:
        """Count an end; `said` is how it ended."""
        if ok:
            if self._failed:
                self._end()
            return
        now = self._clock()
        if not self._failed:
            self._since = now
        self._failed += 1
        if self._failed < IN_A_ROW or self.is_told or now - self._told_at < QUIET:
            return
        self._told_at, self.is_told = now, self._ledger.takes(now)
        if self.is_told:
            logger.warning("%s fails: %d requests in a row within %.1f s, the last with %s",
                           self._name, self._failed, now - self._since, said)  # fmt: skip

    def refuse(self) -> None:
        """Count a request that was not sent because of it."""
        self._refused += 1

    def _end(self) -> None:
        if self.is_told:
            logger.warning("%s is back after %.0f s: %d requests failed, %d more were not sent", self._name,
                           self._clock() - self._since, self._failed, self._refused)  # fmt: skip
        self._failed = self._refused = 0
        self.is_told = False
