"""The circuit breaker, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.http.breaker import MIN_REQUESTS, OPEN_FOR, WINDOW, Breaker
from tests.fakes import Clock


def pass_one(breaker: Breaker, *, ok: bool) -> None:
    """Let a request pass, and end as said."""
    ticket = breaker.admit()
    assert ticket is not None
    breaker.record(ticket, ok=ok)


def fail(breaker: Breaker, times: int = MIN_REQUESTS) -> None:
    for _ in range(times):
        pass_one(breaker, ok=False)


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    for number in range(MIN_REQUESTS):
        pass_one(breaker, ok=number % 2 == 0)
    return breaker, clock


def test_half_failures_open_the_breaker_and_fewer_do_not() -> None:
    """It opens at half of at least MIN_REQUESTS failures in the window, and not before."""
    breaker, _ = opened()
    assert (breaker.state, breaker.admit()) == ("open", None)
    assert breaker.opens_in() == OPEN_FOR
    few = Breaker(Clock())
    fail(few, MIN_REQUESTS - 1)
    assert (few.state, few.opens_in()) == ("closed", 0.0)
    mostly = Breaker(Clock())
    for number in range(10 * MIN_REQUESTS):
        pass_one(mostly, ok=number % 3 != 0)
    assert mostly.admit() is not None


@pytest.mark.parametrize("ok", [True, False])
def test_one_probe_decides_when_half_open(ok: bool) -> None:
    """After OPEN_FOR one request passes, the next ones do not; its end closes the breaker or opens it anew."""
    breaker, clock = opened()
    clock.now += OPEN_FOR - 0.001
    assert (breaker.state, breaker.admit()) == ("open", None)
    clock.now += 0.001
    assert breaker.state == "half-open"
    ticket = breaker.admit()
    assert ticket is not None
    assert breaker.admit() is None
    breaker.record(ticket, ok=ok)
    assert breaker.state == ("closed" if ok else "open")
    assert breaker.opens_in() == (0.0 if ok else OPEN_FOR)
    clock.now += OPEN_FOR
    assert breaker.admit() is not None, "after a probe that failed there is another one"


def test_a_probe_that_came_to_no_end_lets_another_try() -> None:
    """A cancelled probe says nothing about the host and does not block it for ever."""
    breaker, clock = opened()
    clock.now += OPEN_FOR
    first = breaker.admit()
    assert first is not None
    breaker.withdraw(first)
    assert breaker.state == "half-open"
    second = breaker.admit()
    assert second is not None
    breaker.record(first, ok=True)
    assert breaker.state == "half-open", "the one that was taken back has no say any more"
    breaker.record(second, ok=True)
    assert breaker.state == "closed"


def test_late_ends_of_requests_sent_before_it_opened_change_nothing() -> None:
    """Requests still under way when the breaker opened neither close nor prolong it."""
    clock = Clock()
    breaker = Breaker(clock)
    straggler = breaker.admit()
    assert straggler is not None
    fail(breaker)
    clock.now += 1
    for ok in (True, False):
        breaker.record(straggler, ok=ok)
        assert (breaker.state, breaker.opens_in()) == ("open", OPEN_FOR - 1)


@pytest.mark.parametrize("ok", [True, False])
def test_a_straggler_does_not_settle_what_the_probe_is_to_find_out(ok: bool) -> None:
    """While the probe is under way, whoever was sent before it opened decides nothing and lets no second one try."""
    clock = Clock()
    breaker = Breaker(clock)
    stragglers = [breaker.admit() or 0 for _ in range(2)]
    fail(breaker)
    clock.now += OPEN_FOR
    probe = breaker.admit()
    assert probe is not None
    breaker.record(stragglers[0], ok=ok)
    breaker.withdraw(stragglers[1])
    assert (breaker.state, breaker.admit()) == ("half-open", None)
    breaker.record(probe, ok=not ok)
    assert breaker.state == ("open" if ok else "closed")


def test_a_straggler_is_not_counted_once_it_is_closed_again() -> None:
    """Failures from before do not bring a host down that has come back; nor do successes from before cover for it."""
    clock = Clock()
    breaker = Breaker(clock)
    stragglers = [breaker.admit() or 0 for _ in range(2 * MIN_REQUESTS)]
    fail(breaker)
    clock.now += OPEN_FOR
    pass_one(breaker, ok=True)
    for straggler in stragglers[:MIN_REQUESTS]:
        breaker.record(straggler, ok=False)
    assert breaker.state == "closed"
    for straggler in stragglers[MIN_REQUESTS:]:
        breaker.record(straggler, ok=True)
    fail(breaker)
    assert breaker.state == "open"


def test_withdrawn_requests_are_not_counted() -> None:
    """Whoever came to no end is neither a success nor a failure."""
    breaker = Breaker(Clock())
    for _ in range(MIN_REQUESTS):
        ticket = breaker.admit()
        assert ticket is not None
        breaker.withdraw(ticket)
    fail(breaker, MIN_REQUESTS - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200))
def test_failures_older_than_the_window_are_forgotten(steps: list[tuple[float, bool]]) -> None:
    """Whatever went before, after a quiet window it takes MIN_REQUESTS new ones to open."""
    clock = Clock()
    breaker = Breaker(clock)
    for pause, ok in steps:
        clock.now += pause
        ticket = breaker.admit()
        if ticket is not None:
            breaker.record(ticket, ok=ok)
    clock.now += WINDOW + OPEN_FOR
    if breaker.state != "closed":
        return
    fail(breaker, MIN_REQUESTS - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"


STEPS = st.one_of(
    st.just("admit"),
    st.tuples(st.sampled_from(["ok", "failed", "withdrawn"]), st.integers(0, 30)),
    st.sampled_from([0.5, 2.0, OPEN_FOR]),
)


@given(st.lists(STEPS, max_size=120))
def test_one_tries_at_a_time_and_only_its_end_closes(steps: list[str | float | tuple[str, int]]) -> None:
    """In any order of requests, ends and pauses: one probe in OPEN_FOR, and only its success closes the breaker."""
    clock = Clock()
    breaker = Breaker(clock)
    fail(breaker)
    under_way: list[tuple[int, bool]] = []
    tried: float | None = None
    for step in steps:
        before = breaker.state
        if isinstance(step, float):
            clock.now += step
        elif step == "admit":
            ticket = breaker.admit()
            if ticket is not None:
                under_way.append((ticket, before == "half-open"))
                if before == "half-open":
                    assert tried is None or clock.now - tried >= OPEN_FOR
                    tried = clock.now
        elif isinstance(step, tuple) and under_way:
            ticket, probe = under_way.pop(step[1] % len(under_way))
            if step[0] == "withdrawn":
                breaker.withdraw(ticket)
            else:
                breaker.record(ticket, ok=step[0] == "ok")
            if before != "closed" and breaker.state == "closed":
                assert probe
                assert step[0] == "ok"
            if probe:
                tried = None


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("ok", [True, False])
def test_a_probe_that_hangs_keeps_the_next_one_from_trying_no_longer_than_a_pause(first: bool, ok: bool) -> None:
    """After OPEN_FOR another one may try, and whichever of them ends first decides."""
    clock = Clock()
    breaker = Breaker(clock)
    fail(breaker)
    clock.now += OPEN_FOR
    probes = [breaker.admit()]
    clock.now += OPEN_FOR - 0.1
    assert breaker.admit() is None
    clock.now += 0.1
    probes.append(breaker.admit())
    assert breaker.admit() is None
    ticket, late = probes if first else reversed(probes)
    assert ticket is not None
    assert late is not None
    breaker.record(ticket, ok=ok)
    assert breaker.state == ("closed" if ok else "open")
    breaker.record(late, ok=not ok)
    assert breaker.state == ("closed" if ok else "open")
