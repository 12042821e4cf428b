"""A token bucket: so many requests a second, in their order, whatever the event loop is late by."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LATE = 0.15
"""Seconds by which a timer may be late without loss: what was earned meanwhile is granted at once."""
RECHECK = 0.05
"""Seconds after which a request looks again at a rate that may change while it waits."""
_WHOLE = 1 - 1e-9
"""A token, but for the error of floating point."""

Waiter = asyncio.Future[bool]


class TokenBucket:
    """`rate` tokens a second, of which at most `burst` are saved up while nobody waits.

    In any span of seconds it grants at most `burst + rate * (seconds + LATE)`. The first that waits sleeps for all: it
    grants every token earned by then, and the next goes on. A rate that is `shared` changes (`share`), down to 0;
    `expected` is what is to be counted on.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self.limit = self.rate = self.expected = rate
        self.shared = False
        self._most = burst
        self._burst = float(burst)
        self._clock = clock
        self._level = self._burst
        self._filled_at = clock()
        self._waiting: deque[Waiter] = deque()
        self._granted_at = float("-inf")
        self.taken = 0

    @property
    def waiting(self) -> int:
        """Return how many wait for a token."""
        return len(self._waiting)

    def share(self, rate: float, expected: float) -> None:
        """Grant this share of the limit from now on, and count on `expected` at least."""
        was_withheld = self._is_withheld
        self.shared, self.expected = True, max(rate, expected)
        if rate != self.rate:
            late = LATE if self._waiting else 0.0
            self._fill(self._burst + self.rate * late)
            self.rate, self._burst = rate, max(1.0, self._most * rate / self.limit)
            self._level = min(self._level, self._burst + rate * late if rate else 0.0)
        if was_withheld and not self._is_withheld:
            self._granted_at = self._clock()

    @property
    def _is_withheld(self) -> bool:
        """Whether its share is still with others: nothing, or far less than what can be counted on, and wanted."""
        return not self.rate or (self.rate < self.expected / 2 and bool(self._waiting))

    def granted_at(self) -> float:
        """Return the latest moment at which its share was with others: now, or when it came; -inf if never."""
        return self._clock() if self._is_withheld else self._granted_at

    def wait(self) -> float:
        """Return the seconds until one who comes now has a token."""
        level = min(self._burst, self._level + (self._clock() - self._filled_at) * self.rate)
        return (max(0.0, 1 - level) + len(self._waiting)) / self.expected

    async def take(self) -> None:
        """Wait for a token."""
        if not self._waiting:
            self._fill(self._burst)
            if self._level >= _WHOLE:
                self._spend()
                return
        turn: Waiter = asyncio.get_running_loop().create_future()
        leads = not self._waiting
        self._waiting.append(turn)
        try:
            leads = leads or not await turn
            while leads and turn in self._waiting:
                await asyncio.sleep(self._sleep())
                self._grant()
        except BaseException:
            granted = turn.done() and not turn.cancelled() and turn.result()
            leads = leads or (turn.done() and not turn.cancelled() and not granted)
            if granted:
                self._level += 1  # it has gone without it
                self.taken -= 1
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        finally:
            if leads:
                self._hand_over()

    def _hand_over(self) -> None:
        """Let the first that still waits sleep for the others."""
        while self._waiting and self._waiting[0].cancelled():
            self._waiting.popleft()
        if self._waiting and not self._waiting[0].done():
            self._waiting[0].set_result(False)

    def _sleep(self) -> float:
        wait = RECHECK
        if self.rate:
            wait = (1 - self._level) / self.rate - (self._clock() - self._filled_at)
        return max(0.0, min(wait, RECHECK) if self.shared else wait)

    def _grant(self) -> None:
        self._fill(self._burst + self.rate * LATE)
        while self._waiting and self._level >= _WHOLE:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._spend()
                if not turn.done():
                    turn.set_result(True)

    def _spend(self) -> None:
        self._level -= 1
        self.taken += 1

    def _fill(self, most: float) -> None:
        now = self._clock()
        self._level = min(most, self._level + (now - self._filled_at) * self.rate)
        self._filled_at = now
