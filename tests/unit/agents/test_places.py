"""Places: what is begun is bounded, by number and by the work that checks bring."""

from __future__ import annotations

import asyncio

import pytest

from agents import places as module
from agents.known import know
from agents.places import Places
from models.checks import Call
from models.request import Request
from streams.pool.admission import ADMITTED, Admission
from streams.pool.costs import UNSEEN, Costs

PLAIN = know(Request(url="http://example.org/"))
CHECKED = know(Request(url="http://example.org/", checks=(Call("is_prime"), Call("sha256"))))
FIT = int(ADMITTED / (2 * UNSEEN))
"""Requests with two unseen checks that one process admits."""


@pytest.fixture
def admission():
    return Admission(Costs(), processes=1)


async def waits(taking):
    """Whether somebody still waits after all that can happen has."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not taking.done()


async def test_so_many_are_begun_and_no_more(monkeypatch):
    """The next one waits until a place is given back."""
    monkeypatch.setattr(module, "MAX_UNDER_WAY", 2)
    places = Places()
    leave, _ = await places.take(PLAIN), await places.take(CHECKED)
    third = asyncio.ensure_future(places.take(PLAIN))
    assert await waits(third)
    leave()
    assert not await waits(third)


async def test_checks_are_begun_for_seconds_of_work(admission):
    """Requests with checks wait once enough work was promised; those without pass them."""
    places = Places(admission)
    begun = [await places.take(CHECKED) for _ in range(FIT)]
    assert admission.promised == pytest.approx(ADMITTED)
    late = asyncio.ensure_future(places.take(CHECKED))
    assert await waits(late)
    await places.take(PLAIN)
    begun.pop()()
    assert not await waits(late)
    for leave in (*begun, late.result()):
        leave()
    assert admission.promised == 0.0


async def test_who_gives_up_waiting_takes_no_place(admission, monkeypatch):
    """A wait for checks that is cancelled gives back its place among all."""
    monkeypatch.setattr(module, "MAX_UNDER_WAY", FIT + 1)
    places = Places(admission)
    for _ in range(FIT):
        await places.take(CHECKED)
    late = asyncio.ensure_future(places.take(CHECKED))
    assert await waits(late)
    late.cancel()
    assert not await waits(late)
    assert not await waits(asyncio.ensure_future(places.take(PLAIN)))
