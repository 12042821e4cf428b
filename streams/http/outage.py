"""Logs hosts and sources that fail: one line at the start of an outage, one at its end, with counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

IN_A_ROW = 4
"""Failures in a row that make an outage: as many as a request has attempts."""
QUIET = 60.0
"""Seconds between the first lines of two outages of one host, which may come and go all the time."""
MAX_LINES = 20
"""First lines within QUIET seconds, for all hosts: without a network all of them fail."""


class Ledger:
    """Counts the outages logged lately, of all hosts."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._lines = 0

    def takes(self, now: float) -> bool:
        """Count a line at `now` (monotonic seconds); returns whether it may be written."""
        if now - self._began >= QUIET:
            if self._lines > MAX_LINES:
                logger.warning("%d more hosts fail and are not listed: check the worker's network",
                               self._lines - MAX_LINES)  # fmt: skip
            self._began, self._lines = now, 0
        self._lines += 1
        return self._lines <= MAX_LINES


_LEDGER = Ledger()


class Outage:
    """The outages of one host: failures in a row, or an open breaker, until a request succeeds."""

    __slots__ = ("_clock", "_failed", "_ledger", "_logged_at", "_name", "_refused", "_since", "is_logged")

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic, ledger: Ledger = _LEDGER) -> None:
        self._name = name
        self._clock = clock
        self._ledger = ledger
        self._failed = self._refused = 0
        self._since = 0.0
        self._logged_at = float("-inf")
        self.is_logged = False

    def record(self, *, ok: bool, result: str) -> None:
        """Count a request; `result` is for the log."""
        if ok:
            if self._failed:
                self._end()
            return
        now = self._clock()
        if not self._failed:
            self._since = now
        self._failed += 1
        if self._failed < IN_A_ROW or self.is_logged or now - self._logged_at < QUIET:
            return
        self._logged_at, self.is_logged = now, self._ledger.takes(now)
        if self.is_logged:
            logger.warning("%s fails: %d requests in a row within %.1f s, the last with %s; they are retried",
                           self._name, self._failed, now - self._since, result)  # fmt: skip

    def stop(self, seconds: float, failed: int) -> None:
        """Note that the breaker has opened, after so many failures; it sends one request every so many seconds."""
        logger.warning("%s fails too often: its requests are refused, but for one every %g s until it is back",
                       self._name, seconds)  # fmt: skip
        self.is_logged, self._failed = True, max(self._failed, failed)

    def refuse(self) -> None:
        """Count a request that was not sent because of the outage."""
        self._refused += 1

    def _end(self) -> None:
        if self.is_logged:
            logger.warning("%s is back after %.0f s: %d requests failed, %d more were not sent", self._name,
                           self._clock() - self._since, self._failed, self._refused)  # fmt: skip
        self._failed = self._refused = 0
        self.is_logged = False
