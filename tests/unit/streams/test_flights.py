from __future__ import annotations

import asyncio

import pytest

from streams.cache.flights import Flights


async def waiting(flights, key, count):
    """Start some who wait for a flight and let them get as far as waiting."""
    tasks = [asyncio.create_task(flights.join(key)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_of_all_who_ask_one_leads():
    """The first to ask leads; the others do not until it has landed."""
    flights = Flights()
    assert [flights.lead("a") for _ in range(3)] == [True, False, False]
    flights.land("a", 1)
    assert flights.lead("a") is True


async def test_flights_of_different_keys_do_not_meet():
    """Each key has a leader of its own, and its landing wakes nobody else."""
    flights = Flights()
    assert flights.lead("a")
    assert flights.lead("b")
    (for_a,) = await waiting(flights, "a", 1)
    flights.land("b", 2)
    await asyncio.sleep(0)
    assert not for_a.done()
    flights.land("a", 1)
    assert await for_a == 1


async def test_all_who_wait_get_the_one_answer():
    """Everyone who joined is given the very object that landed."""
    flights = Flights()
    flights.lead("a")
    tasks = await waiting(flights, "a", 5)
    answer = object()
    flights.land("a", answer)
    assert [await task is answer for task in tasks] == [True] * 5


async def test_a_leader_that_gives_up_lets_another_lead():
    """None wakes those who wait, and the first of them may lead."""
    flights = Flights()
    flights.lead("a")
    tasks = await waiting(flights, "a", 2)
    flights.land("a", None)
    assert await asyncio.gather(*tasks) == [None, None]
    assert [flights.lead("a"), flights.lead("a")] == [True, False]


async def test_one_who_stops_waiting_harms_nobody():
    """A cancelled waiter neither breaks the landing nor takes the others' answer."""
    flights = Flights()
    flights.lead("a")
    first, second = await waiting(flights, "a", 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    flights.land("a", 1)
    assert first.cancelled()
    assert await second == 1


async def test_what_has_landed_is_forgotten():
    """Only flights under way are held, and counted."""
    flights = Flights()
    assert len(flights) == 0
    flights.lead("a")
    flights.lead("b")
    flights.lead("a")
    assert len(flights) == 2
    flights.land("a", 1)
    flights.land("b", None)
    assert len(flights) == 0


async def test_nobody_lands_what_is_not_flying():
    """Landing twice is a fault that shows."""
    flights = Flights()
    flights.lead("a")
    flights.land("a", 1)
    with pytest.raises(KeyError):
        flights.land("a", 1)
