"""The limits of one upstream host: requests in flight and per second, pauses that it requested, and a circuit breaker.
Requests to a slow or dead host wait or are refused; those to others are not affected.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from models.errors import Overloaded
from models.source import Limits
from streams.config.settings import DEFAULT_MAX_WAITING_PER_HOST
from streams.http.breaker import OPEN_FOR, WINDOW, Breaker
from streams.http.bucket import TokenBucket
from streams.http.outage import Outage

MAX_HOSTS = 10_000
"""Hosts kept; beyond, idle ones are dropped, the least recently used first."""

SILENT = 1.0
"""Seconds without a response, while requests wait, after which the number of waiting requests is limited."""
LATE = 0.25
"""Seconds past its deadline at which a request that only ends then says nothing about its host: the worker is late."""
LATELY = 2.0
"""Seconds after a response for which its host counts as responsive."""
GREED = 8
"""A responsive host may have this many times the worker's free places, any other as many as are free. So eight hosts
that hang leave 28 of 256, and one responsive host may have 227."""

Clock = Callable[[], float]
Place = asyncio.Future[None]


class Bulkhead:
    """Limits requests in flight, and their rate by a token bucket if it is limited."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._waiting: OrderedDict[Place, None] = OrderedDict()
        self._silent_since = self._answered_at = float("-inf")
        self.bucket = None if limits.rate is None else TokenBucket(limits.rate, limits.burst, clock)
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a place."""
        return len(self._waiting)

    @property
    def greed(self) -> int:
        """Return how many times the worker's free places it may have."""
        return GREED if self._clock() - self._answered_at < LATELY else 1

    def acquire(self) -> Place | None:
        """Take a place, or return a future to await.

        Not a coroutine: thousands may wait here, and the garbage collector walks their frames.
        """
        if self.in_flight < self.limits.concurrency:
            self.in_flight += 1
            return None
        if not self._waiting:
            self._silent_since = self._clock()
        place = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        return place

    def give_up(self, place: Place) -> None:
        """Stop waiting, and release the place if it was granted meanwhile."""
        self._waiting.pop(place, None)
        if place.done() and not place.cancelled() and place.exception() is None:
            self.release()

    def release(self) -> None:
        """Release a place to the first that waits for it."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_result(None)
                return
        self.in_flight -= 1

    def answered(self) -> None:
        """Note a response."""
        self._answered_at = self._silent_since = self._clock()

    def is_silent(self, seconds: float) -> bool:
        """Whether requests waited for so many seconds without any response."""
        if not self._waiting:
            return False
        if self.bucket is None:
            return self._clock() - self._silent_since >= seconds
        since = max(self._silent_since, self.bucket.granted_at())  # not the host's silence while there is no share
        return self._clock() - since >= seconds + 1 / self.bucket.expected

    async def token(self, name: str, rate: float, deadline: float | None) -> None:
        """Wait for a token. Raises Overloaded if there is none before the deadline."""
        assert self.bucket is not None
        if deadline is not None and self._clock() + self.bucket.wait() >= deadline:
            msg = f"{name} takes {rate:g} requests a second at most: its turn would come after the request's deadline"
            refused = Overloaded(msg)
            refused.deadline_bound = True
            raise refused
        await self.bucket.take()


class Host:
    """One upstream: `acquire` before a request, `release` after it. Of its `users`, `in_flight` have been admitted; the
    others wait. `bulkhead`: that of a source, if it has the host for itself.
    """

    def __init__(
        self,
        name: str,
        limits: Limits | None = None,
        clock: Clock = time.monotonic,
        *,
        waiting: int = DEFAULT_MAX_WAITING_PER_HOST,
        bulkhead: Bulkhead | None = None,
    ) -> None:
        self.name = name
        self._most = waiting
        self._waiting: set[Place] = set()
        self.breaker = Breaker(clock)
        self._outage = Outage(name, clock)
        self.bulkhead = bulkhead or Bulkhead(limits or Limits(), clock)
        self._clock = clock
        self._paused_until = 0.0
        self.users = self.in_flight = 0

    def stats(self) -> dict[str, str | float | None]:
        """Return its breaker's state, requests in flight, limit, users, requests a second (None: any), this worker's
        share of a rate that is shared, and remaining pause in seconds.
        """
        bucket = self.bulkhead.bucket
        return {
            "host": self.name,
            "breaker": self.breaker.state,
            "in_flight": self.in_flight,
            "limit": self.bulkhead.limits.concurrency,
            "users": self.users,
            "rate": self.bulkhead.limits.rate,
            "share": round(bucket.rate, 3) if bucket is not None and bucket.shared else None,
            "held_seconds": round(self.paused_for, 1),
        }

    @property
    def paused_for(self) -> float:
        """Return the remaining seconds of a pause that the host requested."""
        return max(0.0, self._paused_until - self._clock())

    @property
    def left_alone_for(self) -> float:
        """Return the seconds for which nothing is sent: of a pause, or until the breaker lets a probe through."""
        return max(self.paused_for, 0.0 if self.breaker.would_admit() else self.breaker.opens_in())

    def pause(self, seconds: float) -> None:
        """Send nothing for so many seconds, as the host requested (Retry-After)."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def acquire(self, deadline: float | None, gate: Bulkhead | None = None) -> int:
        """Wait for a place in the host's bulkhead or in `gate`; returns the ticket for `release`.

        Raises Overloaded if the breaker is or becomes open, if too many requests wait for a silent host already, or if
        the wait would pass the deadline (monotonic seconds).
        """
        gate = gate or self.bulkhead
        rate = gate.limits.rate
        placed = has_token = False
        self.users += 1
        try:
            while True:
                if not placed:
                    if gate.in_flight < gate.limits.concurrency:
                        gate.in_flight += 1
                    else:
                        await self._place(gate, deadline)
                    placed = True
                if self._paused_until and self.paused_for:  # also a pause that began while this request waited
                    gate.release()
                    placed = False
                    await self._wait_out_pause(deadline)
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
                self.in_flight += 1
                return ticket
        except BaseException:
            self.users -= 1
            if placed:
                gate.release()
            raise

    async def _place(self, gate: Bulkhead, deadline: float | None) -> None:
        most = gate.limits.waiting or self._most
        if gate.waiting >= most and gate.is_silent(SILENT):
            self.overdue(gate)
            msg = (f"{self.name} has {gate.waiting} requests waiting and answers none: no more may wait for it "
                   "(MILLRACE_MAX_WAITING_PER_HOST, or limits.waiting of a source)")  # fmt: skip
            raise Overloaded(msg)
        place = gate.acquire()
        if place is None:
            return
        self._waiting.add(place)
        try:
            await place
        except BaseException:
            if deadline is not None and 0 <= self._clock() - deadline < LATE:
                self.overdue(gate)
            gate.give_up(place)
            raise
        finally:
            self._waiting.discard(place)

    def overdue(self, gate: Bulkhead | None = None) -> None:
        """Note that a request could not wait any longer: a failure of the host if it was silent all along, unless it
        requested a pause.
        """
        if (gate or self.bulkhead).is_silent(WINDOW) and self.breaker.is_closed and not self.paused_for:
            self._record(self.breaker.ticket, ok=False, result="no answer while it waited")

    def refusal(self) -> Overloaded | None:
        """Return the error while nothing is sent to the host, else None."""
        return None if self.breaker.would_admit() else self._refusal()

    def _refusal(self) -> Overloaded:
        self._outage.refuse()
        return Overloaded(f"{self.name} fails too often: nothing is sent to it for {self.breaker.opens_in():.1f} s")

    def release(self, ticket: int, *, ok: bool | None, gate: Bulkhead | None = None, result: str = "") -> None:
        """Release a place. `ok`: whether the host did its part, None if unknown; `result` is for the log."""
        self.users -= 1
        self.in_flight -= 1
        (gate or self.bulkhead).release()
        if ok is None:
            self.breaker.withdraw(ticket)
            return
        if ok:
            (gate or self.bulkhead).answered()
        self._record(ticket, ok=ok, result=result)

    def _record(self, ticket: int, *, ok: bool, result: str) -> None:
        was_closed, failed = self.breaker.is_closed, self.breaker.failed + 1
        self.breaker.record(ticket, ok=ok)
        closed = self.breaker.is_closed
        if not ok or closed:  # a straggler that succeeds while the breaker is open ends no outage
            self._outage.record(ok=ok, result=result)
        if was_closed and not closed:
            self._outage.stop(OPEN_FOR, failed)
            for place in self._waiting:
                if not place.done():
                    place.set_exception(self._refusal())

    async def _wait_out_pause(self, deadline: float | None) -> None:
        while wait := self.paused_for:
            if deadline is not None and self._paused_until >= deadline:
                msg = f"{self.name} requested a pause of {wait:.0f} s more, which is past the request's deadline"
                refused = Overloaded(msg)
                refused.deadline_bound = True
                raise refused
            await asyncio.sleep(wait)


class Hosts:
    """All hosts in use, bounded. `limits` are configured for single hosts, by authority; `waiting`: requests that may
    wait for any other host while it is silent.
    """

    def __init__(
        self, limits: Mapping[str, Limits] | None = None, *, waiting: int = DEFAULT_MAX_WAITING_PER_HOST
    ) -> None:
        self._limits = limits or {}
        self._waiting = waiting
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def get(self, authority: str, source: str | None = None) -> Host | None:
        """Return a host that was used before: the common one, or that of one source."""
        return self._hosts.get(host_name(authority, source))

    def of(self, authority: str, source: str | None = None, bulkhead: Bulkhead | None = None) -> Host:
        """Return the host of an authority such as `example.com:8080`: the common one, or that of one source, which has
        a bulkhead of its own.
        """
        name = host_name(authority, source)
        host = self._hosts.get(name)
        if host is None:
            self._forget_idle()
            host = self._hosts[name] = self.made(name, self._limits.get(authority), bulkhead)
        else:
            self._hosts.move_to_end(name)
        return host

    def made(self, name: str, limits: Limits | None, bulkhead: Bulkhead | None = None) -> Host:
        """Return a new host."""
        return Host(name, limits, waiting=self._waiting, bulkhead=bulkhead)

    def stats(self) -> list[dict[str, str | float | None]]:
        """Return the stats of each host."""
        return [host.stats() for host in self._hosts.values()]

    def _forget_idle(self) -> None:
        if len(self._hosts) >= MAX_HOSTS:
            idle = (name for name, host in self._hosts.items() if not host.users and name not in self._limits)
            if (longest := next(idle, None)) is not None:
                del self._hosts[longest]


def host_name(authority: str, source: str | None) -> str:
    """Return the name of a host as workers report it, and tables count it: that of one source is `h:443 (prices)`."""
    return authority if source is None else f"{authority} ({source})"
