from __future__ import annotations

import asyncio

from streams.cache.single_flight import SingleFlight


async def waiting(flights, key, count):
    """Start some who wait for a flight and let them get as far as waiting."""
    tasks = [asyncio.create_task(flights.wait(key)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_of_all_who_ask_one_leads():
    """The first to ask leads; the others do not until it has landed."""
    flights = SingleFlight()
    first, *others = [flights.begin("a") for _ in range(3)]
    assert (first is None, others) == (False, [None, None])
    flights.finish("a", first, 1)
    assert flights.begin("a") is not None


async def test_flights_of_different_keys_do_not_meet():
    """Each key has a leader of its own, and its landing wakes nobody else."""
    flights = SingleFlight()
    a, b = flights.begin("a"), flights.begin("b")
    (for_a,) = await waiting(flights, "a", 1)
    flights.finish("b", b, 2)
    await asyncio.sleep(0)
    assert not for_a.done()
    flights.finish("a", a, 1)
    assert await for_a == 1


async def test_all_who_wait_get_the_one_answer():
    """Everyone who joined is given the very object that landed."""
    flights = SingleFlight()
    flight = flights.begin("a")
    tasks = await waiting(flights, "a", 5)
    answer = object()
    flights.finish("a", flight, answer)
    assert [await task is answer for task in tasks] == [True] * 5


async def test_a_leader_that_gives_up_lets_another_lead():
    """None wakes those who wait, and the first of them may lead."""
    flights = SingleFlight()
    flight = flights.begin("a")
    tasks = await waiting(flights, "a", 2)
    flights.finish("a", flight, None)
    assert await asyncio.gather(*tasks) == [None, None]
    assert [flights.begin("a") is None, flights.begin("a") is None] == [False, True]


async def test_one_who_stops_waiting_harms_nobody():
    """A cancelled waiter neither breaks the landing nor takes the others' answer."""
    flights = SingleFlight()
    flight = flights.begin("a")
    first, second = await waiting(flights, "a", 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    flights.finish("a", flight, 1)
    assert first.cancelled()
    assert await second == 1


async def test_what_has_landed_is_forgotten():
    """Only flights under way are held, and counted."""
    flights = SingleFlight()
    assert len(flights) == 0
    a, b = flights.begin("a"), flights.begin("b")
    flights.begin("a")
    assert len(flights) == 2
    flights.finish("a", a, 1)
    flights.finish("b", b, None)
    assert len(flights) == 0


async def test_nobody_joins_a_flight_from_before_a_change():
    """Who asks after a change leads anew; who waited before it gets what that flight brings, and both land."""
    flights = SingleFlight()
    old = flights.begin("a", changes=3, changed=0)
    (waited,) = await waiting(flights, "a", 1)
    assert flights.begin("a", changes=4, changed=3) is None
    new = flights.begin("a", changes=5, changed=5)
    assert new is not None
    (waits,) = await waiting(flights, "a", 1)
    flights.finish("a", old, "old")
    await asyncio.sleep(0)
    assert (await waited, waits.done(), len(flights)) == ("old", False, 1)
    assert flights.begin("a", changes=5, changed=5) is None
    flights.finish("a", new, "new")
    assert (await waits, len(flights)) == ("new", 0)


def test_nobody_waits_for_an_answer_that_is_for_nobody_else(monkeypatch):
    """Until the time that is said, or until it is taken back; as many keys as the limit says are remembered."""
    monkeypatch.setattr("streams.cache.single_flight.MAX_PARTED", 2)
    flights = SingleFlight()
    assert not flights.parted("a", 5.0)
    flights.part("a", 10.0)
    assert (flights.parted("a", 9.9), flights.parted("a", 10.0), flights.parted("b", 5.0)) == (True, False, False)
    flights.part("a", 0.0)
    assert not flights.parted("a", 5.0)
    for key in "abc":
        flights.part(key, 10.0)
    assert [flights.parted(key, 5.0) for key in "abc"] == [False, False, True]
