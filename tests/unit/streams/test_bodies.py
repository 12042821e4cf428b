"""Room for bodies: what is read at once is bounded, small answers pass, and nobody waits in a circle."""

from __future__ import annotations

import asyncio
import contextvars
import time

import pytest

from models.errors import Overloaded
from streams.http import turn as turns
from streams.http.bodies import SMALL, TOGETHER, Bodies, kept_until_answered

MOST = 1 << 20


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Reading:
    """A body of a host that is being read until it is told to go on."""

    def __init__(self, bodies: Bodies, host: str, size: int, deadline: float | None = None) -> None:
        self.has_room = False
        self._go_on = asyncio.Event()
        self.task = asyncio.create_task(self._read(bodies, host, size, deadline))

    async def _read(self, bodies: Bodies, host: str, size: int, deadline: float | None) -> None:
        with bodies.room(host, MOST, deadline) as room:
            await room.grow(min(size, SMALL))
            await room.grow(size)
            self.has_room = True
            await self._go_on.wait()

    async def end(self) -> None:
        self._go_on.set()
        await self.task


async def test_large_bodies_have_so_much_room_and_small_ones_need_none() -> None:
    """A host has half of the room at most, all hosts together no more than there is; small ones are read at once."""
    bodies = Bodies(MOST)
    slow = [Reading(bodies, "slow", SMALL + 1) for _ in range(5)]
    await settle()
    assert [each.has_room for each in slow] == [True, True, False, False, False]
    other = Reading(bodies, "other", MOST)
    small = Reading(bodies, "slow", SMALL)
    await settle()
    assert (other.has_room, small.has_room, bodies.taken) == (True, True, 3 * MOST)
    for each in (*slow, other, small):
        await each.end()
    assert (bodies.taken, TOGETHER) == (0, 4)


async def test_room_that_is_given_up_is_free_for_the_next() -> None:
    """A body that breaks off, or whose request is over, gives back its room and its place in the queue."""
    bodies = Bodies(MOST)
    slow = [Reading(bodies, "slow", MOST) for _ in range(4)]
    await settle()
    for each in (slow[0], slow[2]):
        each.task.cancel()
    await settle()
    assert [each.has_room for each in slow] == [True, True, False, True]
    for each in (slow[1], slow[3]):
        await each.end()
    assert bodies.taken == 0


async def test_no_room_before_the_deadline_is_told_as_that() -> None:
    """Who waits for room until its deadline is `overloaded`, which is no failure of its host's."""
    bodies = Bodies(MOST)
    slow = [Reading(bodies, "slow", MOST) for _ in range(2)]
    late = Reading(bodies, "slow", MOST, time.monotonic() + 0.06)
    with pytest.raises(Overloaded, match="no room for an answer of slow of up to 1048576 bytes") as caught:
        await late.task
    assert caught.value.deadline_bound
    for each in slow:
        await each.end()


async def test_who_waited_for_its_turn_waits_for_room_too() -> None:
    """Pages reserve their room before their turn: what counts is the deadline that it brings."""
    bodies = Bodies(MOST)
    await bodies._room.acquire("slow", 2 * MOST)
    turns.current.set(turns.Turn(lambda: None))
    with bodies.one_room("slow", MOST, time.monotonic() - 1) as room:
        growing = asyncio.ensure_future(room.grow(SMALL + 1))
        await settle()
        assert not growing.done()
        bodies._room.give("slow", 2 * MOST)
        await growing
    assert bodies.taken == 0


async def test_room_is_kept_until_the_request_is_answered() -> None:
    """While a document is parsed, checked and encoded its body's room is still taken; then it is given back."""
    bodies = Bodies(MOST)
    with kept_until_answered():
        with bodies.room("h", MOST, None) as room:
            await room.grow(SMALL + 1)
            await room.grow(SMALL + 2)
        assert bodies.taken == MOST
        with pytest.raises(ZeroDivisionError), bodies.room("h", MOST, None) as room:
            await room.grow(SMALL + 1)
            raise ZeroDivisionError
        assert bodies.taken == MOST, "what broke off keeps nothing: the next try asks for room of its own"
    assert bodies.taken == 0
    with bodies.room("h", MOST, None) as room:
        await room.grow(SMALL + 1)
    assert bodies.taken == 0


async def test_a_task_that_outlives_its_request_keeps_no_room() -> None:
    """What a request began in the background may read a body after it: the room for that is given back, too."""
    bodies = Bodies(MOST)

    async def read_later(answered: asyncio.Event) -> None:
        await answered.wait()
        with bodies.room("h", MOST, None) as room:
            await room.grow(SMALL + 1)

    answered = asyncio.Event()
    with kept_until_answered():
        reading = asyncio.create_task(read_later(answered))
        await settle()
    answered.set()
    await reading
    assert bodies.taken == 0


async def test_a_task_that_is_collected_unfinished_changes_no_other_s_room():
    """Its block ends in the context of whoever collects it, whose bodies are kept all the same."""
    bodies = Bodies(1_000_000)
    left = contextvars.Context().run(kept_until_answered)
    contextvars.Context().run(left.__enter__)
    with kept_until_answered():
        left.__exit__(None, None, None)
        with bodies.room("h", 1_000_000, None) as room:
            await room.grow(SMALL + 1)
        assert bodies.taken > 0
    assert bodies.taken == 0
