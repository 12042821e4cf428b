"""What one upstream host may cost, and what it may suffer: requests in flight and a second, pauses it asked for, and
a circuit breaker. A host that is slow or dead keeps its own requests waiting or refused, and nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping

from models.errors import Overloaded
from models.source import Limits
from streams.http.breaker import OPEN_FOR, Breaker

logger = logging.getLogger(__name__)

MAX_HOSTS = 10_000
"""Hosts remembered; idle ones beyond are forgotten, the least recently used first."""

Clock = Callable[[], float]


class Gate:
    """Requests in flight, and a token bucket: `rate` tokens a second, at most `burst` of them saved up."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._turn = asyncio.Lock()
        self._queued = 0
        self._full_at = 0.0  # when the bucket is full again
        self.in_flight = 0

    def enter(self) -> Awaitable[object]:
        """Return what to await for a place; `in_flight` is the caller's to count, and `leave` counts it down.

        No coroutine of its own: thousands may wait here, and the collector walks their frames.
        """
        return self._slots.acquire()

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        self._slots.release()

    async def token(self, name: str, rate: float, deadline: float | None) -> None:
        """Wait for a token. Raises Overloaded if there is none before the deadline."""
        if deadline is not None and self._clock() + self._wait(rate) + self._queued / rate >= deadline:
            msg = f"{name} is asked {rate:g} times a second at most: its turn would come after the request's deadline"
            refused = Overloaded(msg)
            refused.hurried = True
            raise refused
        self._queued += 1
        try:
            async with self._turn:  # one after the other: who gives up while waiting has taken no token
                if waited := self._wait(rate):
                    await asyncio.sleep(waited)
                self._full_at = max(self._full_at, self._clock()) + 1 / rate
        finally:
            self._queued -= 1

    def _wait(self, rate: float) -> float:
        return max(0.0, self._full_at - self._clock() - (self.limits.burst - 1) / rate)


class Host:
    """One upstream: `enter` before a request, `leave` after it."""

    def __init__(self, name: str, limits: Limits | None = None, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.breaker = Breaker(clock)
        self.gate = Gate(limits or Limits(), clock)
        self._clock = clock
        self._held_until = 0.0
        self.users = 0

    @property
    def held(self) -> float:
        """Return the seconds for which nothing more is sent, because the host asked for it."""
        return max(0.0, self._held_until - self._clock())

    def hold(self, seconds: float) -> None:
        """Send nothing more for so long: the host asked for it (Retry-After)."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def enter(self, deadline: float | None, gate: Gate | None = None) -> int:
        """Wait for a place behind the host's gate or another; returns the ticket to `leave` with.

        Raises Overloaded while the breaker is open, or if host or gate would have it wait past the deadline
        (monotonic seconds).
        """
        gate = gate or self.gate
        rate = gate.limits.rate
        placed = has_token = False
        self.users += 1
        try:
            while True:
                if not placed:
                    await gate.enter()
                    gate.in_flight += 1
                    placed = True
                if self._held_until and self.held:  # also a pause that began while this request waited
                    gate.leave()
                    placed = False
                    await self._wait_out_the_hold(deadline)
                    continue
                if rate is not None and not has_token:
                    if not self.breaker.would_admit():
                        raise self._refusal()  # noqa: TRY301  the place is given back below
                    await gate.token(self.name, rate, deadline)
                    has_token = True
                    continue
                ticket = self.breaker.admit()
                if ticket is None:
                    raise self._refusal()  # noqa: TRY301  the place is given back below
                return ticket
        except BaseException:
            self.users -= 1
            if placed:
                gate.leave()
            raise

    def refusal(self) -> Overloaded | None:
        """Return why nothing is sent to it now, None if something may be."""
        return None if self.breaker.would_admit() else self._refusal()

    def _refusal(self) -> Overloaded:
        return Overloaded(f"{self.name} fails too often: nothing is sent to it for {self.breaker.opens_in():.1f} s")

    def leave(self, ticket: int, *, ok: bool | None, gate: Gate | None = None) -> None:
        """Give the place back; `ok` says how the host did, None that it was not to blame either way."""
        self.users -= 1
        (gate or self.gate).leave()
        if ok is None:
            self.breaker.withdraw(ticket)
            return
        was_closed = self.breaker.is_closed
        self.breaker.record(ticket, ok=ok)
        if was_closed and not self.breaker.is_closed:
            logger.warning("%s fails too often: one request every %g s until it is back", self.name, OPEN_FOR)
        elif not was_closed and self.breaker.is_closed:
            logger.info("%s is back", self.name)

    async def _wait_out_the_hold(self, deadline: float | None) -> None:
        while wait := self.held:
            if deadline is not None and self._held_until >= deadline:
                msg = f"{self.name} asked for a pause of {wait:.0f} s more, which is past the request's deadline"
                refused = Overloaded(msg)
                refused.hurried = True
                raise refused
            await asyncio.sleep(wait)


class Hosts:
    """Every host met, bounded. `limits` are those of hosts that have their own, by authority."""

    def __init__(self, limits: Mapping[str, Limits] | None = None) -> None:
        self._limits = limits or {}
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def get(self, authority: str, source: str | None = None) -> Host | None:
        """Return a host if it was met already: what it is to everybody, or to one source."""
        return self._hosts.get(_named(authority, source))

    def of(self, authority: str, source: str | None = None) -> Host:
        """Return the host of an authority such as `example.com:8080`: what it is to everybody, or to one source."""
        name = _named(authority, source)
        host = self._hosts.get(name)
        if host is None:
            self._forget_idle()
            host = self._hosts[name] = self.made(name, self._limits.get(authority))
        else:
            self._hosts.move_to_end(name)
        return host

    def made(self, name: str, limits: Limits | None) -> Host:
        """Return a new host."""
        return Host(name, limits)

    def figures(self) -> list[dict[str, str | float]]:
        """Return of each host its breaker, requests in flight, their limit, who uses it, and the pause it asked for."""
        return [
            {
                "host": host.name,
                "breaker": host.breaker.state,
                "in_flight": host.gate.in_flight,
                "limit": host.gate.limits.concurrency,
                "users": host.users,
                "held_seconds": round(host.held, 1),
            }
            for host in self._hosts.values()
        ]

    def _forget_idle(self) -> None:
        if len(self._hosts) >= MAX_HOSTS:
            idle = next((name for name, host in self._hosts.items() if not host.users), None)
            if idle is not None:
                del self._hosts[idle]


def _named(authority: str, source: str | None) -> str:
    return authority if source is None else f"{authority} ({source})"
