"""Per host: places, pauses it asked for, and the circuit breaker, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Overloaded
from streams.http import limits
from streams.http.limits import MIN_REQUESTS, OPEN_FOR, WINDOW, Breaker, Host, Hosts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    for number in range(MIN_REQUESTS):
        breaker.record(ok=number % 2 == 0)
    return breaker, clock


def test_half_failures_open_the_breaker_and_fewer_do_not() -> None:
    """It opens at half of at least MIN_REQUESTS failures in the window, and not before."""
    breaker, _ = opened()
    assert (breaker.state, breaker.admits()) == ("open", False)
    assert breaker.opens_in() == OPEN_FOR
    few = Breaker(Clock())
    for _ in range(MIN_REQUESTS - 1):
        few.record(ok=False)
    assert (few.state, few.opens_in()) == ("closed", 0.0)
    mostly = Breaker(Clock())
    for number in range(10 * MIN_REQUESTS):
        mostly.record(ok=number % 3 != 0)
    assert mostly.admits()


@pytest.mark.parametrize("ok", [True, False])
def test_one_probe_decides_when_half_open(ok: bool) -> None:
    """After OPEN_FOR one request passes, the next ones do not; its end closes the breaker or opens it anew."""
    breaker, clock = opened()
    clock.now += OPEN_FOR
    assert breaker.state == "half-open"
    assert breaker.admits()
    assert not breaker.admits()
    breaker.record(ok=ok)
    assert breaker.state == ("closed" if ok else "open")


def test_a_probe_that_came_to_no_end_lets_another_try() -> None:
    """A cancelled probe says nothing about the host and does not block it for ever."""
    breaker, clock = opened()
    clock.now += OPEN_FOR
    assert breaker.admits()
    breaker.withdraw()
    assert breaker.admits()


def test_late_ends_of_requests_sent_before_it_opened_change_nothing() -> None:
    """Requests still under way when the breaker opened neither close nor prolong it."""
    breaker, _ = opened()
    breaker.record(ok=True)
    assert breaker.state == "open"


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200))
def test_failures_older_than_the_window_are_forgotten(steps: list[tuple[float, bool]]) -> None:
    """Whatever went before, after a quiet window it takes MIN_REQUESTS new ones to open."""
    clock = Clock()
    breaker = Breaker(clock)
    for pause, ok in steps:
        clock.now += pause
        if breaker.admits():
            breaker.record(ok=ok)
    clock.now += WINDOW + OPEN_FOR
    if breaker.state != "closed":
        return
    for _ in range(MIN_REQUESTS - 1):
        breaker.record(ok=False)
    assert breaker.state == "closed"
    breaker.record(ok=False)
    assert breaker.state == "open"


async def test_a_full_host_makes_its_next_request_wait() -> None:
    """No more than the limit are in flight; the one that waits goes when one leaves."""
    host = Host("h", limit=2)
    await host.enter(None)
    await host.enter(None)
    third = asyncio.ensure_future(host.enter(None))
    await asyncio.sleep(0)
    assert not third.done()
    host.leave(ok=True)
    await third
    assert host.users == 2


async def test_an_open_breaker_refuses_at_once() -> None:
    """While it is open a request is Overloaded, takes no place, and the message says for how long."""
    host = Host("upstream.example", limit=1)
    for _ in range(MIN_REQUESTS):
        await host.enter(None)
        host.leave(ok=False)
    for _ in range(3):
        with pytest.raises(Overloaded, match=r"upstream\.example fails too often: .* for 5\.0 s"):
            await host.enter(None)
    assert host.users == 0


async def test_a_pause_past_the_deadline_is_refused_at_once() -> None:
    """A host that asked for more time than a request has: the request is Overloaded without waiting."""
    clock = Clock()
    host = Host("h", clock=clock)
    host.hold(60)
    with pytest.raises(Overloaded, match="60 s"):
        await host.enter(clock.now + 30)
    assert host.users == 0


async def test_a_pause_is_waited_out_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request to the host waits until the pause is over, also one that was prolonged meanwhile."""
    clock = Clock()
    slept: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 1:
            host.hold(7)
        await real_sleep(0)

    monkeypatch.setattr(limits.asyncio, "sleep", sleep)
    host = Host("h", clock=clock)
    host.hold(5)
    await host.enter(clock.now + 100)
    assert slept == [5, 7]


async def test_a_cancelled_wait_takes_no_place() -> None:
    """Whoever gives up waiting leaves the host as it was."""
    host = Host("h", limit=1)
    await host.enter(None)
    waiting = asyncio.ensure_future(host.enter(None))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert host.users == 1
    host.leave(ok=None)
    await host.enter(None)


async def test_idle_hosts_are_forgotten_and_busy_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is bounded; a host in use keeps its state."""
    monkeypatch.setattr(limits, "MAX_HOSTS", 3)
    hosts = Hosts()
    busy = hosts.of("busy:80")
    await busy.enter(None)
    for _ in range(50):
        hosts.of(f"h{random.randrange(1000)}:80")
    assert len(hosts) <= 4
    assert hosts.of("busy:80") is busy
