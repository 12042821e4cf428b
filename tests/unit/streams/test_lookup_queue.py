"""Lookups of one turn go together, few at once, each answered whatever becomes of the others."""

from __future__ import annotations

import asyncio

import pytest

from streams.cache.lookup_queue import MAX_LOOKUPS, LookupQueue

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


class Tiers:
    """Finds each key as itself; `calls` has the keys of each call, which waits for the gate."""

    def __init__(self):
        self.calls = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def look_up(self, keys):
        self.calls.append(keys)
        await self.gate.wait()
        return {key: key for key in keys if key != b"none"}


@pytest.fixture
async def tiers():
    return Tiers()


@pytest.fixture
async def queue(tiers):
    queue = LookupQueue(tiers.look_up)
    yield queue
    await queue.close()


async def found_by(queue, *keys):
    """What is found by those that look in one turn."""
    return await asyncio.wait_for(asyncio.gather(*map(queue.find, keys)), PATIENCE)


async def test_lookups_of_one_turn_are_one_call(tiers, queue):
    """The same key is looked for once, and all who look for it get it."""
    assert await found_by(queue, b"a", b"none", b"b", b"a") == [b"a", None, b"b", b"a"]
    assert tiers.calls == [[b"a", b"none", b"b"]]


async def test_what_is_looked_for_meanwhile_goes_next(tiers, queue):
    """At most MAX_LOOKUPS keys at once; the others follow in their order, as many as there is room for."""
    tiers.gate.clear()
    keys = [b"%d" % number for number in range(2 * MAX_LOOKUPS + 1)]
    finding = asyncio.create_task(found_by(queue, *keys))
    while not tiers.calls:
        await asyncio.sleep(0)
    assert len(queue) == MAX_LOOKUPS + 1
    tiers.gate.set()
    assert await finding == keys
    assert tiers.calls == [keys[:MAX_LOOKUPS], keys[MAX_LOOKUPS : 2 * MAX_LOOKUPS], keys[2 * MAX_LOOKUPS :]]


async def test_one_that_is_alone_does_not_wait_for_others(tiers, queue):
    """A lookup that takes long holds up none that comes later, as long as there is room."""
    tiers.gate.clear()
    slow = asyncio.create_task(queue.find(b"slow"))
    while not tiers.calls:
        await asyncio.sleep(0)
    tiers.gate.set()
    tiers.gate = asyncio.Event()
    tiers.gate.set()
    assert await found_by(queue, b"a") == [b"a"]
    assert await slow == b"slow"


async def test_who_gives_up_leaves_the_others_theirs(tiers, queue):
    """A request out of time ends nobody else's lookup."""
    tiers.gate.clear()
    gone, other = (asyncio.create_task(queue.find(b"a")) for _ in range(2))
    while not tiers.calls:
        await asyncio.sleep(0)
    gone.cancel()
    tiers.gate.set()
    assert await asyncio.wait_for(other, PATIENCE) == b"a"
    assert gone.cancelled()


async def test_closing_ends_what_is_looked_for(tiers, queue):
    """Nothing is found any more, and nothing is left running."""
    tiers.gate.clear()
    found = []
    queue.add(b"a", found.append)
    while not tiers.calls:
        await asyncio.sleep(0)
    queue.add(b"b", found.append)
    await queue.close()
    tiers.gate.set()
    await asyncio.sleep(0)
    assert (found, len(queue), len(tiers.calls)) == ([], 0, 1)
