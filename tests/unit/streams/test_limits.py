"""Per host and source: places, requests a second, and pauses asked for, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Overloaded
from models.source import Limits
from streams.http import limits
from streams.http.breaker import MIN_REQUESTS, OPEN_FOR
from streams.http.limits import Bulkhead, Host, Hosts
from tests import fakes

real_sleep = asyncio.sleep


class Clock(fakes.Clock):
    """A clock that a sleep moves: `slept` are the seconds of each."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 9))
        self.now += seconds
        await real_sleep(0)


class Bell:
    """Sleepers who wake when the test says so, in the order of their time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._clock.now + seconds, next(self._numbers), woken))
        await woken

    async def ring(self, now: float) -> None:
        """Move the clock there, and wake who is due on the way."""
        self._sleepers.sort()
        while self._sleepers and self._sleepers[0][0] <= now + 1e-9:
            when, _, woken = self._sleepers.pop(0)
            self._clock.now = max(self._clock.now, when)
            if not woken.done():
                woken.set_result(None)
            await settle()
            self._sleepers.sort()
        self._clock.now = now


Entering: TypeAlias = asyncio.Future[int]


async def settle() -> None:
    """Let whoever can go on do so."""
    for _ in range(5):
        await real_sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits.asyncio, "sleep", clock.sleep)
    return clock


@pytest.fixture
def bell(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Bell:
    bell = Bell(clock)
    monkeypatch.setattr(limits.asyncio, "sleep", bell.sleep)
    return bell


async def break_down(host: Host, gate: Bulkhead | None = None) -> None:
    """Fail until the host's breaker opens."""
    for _ in range(MIN_REQUESTS):
        host.release(await host.acquire(None, gate), ok=False, gate=gate)


async def test_a_full_host_makes_its_next_request_wait() -> None:
    """No more than the limit are in flight; the one that waits goes when one leaves."""
    host = Host("h", Limits(concurrency=2))
    first = await host.acquire(None)
    await host.acquire(None)
    third = asyncio.ensure_future(host.acquire(None))
    await settle()
    assert not third.done()
    assert host.bulkhead.in_flight == 2
    host.release(first, ok=True)
    await third
    assert (host.users, host.bulkhead.in_flight) == (2, 2)


async def test_an_open_breaker_refuses_at_once() -> None:
    """While it is open a request is Overloaded, takes no place, and the message says for how long."""
    host = Host("upstream.example", Limits(concurrency=1), Clock())
    await break_down(host)
    for _ in range(3):
        with pytest.raises(Overloaded, match=r"upstream\.example fails too often: .* for 5\.0 s") as caught:
            await host.acquire(None)
        assert not caught.value.deadline_bound
    assert (host.users, host.bulkhead.in_flight) == (0, 0)


async def test_a_breaker_that_opens_and_closes_is_told_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """One line when a host begins to fail, one when its breaker opens, none as it fails on, one when it is back."""
    caplog.set_level(logging.INFO)
    host = Host("h:81", clock=clock)
    await break_down(host)
    for ok in (False, False, True, True):
        clock.now += OPEN_FOR
        host.release(await host.acquire(None), ok=ok)
    told = [record.getMessage()[:12] for record in caplog.records]
    assert told == ["h:81 fails: ", "h:81 fails t", "h:81 is back"]


async def test_a_pause_past_the_deadline_is_refused_at_once() -> None:
    """A host that asked for more time than a request has: the request is Overloaded without waiting."""
    clock = Clock()
    host = Host("h", clock=clock)
    host.pause(60)
    with pytest.raises(Overloaded, match="60 s") as caught:
        await host.acquire(clock.now + 30)
    assert caught.value.deadline_bound, "a request with more time might have been answered"
    assert (host.users, host.bulkhead.in_flight) == (0, 0)


async def test_a_pause_is_waited_out_by_all(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request to the host waits until the pause is over, also one that was prolonged meanwhile."""

    async def sleep(seconds: float) -> None:
        if not clock.slept:
            host.pause(12)
        await clock.sleep(seconds)

    monkeypatch.setattr(limits.asyncio, "sleep", sleep)
    host = Host("h", clock=clock)
    host.pause(5)
    await host.acquire(clock.now + 100)
    assert clock.slept == [5, 7]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    """Of two pauses asked for, the one that ends later holds."""
    host = Host("h", clock=Clock())
    host.pause(60)
    host.pause(1)
    assert host.paused_for == 60


async def test_a_held_request_takes_no_place_while_it_waits(bell: Bell, clock: Clock) -> None:
    """Whoever waits for a pause to end leaves its place to none, and takes one again before it goes."""
    host = Host("h", Limits(concurrency=1), clock)
    host.pause(5)
    entering = [asyncio.ensure_future(host.acquire(None)) for _ in range(3)]
    await settle()
    assert (host.bulkhead.in_flight, host.users) == (0, 3)
    await bell.ring(1005)
    assert (host.bulkhead.in_flight, [each.done() for each in entering].count(True)) == (1, 1)
    for each in entering:
        host.release(await each, ok=True)
        await settle()
    assert (host.bulkhead.in_flight, host.users) == (0, 0)


async def test_a_pause_that_begins_while_one_waits_for_its_place_holds_it_too(bell: Bell, clock: Clock) -> None:
    """The answer that asks for a pause frees the place, and who gets that place still keeps to the pause."""
    host = Host("h", Limits(concurrency=1), clock)
    first = await host.acquire(None)
    second = asyncio.ensure_future(host.acquire(None))
    await settle()
    host.pause(5)
    host.release(first, ok=None)
    await settle()
    assert not second.done()
    await bell.ring(1005)
    assert second.done()


async def test_a_second_pause_holds_who_waited_out_the_first(bell: Bell, clock: Clock) -> None:
    """Who gets its place after a pause keeps to the next one too, which the request before it was told of."""
    host = Host("h", Limits(concurrency=1), clock)
    host.pause(5)
    first, second = (asyncio.ensure_future(host.acquire(None)) for _ in range(2))
    await settle()
    await bell.ring(1005)
    assert (first.done(), second.done()) == (True, False)
    host.pause(5)
    host.release(await first, ok=None)
    await settle()
    assert not second.done()
    await bell.ring(1010)
    assert second.done()


async def test_a_cancelled_wait_takes_no_place() -> None:
    """Whoever gives up waiting leaves the host as it was."""
    host = Host("h", Limits(concurrency=1))
    ticket = await host.acquire(None)
    waiting = asyncio.ensure_future(host.acquire(None))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (host.users, host.bulkhead.in_flight) == (1, 1)
    host.release(ticket, ok=None)
    await host.acquire(None)


@pytest.mark.parametrize("waits_for", ["a token", "a pause"])
async def test_whoever_gives_up_waiting_leaves_place_and_user_behind(bell: Bell, clock: Clock, waits_for: str) -> None:
    """Cancelled while it waits for its turn or for a pause to end, a request is as if it had never come."""
    host = Host("h", Limits(concurrency=1, rate=1 if waits_for == "a token" else None), clock)
    if waits_for == "a token":
        host.release(await host.acquire(None), ok=True)
    else:
        host.pause(5)
    waiting = asyncio.ensure_future(host.acquire(None))
    await settle()
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (host.users, host.bulkhead.in_flight) == (0, 0)


# -- requests a second


@given(rate=st.floats(0.1, 100), burst=st.integers(1, 20), pauses=st.lists(st.floats(0, 10), max_size=40))
def test_no_span_of_time_has_more_requests_than_rate_and_burst(rate: float, burst: int, pauses: list[float]) -> None:
    """However they come, in any span no more go than its tokens and the burst; each goes as soon as that allows."""
    clock = Clock()
    gate = Bulkhead(Limits(rate=rate, burst=burst), clock)
    gone: list[float] = []

    async def ask() -> None:
        for pause in pauses:
            clock.now += pause
            came = clock.now
            await gate.token("h", rate, None)
            gone.append(clock.now)
            assert clock.now == came or clock.now <= gone[-2] + 1 / rate + 1e-6

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.asyncio, "sleep", clock.sleep)
        asyncio.run(ask())
    for first, last in itertools.combinations(range(len(gone)), 2):
        assert last - first + 1 <= burst + rate * (gone[last] - gone[first]) + 1e-6


async def test_a_burst_goes_at_once_and_the_rest_by_the_rate(clock: Clock) -> None:
    """Three at once, then one every half second; a pause of a second saves up two."""
    gate = Bulkhead(Limits(rate=2, burst=3), clock)
    for _ in range(5):
        await gate.token("h", gate.limits.rate or 0, None)
    assert clock.slept == [0.5, 0.5]
    clock.now += 1
    for _ in range(3):
        await gate.token("h", gate.limits.rate or 0, None)
    assert clock.slept == [0.5, 0.5, 0.5]


async def test_an_idle_hour_saves_no_more_than_a_burst(clock: Clock) -> None:
    """The bucket is full at `burst` tokens, however long nobody asks."""
    gate = Bulkhead(Limits(rate=1, burst=2), clock)
    await gate.token("h", gate.limits.rate or 0, None)
    clock.now += 3600
    for _ in range(3):
        await gate.token("h", gate.limits.rate or 0, None)
    assert clock.slept == [1]


async def test_a_turn_past_the_deadline_is_refused_and_takes_no_token(clock: Clock) -> None:
    """Who cannot go in time is Overloaded at once, as `hurried`, and those with more time lose nothing by it."""
    host = Host("slow.example", Limits(rate=0.5), clock)
    host.release(await host.acquire(None), ok=True)
    for _ in range(5):
        with pytest.raises(Overloaded, match=r"^slow\.example takes 0\.5 requests a second at most: ") as caught:
            await host.acquire(clock.now + 2)
        assert caught.value.deadline_bound
    assert (host.users, host.bulkhead.in_flight, clock.slept) == (0, 0, [])
    await host.acquire(clock.now + 2.001)
    assert clock.slept == [2]


async def test_waiters_go_in_their_order_one_by_one(bell: Bell, clock: Clock) -> None:
    """Of many who come at once each gets a turn of its own, first come first."""
    host = Host("h", Limits(rate=1), clock)
    entering: list[Entering] = [asyncio.ensure_future(host.acquire(None)) for _ in range(4)]
    await settle()
    for second in range(4):
        await bell.ring(1000 + second)
        assert [each.done() for each in entering] == [number <= second for number in range(4)]


async def test_who_waits_before_one_counts_for_its_deadline(bell: Bell, clock: Clock) -> None:
    """With two in front, who has two seconds is refused at once, and who has a little over three waits its turn."""
    host = Host("h", Limits(rate=1), clock)
    host.release(await host.acquire(None), ok=True)
    waiting = [asyncio.ensure_future(host.acquire(None)) for _ in range(2)]
    await settle()
    with pytest.raises(Overloaded, match="its turn would come after"):
        await asyncio.wait_for(host.acquire(clock.now + 2), 5)
    last = asyncio.ensure_future(host.acquire(clock.now + 3.1))
    await settle()
    for second in (1001, 1002):
        await bell.ring(second)
        assert not last.done()
    await bell.ring(1003)
    assert [each.done() for each in (*waiting, last)] == [True] * 3


async def test_cancelled_waiters_do_not_use_up_the_turns_of_others(bell: Bell, clock: Clock) -> None:
    """Ten who gave up have sent nothing: who comes then has the next turn, not the eleventh."""
    host = Host("h", Limits(rate=0.1), clock)
    host.release(await host.acquire(None), ok=True)
    waiting = [asyncio.ensure_future(host.acquire(None)) for _ in range(10)]
    await settle()
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    entering = asyncio.ensure_future(host.acquire(None))
    await settle()
    await bell.ring(1010)
    assert entering.done()


async def test_an_open_breaker_refuses_at_once_also_where_the_rate_is_limited(clock: Clock) -> None:
    """What is refused waits for no turn and takes none."""
    host = Host("h", Limits(rate=1, burst=MIN_REQUESTS), clock)
    await break_down(host)
    with pytest.raises(Overloaded, match="fails too often"):
        await host.acquire(None)
    assert clock.slept == []


async def test_a_held_request_takes_one_token_not_two(clock: Clock) -> None:
    """A pause costs the pause, not the turn that came before it."""
    host = Host("h", Limits(rate=0.1), clock)
    host.pause(5)
    await host.acquire(None)
    assert clock.slept == [5]


# -- a source's own limits, and those of hosts


async def test_a_source_s_gate_stands_beside_that_of_its_host() -> None:
    """A source with limits of its own takes no place of its host's, nor the host's others one of the source."""
    host, gate = Host("h", Limits(concurrency=1)), Bulkhead(Limits(concurrency=1))
    plain = await host.acquire(None)
    own = await host.acquire(None, gate)
    assert (host.bulkhead.in_flight, gate.in_flight, host.users) == (1, 1, 2)
    second = asyncio.ensure_future(host.acquire(None, gate))
    await settle()
    host.release(plain, ok=True)
    await settle()
    assert not second.done(), "a place of the host's is none of the source's"
    host.release(own, ok=True, gate=gate)
    host.release(await second, ok=True, gate=gate)
    assert (host.bulkhead.in_flight, gate.in_flight, host.users) == (0, 0, 0)


async def test_the_breaker_is_the_host_s_whatever_the_gate() -> None:
    """What one source suffers at a host, every other is spared; and who is refused gives back its own gate's place."""
    host, gate = Host("h", clock=Clock()), Bulkhead(Limits(concurrency=1))
    await break_down(host, gate)
    for each in (None, gate, Bulkhead(Limits())):
        with pytest.raises(Overloaded, match="fails too often"):
            await host.acquire(None, each)
        assert (each or host.bulkhead).in_flight == 0


async def test_the_pause_is_the_host_s_whatever_the_gate(clock: Clock) -> None:
    """A pause that a host asked one source for holds for all who ask that host."""
    host = Host("h", clock=clock)
    host.pause(5)
    await host.acquire(None, Bulkhead(Limits(), clock))
    assert clock.slept == [5]
    host.pause(5)
    await host.acquire(None)
    assert clock.slept == [5, 5]


async def test_one_gate_serves_a_source_at_several_hosts() -> None:
    """The limit is the source's, whichever hosts its requests go to."""
    gate = Bulkhead(Limits(concurrency=1))
    here, there = Host("here"), Host("there")
    ticket = await here.acquire(None, gate)
    second = asyncio.ensure_future(there.acquire(None, gate))
    await settle()
    assert not second.done()
    here.release(ticket, ok=True, gate=gate)
    await second


async def test_a_host_has_the_limits_it_was_given() -> None:
    """By authority; another port is another host, with the usual ones."""
    hosts = Hosts({"h:80": Limits(concurrency=1)})
    assert [hosts.of(name).bulkhead.limits.concurrency for name in ("h:80", "h:81")] == [1, Limits().concurrency]


async def test_idle_hosts_are_forgotten_and_busy_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is bounded; a host in use keeps its state."""
    monkeypatch.setattr(limits, "MAX_HOSTS", 3)
    hosts = Hosts()
    busy = hosts.of("busy:80")
    await busy.acquire(None)
    for _ in range(50):
        hosts.of(f"h{random.randrange(1000)}:80")
    assert len(hosts) <= 4
    assert hosts.of("busy:80") is busy


# -- a host that is silent


async def crowd(host: Host, count: int, deadline: float | None = None) -> list[Entering]:
    """Have so many wait for a host whose places are all taken."""
    entering = [asyncio.ensure_future(host.acquire(deadline)) for _ in range(count)]
    await settle()
    return entering


async def test_no_more_than_so_many_wait_for_a_host_that_is_silent() -> None:
    """Within a second any number may wait; after it, who comes beyond the bound is refused at once and told why."""
    clock = Clock()
    host = Host("h", Limits(concurrency=1), clock, waiting=3)
    await host.acquire(None)
    waiting = await crowd(host, 5)
    clock.now += limits.SILENT
    with pytest.raises(
        Overloaded, match=r"^h has 5 requests waiting and answers none: .*MAX_WAITING_PER_HOST"
    ) as caught:
        await host.acquire(None)
    assert not caught.value.deadline_bound
    for each in waiting[:3]:
        each.cancel()
    await settle()
    assert host.bulkhead.waiting == 2, "who gives up is gone"
    await crowd(host, 1)
    assert host.bulkhead.waiting == 3


async def test_any_number_waits_for_a_host_that_answers() -> None:
    """A host that answers now and then is busy, not silent."""
    clock = Clock()
    host = Host("h", Limits(concurrency=1), clock, waiting=3)
    ticket = await host.acquire(None)
    waiting = await crowd(host, 50)
    for each in waiting[:10]:
        clock.now += 0.9
        host.release(ticket, ok=True)
        ticket = await each
        waiting += await crowd(host, 1)
    assert host.bulkhead.waiting == 50


async def test_a_source_s_own_bound_goes_before_the_host_s() -> None:
    """`limits.waiting` of a gate of its own holds there."""
    clock = Clock()
    host, gate = Host("h", clock=clock, waiting=100), Bulkhead(Limits(concurrency=1, waiting=1), clock)
    await host.acquire(None, gate)
    waiting = asyncio.ensure_future(host.acquire(None, gate))
    await settle()
    clock.now += limits.SILENT
    with pytest.raises(Overloaded, match="h has 1 requests waiting"):
        await host.acquire(None, gate)
    waiting.cancel()


@pytest.mark.parametrize("held", [True, False])
async def test_who_waited_in_vain_for_a_silent_host_counts_for_its_breaker(clock: Clock, held: bool) -> None:
    """Time-outs in the line are the host's failures if it was silent for a whole window; not in a pause it wanted."""
    host = Host("h", Limits(concurrency=1), clock)
    await host.acquire(None)
    waiting = await crowd(host, MIN_REQUESTS + 5, clock.now + limits.WINDOW)
    clock.now += limits.WINDOW
    if held:
        host.pause(60)
    for each in waiting[:MIN_REQUESTS]:
        each.cancel()
        await settle()
    assert host.breaker.is_closed is held
    refused = [each for each in waiting if each.done() and not each.cancelled()]
    assert len(refused) == (0 if held else 5), "the others are let go at once"
    for each in refused:
        assert "fails too often" in str(each.exception())
    assert (host.users, host.bulkhead.in_flight, host.bulkhead.waiting) == (6 if held else 1, 1, 5 if held else 0)


async def test_a_wait_that_ends_late_says_nothing(clock: Clock) -> None:
    """A worker that stood still for longer than a deadline has looked at no response: the host is not to blame."""
    host = Host("h", Limits(concurrency=1), clock)
    await host.acquire(None)
    waiting = await crowd(host, MIN_REQUESTS, clock.now + limits.WINDOW)
    clock.now += limits.WINDOW + limits.LATE
    for each in waiting:
        each.cancel()
    await settle()
    assert host.breaker.is_closed


async def test_who_waits_for_less_long_says_nothing(clock: Clock) -> None:
    """A deadline that ends a wait before the window is over is no failure of the host's, nor is a wait given up."""
    host = Host("h", Limits(concurrency=1), clock)
    await host.acquire(None)
    short = await crowd(host, MIN_REQUESTS, clock.now + 5)
    clock.now += 5
    for each in short:
        each.cancel()
    await settle()
    early = await crowd(host, MIN_REQUESTS, clock.now + 100)
    clock.now += 50
    for each in early:
        each.cancel()
    await settle()
    assert host.breaker.is_closed


async def test_a_breaker_that_opens_lets_go_who_waits() -> None:
    """With all places held by requests that hang, the others do not wait for those: they are refused as it opens."""
    host = Host("h", Limits(concurrency=MIN_REQUESTS))
    tickets = [await host.acquire(None) for _ in range(MIN_REQUESTS)]
    waiting = await crowd(host, 3)
    for ticket in tickets[:-1]:
        host.release(ticket, ok=False)
    waiting += await crowd(host, MIN_REQUESTS)
    host.release(tickets[-1], ok=False)
    await settle()
    refused = [each for each in waiting if each.done() and each.exception() is not None]
    assert refused
    assert all(each.done() for each in waiting)
    for each in waiting:
        if each not in refused:
            host.release(await each, ok=None)
    assert (host.users, host.bulkhead.in_flight, host.bulkhead.waiting) == (0, 0, 0)


def test_a_host_that_answers_may_have_more_of_the_worker() -> None:
    """Greed is for hosts that have answered within two seconds."""
    clock = Clock()
    gate = Bulkhead(Limits(), clock)
    assert gate.greed == 1
    gate.answered()
    assert gate.greed == limits.GREED
    clock.now += limits.LATELY
    assert gate.greed == 1
