"""Requests a second, on a clock that sleeps too long."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.http.bucket import LATE, RECHECK, TokenBucket
from tests import fakes

real_sleep = asyncio.sleep


class LateClock(fakes.Clock):
    """A clock that a sleep moves, further than it was meant to; `sleeping` may stop it from the outside."""

    def __init__(self, *late: float) -> None:
        super().__init__()
        self._late = itertools.cycle(late or (0.0,))

    async def sleep(self, seconds: float) -> None:
        await real_sleep(0)
        self.now += seconds + next(self._late)


async def granted(bucket: TokenBucket, clock: LateClock, count: int) -> list[float]:
    """Return when each of so many who come at once has its token, in order."""
    begun, times = clock.now, []

    async def take() -> None:
        await bucket.take()
        times.append(clock.now - begun)

    await asyncio.wait_for(asyncio.gather(*(take() for _ in range(count))), 20)
    return times


@pytest.fixture
def late(monkeypatch):
    def make(*seconds: float) -> LateClock:
        clock = LateClock(*seconds)
        monkeypatch.setattr(asyncio, "sleep", clock.sleep)
        return clock

    return make


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.045, 0.13])
async def test_the_rate_is_reached_however_late_timers_are(late, seconds):
    """With a burst of 1, fifty a second are fifty a second on a busy machine, too: what was earned is granted."""
    clock = late(seconds)
    times = await granted(TokenBucket(50, 1, clock), clock, 251)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(5.0, abs=0.02 + seconds)


async def test_a_worker_that_stood_still_makes_up_for_no_more_than_a_moment(late):
    """After a minute in which nothing ran, LATE seconds' worth go at once, and not a minute's."""
    clock = late(60.0, 0.0)
    times = await granted(TokenBucket(100, 1, clock), clock, 40)
    assert sum(at <= 60.01 for at in times) == 1 + 1 + 100 * LATE


@given(
    rate=st.floats(0.5, 200), burst=st.integers(1, 20), late=st.lists(st.floats(0, 0.5), min_size=1, max_size=10),
    seed=st.randoms(use_true_random=False),
)  # fmt: skip
def test_no_span_has_more_than_rate_and_burst_and_what_was_late(
    rate: float, burst: int, late: list[float], seed: random.Random
) -> None:
    """However late timers are and whoever gives up, no span has more; and nobody who stays waits for ever."""
    clock = LateClock(*late)
    bucket = TokenBucket(rate, burst, clock)
    gone: list[float] = []

    async def take() -> None:
        await bucket.take()
        gone.append(clock.now)

    async def ask() -> int:
        tasks = []
        for _ in range(30):
            tasks.append(asyncio.ensure_future(take()))
            for _ in range(seed.randrange(4)):
                await real_sleep(0)
            if seed.random() < 0.3:
                seed.choice(tasks).cancel()
            if seed.random() < 0.1:
                clock.now += seed.random()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        return sum(each is None for each in ended)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", clock.sleep)
        assert asyncio.run(ask()) == len(gone) == bucket.taken
    assert bucket.waiting == 0
    for first, last in itertools.combinations(range(len(gone)), 2):
        assert last - first + 1 <= burst + rate * (gone[last] - gone[first] + LATE) + 1e-6


async def test_a_share_grants_nothing_until_there_is_one(late):
    """A newcomer to a limit that is shared has no token, not even the burst; a request sees its share soon."""
    clock = late()
    bucket = TokenBucket(50, 5, clock)
    bucket.share(0.0, expected=25.0)
    waiting = asyncio.ensure_future(bucket.take())
    until = clock.now + 60
    while clock.now < until:
        await real_sleep(0)
    assert not waiting.done()
    assert bucket.wait() == pytest.approx(2 / 25)
    bucket.share(10.0, expected=25.0)
    began = clock.now
    await waiting
    assert clock.now - began == pytest.approx(0.1, abs=RECHECK)


async def test_shares_split_the_burst(late):
    """A fifth of a limit has a fifth of its burst, and one token at least."""
    clock = late()
    bucket = TokenBucket(50, 10, clock)
    for share, at_once in ((10.0, 2), (1.0, 1), (50.0, 10)):
        bucket.share(share, expected=share)
        clock.now += 60
        times = await granted(bucket, clock, 20)
        assert sum(at == 0 for at in times) == at_once
