"""What one upstream host may cost, and what it may suffer: requests in flight, pauses it asked for, and a circuit
breaker. A host that is slow or dead keeps its own requests waiting or refused, and nobody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from models.errors import Overloaded

MAX_PER_HOST = 32
"""Requests in flight to one host."""
WINDOW = 10.0
"""Seconds that the breaker looks back."""
MIN_REQUESTS = 20
"""Requests in the window below which the breaker does not judge."""
FAILURE_SHARE = 0.5
"""Share of failures in the window at which it opens."""
OPEN_FOR = 5.0
"""Seconds that it stays open before one request may try."""
MAX_HOSTS = 10_000
"""Hosts remembered; idle ones beyond are forgotten, the least recently used first."""

Clock = Callable[[], float]


class Breaker:
    """Closed: requests pass and are counted. Open: they are refused. Half-open: one passes and decides."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._window = clock()
        self._counts = [0, 0, 0, 0]  # succeeded and failed in this half of the window, and in the half before
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """Return `closed`, `open` or `half-open`."""
        if self._opened is None:
            return "closed"
        return "open" if self._clock() - self._opened < OPEN_FOR else "half-open"

    def admits(self) -> bool:
        """Whether a request may pass now. Who asks and may, must tell `record` or `withdraw` later."""
        if self._opened is None:
            return True
        if self._probing or self._clock() - self._opened < OPEN_FOR:
            return False
        self._probing = True
        return True

    def record(self, *, ok: bool) -> None:
        """Count how a request ended."""
        now = self._clock()
        if self._opened is not None:
            if self._probing:
                self._probing = False
                self._opened = None if ok else now
                self._counts = [0, 0, 0, 0]
            return
        while now - self._window >= WINDOW / 2:
            idle = now - self._window >= WINDOW
            self._counts = [0, 0, 0, 0] if idle else [0, 0, *self._counts[:2]]
            self._window = now if idle else self._window + WINDOW / 2
        self._counts[0 if ok else 1] += 1
        failed, total = self._counts[1] + self._counts[3], sum(self._counts)
        if total >= MIN_REQUESTS and failed >= FAILURE_SHARE * total:
            self._opened = now

    def withdraw(self) -> None:
        """Take a request back that did not get to an end: it says nothing about the host."""
        self._probing = False

    def opens_in(self) -> float:
        """Return the seconds until a request may try again."""
        return 0.0 if self._opened is None else max(0.0, self._opened + OPEN_FOR - self._clock())


class Host:
    """One upstream: `enter` before a request, `leave` after it."""

    def __init__(self, name: str, limit: int = MAX_PER_HOST, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.breaker = Breaker(clock)
        self._clock = clock
        self._slots = asyncio.Semaphore(limit)
        self._held_until = 0.0
        self.users = 0

    def hold(self, seconds: float) -> None:
        """Send nothing more for so long: the host asked for it (Retry-After)."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def enter(self, deadline: float | None) -> None:
        """Wait for a place. Raises Overloaded while the breaker is open, or if the host asked for more time than
        there is until the deadline (monotonic seconds).
        """
        self.users += 1
        try:
            await self._slots.acquire()
            while self._held_until > self._clock():  # also one that began while this request waited for its place
                self._slots.release()
                await self._wait_out_the_hold(deadline)
                await self._slots.acquire()
        except BaseException:
            self.users -= 1
            raise
        if not self.breaker.admits():
            self.users -= 1
            self._slots.release()
            msg = f"{self.name} fails too often: nothing is sent to it for {self.breaker.opens_in():.1f} s"
            raise Overloaded(msg)

    def leave(self, *, ok: bool | None) -> None:
        """Give the place back; `ok` says how the host did, None that it was not to blame either way."""
        self.users -= 1
        self._slots.release()
        if ok is None:
            self.breaker.withdraw()
        else:
            self.breaker.record(ok=ok)

    async def _wait_out_the_hold(self, deadline: float | None) -> None:
        while (wait := self._held_until - self._clock()) > 0:
            if deadline is not None and self._held_until >= deadline:
                msg = f"{self.name} asked for a pause of {wait:.0f} s more, which is past the request's deadline"
                refused = Overloaded(msg)
                refused.hurried = True
                raise refused
            await asyncio.sleep(wait)


class Hosts:
    """Every host met, bounded."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def of(self, authority: str) -> Host:
        """Return the host of an authority such as `example.com:8080`."""
        host = self._hosts.get(authority)
        if host is None:
            self._forget_idle()
            host = self._hosts[authority] = Host(authority)
        else:
            self._hosts.move_to_end(authority)
        return host

    def _forget_idle(self) -> None:
        if len(self._hosts) >= MAX_HOSTS:
            idle = next((name for name, host in self._hosts.items() if not host.users), None)
            if idle is not None:
                del self._hosts[idle]
