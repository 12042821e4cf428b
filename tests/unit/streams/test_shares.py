"""Shares: whoever takes all it can leaves room for the next, and who waits is let in key by key."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.shares import Shares


def fill(shares: Shares[str], key: str, weight: int = 1) -> int:
    """Take as often as it fits; returns how often."""
    count = 0
    while shares.fits(key, weight):
        shares.take(key, weight)
        count += 1
    return count


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_whoever_takes_all_it_can_leaves_room_for_the_next() -> None:
    """One takes half; of 8, 64 or 200 that fill what they find, the last ones find room, too."""
    assert fill(Shares(256), "h") == 128
    for hosts in (8, 64, 200):
        shares: Shares[str] = Shares(256)
        found = [fill(shares, f"h{n}") for n in range(hosts)]
        assert min(found) >= (1 if hosts <= 8 else 0)
        assert fill(shares, "good") >= 1 or shares.taken == 256
    shares = Shares(256)
    turns = [f"h{n}" for n in range(8)]
    while taking := [key for key in turns if shares.fits(key)]:
        for key in taking:
            if shares.fits(key):
                shares.take(key)
    assert fill(shares, "good") >= 14, "eight that came together have left a ninth of it"


def test_greed_lets_one_have_most_and_never_the_last() -> None:
    """With a greed of 8 one takes eight ninths; the last unit is for who has none."""
    shares: Shares[str] = Shares(256, lambda _: 8)
    assert fill(shares, "busy") == 227
    assert fill(shares, "next") >= 16
    assert shares.fits("last")


def test_one_is_let_in_whatever_it_weighs() -> None:
    """More than there is goes alone: nothing waits for ever."""
    shares: Shares[str] = Shares(10)
    assert fill(shares, "h", 25) == 1
    assert not shares.fits("other")
    shares.give("h", 25)
    assert (shares.fits("other"), shares.taken) == (True, 0)


async def test_who_waits_is_let_in_key_by_key() -> None:
    """Two keys with long queues take turns; within one, first come first served."""
    shares: Shares[str] = Shares(1)
    await shares.acquire("a")
    order: list[str] = []

    async def ask(key: str, name: str) -> None:
        await shares.acquire(key)
        order.append(name)

    tasks = [asyncio.create_task(ask(key, f"{key}{n}")) for key in "ab" for n in range(3)]
    await settle()
    assert order == []
    for key in "abababa"[:6]:
        shares.give(key if not order else order[-1][0])
        await settle()
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    await asyncio.gather(*tasks)


async def test_who_does_not_fit_holds_up_nobody_else() -> None:
    """A large one at the head of its queue waits; small ones of others pass it."""
    shares: Shares[str] = Shares(10)
    await shares.acquire("a", 4)
    large = asyncio.create_task(shares.acquire("large", 8))
    await settle()
    await asyncio.wait_for(shares.acquire("small", 2), 5)
    assert not large.done()
    shares.give("a", 4)
    shares.give("small", 2)
    await asyncio.wait_for(large, 5)


@pytest.mark.parametrize("late", [True, False])
async def test_who_gives_up_waiting_leaves_nothing_taken(late: bool) -> None:
    """Cancelled while it waits, or in the very turn in which it was let in, a place is there for the next."""
    shares: Shares[str] = Shares(1)
    await shares.acquire("a")
    waiting = asyncio.create_task(shares.acquire("b"))
    await settle()
    if late:
        shares.give("a")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not late:
        shares.give("a")
    assert shares.taken == 0
    await asyncio.wait_for(shares.acquire("c"), 5)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9), st.booleans()), max_size=60))
def test_no_more_than_there_is_and_nobody_is_forgotten(steps: list[tuple[str, int, bool]]) -> None:
    """In any order of coming and going what is taken never passes the room but by one alone, and all get in."""

    async def run() -> None:
        shares: Shares[str] = Shares(10)
        held: list[tuple[str, int]] = []

        async def ask(key: str, weight: int) -> None:
            await shares.acquire(key, weight)
            held.append((key, weight))

        tasks = []
        for key, weight, leaves in steps:
            tasks.append(asyncio.create_task(ask(key, weight)))
            await settle()
            if leaves and held:
                shares.give(*held.pop(0))
                await settle()
            assert shares.taken <= 10
        while held:
            shares.give(*held.pop(0))
            await settle()
        assert all(task.done() for task in tasks)
        assert (shares.taken, shares._held, shares._waiting) == (0, {}, {})

    asyncio.run(run())


def test_counts_are_by_key() -> None:
    """What one gives back is its own."""
    shares: Shares[str] = Shares(10)
    for key in "aab":
        shares.take(key)
    shares.give("a")
    assert Counter(shares._held) == Counter("ab")
