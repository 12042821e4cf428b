"""The circuit breaker: a host that fails half of the time is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW = 10.0
"""Seconds that the breaker looks back."""
MIN_REQUESTS = 20
"""Requests in the window below which the breaker stays closed."""
FAILURE_SHARE = 0.5
"""Share of failures in the window at which it opens."""
OPEN_FOR = 5.0
"""Seconds that it stays open before a probe."""


class Breaker:
    """Closed: requests pass and are counted. Open: they are refused. Half-open: one request, the probe, passes and
    decides. A probe that hangs blocks the next for OPEN_FOR at most; then the first of them to end decides.

    Each request that passes gets a ticket. A ticket from before the last change of state decides nothing: a straggler
    must not take the place of the probe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window = clock()
        self._counts = [0, 0, 0, 0]  # succeeded and failed in this half of the window, and in the half before
        self._opened: float | None = None
        self._probing: float | None = None  # since when
        self.ticket = 0

    @property
    def state(self) -> str:
        """Return `closed`, `open` or `half-open`."""
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < OPEN_FOR else "half-open"

    @property
    def is_closed(self) -> bool:
        """Whether requests pass and are counted."""
        return self._opened is None

    @property
    def failed(self) -> int:
        """Return the failures in the window."""
        return self._counts[1] + self._counts[3]

    def would_admit(self) -> bool:
        """Whether a request may pass now."""
        if self._opened is None:
            return True
        since = self._opened if self._probing is None else self._probing
        return self._clock() - since >= OPEN_FOR

    def admit(self) -> int | None:
        """Return a ticket if a request may pass now. Its holder must call `record` or `withdraw` later."""
        if not self.would_admit():
            return None
        if self._opened is not None:
            if self._probing is None:
                self.ticket += 1
            self._probing = self._clock()
        return self.ticket

    def record(self, ticket: int, *, ok: bool) -> None:
        """Count how a request ended."""
        if ticket != self.ticket:
            return
        if self._opened is not None:
            self._probing = None
            self._change(None if ok else self._clock())
            return
        self._turn_window(self._clock())
        self._counts[0 if ok else 1] += 1
        failed, total = self.failed, sum(self._counts)
        if total >= MIN_REQUESTS and failed >= FAILURE_SHARE * total:
            self._change(self._clock())

    def withdraw(self, ticket: int) -> None:
        """Withdraw a request that ended early: it says nothing about the host."""
        if ticket == self.ticket:
            self._probing = None

    def opens_in(self) -> float:
        """Return the seconds until the next probe."""
        return 0.0 if self._opened is None else max(0.0, self._opened + OPEN_FOR - self._clock())

    def _change(self, opened: float | None) -> None:
        self._opened = opened
        self._counts = [0, 0, 0, 0]
        self.ticket += 1

    def _turn_window(self, now: float) -> None:
        while now - self._window >= WINDOW / 2:
            idle = now - self._window >= WINDOW
            self._counts = [0, 0, 0, 0] if idle else [0, 0, *self._counts[:2]]
            self._window = now if idle else self._window + WINDOW / 2
