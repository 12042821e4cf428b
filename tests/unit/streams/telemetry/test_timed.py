"""`@timed` on every kind of function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging

import pytest

from streams.telemetry import timed as module
from streams.telemetry.timed import timed, timings


@pytest.fixture(autouse=True)
def fresh():
    """No timings of others, before or after."""
    timings.clear()
    yield
    timings.clear()


def counted():
    return {key: histogram.count for key, histogram in timings.items()}


@timed
def double(value: int, *, times: int = 2) -> int:
    """Multiply."""
    return value * times


@timed(name="slow")
async def slow(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "done"


class Thing:
    @timed
    def method(self, value):
        return self, value

    @timed
    async def waits(self):
        return self

    @timed
    @staticmethod
    def static(value):
        return value

    @timed
    @classmethod
    def made(cls):
        return cls()

    @staticmethod
    @timed
    def inner(value):
        return value


async def test_it_is_the_same_function_to_its_callers():
    """Result, signature, name, docstring and kind are those of the function, and the original is there."""
    assert double(2, times=3) == 6
    assert await slow(0) == "done"
    assert str(inspect.signature(double)) == "(value: 'int', *, times: 'int' = 2) -> 'int'"
    assert (double.__name__, double.__doc__, slow.__doc__) == ("double", "Multiply.", "Wait.")
    assert inspect.iscoroutinefunction(slow)
    assert not inspect.iscoroutinefunction(double)
    assert double.__wrapped__(3) == 6
    assert counted() == {(f"{__name__}.double", "returned"): 1, ("slow", "returned"): 1}


async def test_methods_of_every_kind_are_measured():
    """Methods know their self and class, static and class methods stay what they are, in either order."""
    thing = Thing()
    assert thing.method(1) == (thing, 1)
    assert await thing.waits() is thing
    assert (Thing.static(1), thing.static(2), Thing.inner(3)) == (1, 2, 3)
    assert type(Thing.made()) is Thing
    assert set(counted()) == {(f"{__name__}.Thing.{name}", "returned")
                              for name in ("method", "waits", "static", "made", "inner")}  # fmt: skip


async def test_it_measures_until_the_end():
    """An async function's time holds what it waited for; one that calls another holds the other's."""

    @timed(name="outer")
    async def outer():
        await slow(0.02)
        await slow(0.02)

    await outer()
    assert timings["slow", "returned"].sum >= 0.039
    assert timings["outer", "returned"].sum >= timings["slow", "returned"].sum
    assert counted() == {("slow", "returned"): 2, ("outer", "returned"): 1}


async def test_what_raises_is_measured_too_and_raises():
    """The error comes through as it was, a cancellation included, and is counted apart."""

    @timed(name="fails")
    def fails():
        raise KeyError("k")

    with pytest.raises(KeyError, match="k"):
        fails()
    task = asyncio.create_task(slow(60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counted() == {("fails", "raised"): 1, ("slow", "raised"): 1}


async def test_calls_at_once_do_not_get_mixed_up():
    """Concurrent calls of one function are measured each for itself."""
    await asyncio.gather(*(slow(0.03) for _ in range(5)))
    assert timings["slow", "returned"].sum > 0.14
    assert counted() == {("slow", "returned"): 5}


def test_the_log_has_a_line_a_call(caplog):
    """One line at the level asked for, in the logger of the function's module, saying what was raised."""

    @timed(name="loud", level=logging.WARNING)
    def loud(wrong):
        if wrong:
            raise ValueError

    with caplog.at_level(logging.INFO):
        loud(False)
        double(1)  # at DEBUG
        with pytest.raises(ValueError):
            loud(True)
    first, second = caplog.records
    assert first.name == __name__
    assert (first.levelname, first.getMessage()[:10], first.getMessage()[-3:]) == ("WARNING", "loud took ", " ms")
    assert second.getMessage().endswith(" and raised ValueError")


def test_what_is_no_function_is_refused():
    """Generators, classes and values cannot be measured by their call, and say so when they are decorated."""

    def generator():
        yield 1

    async def agen():
        yield 1

    for wrong in (generator, agen, Thing, 5):
        with pytest.raises(TypeError, match="@timed"):
            timed(wrong)


def test_a_partial_is_a_function():
    """Callables without a name of their own are measured, too."""
    assert timed(functools.partial(double.__wrapped__, times=5))(2) == 10
    assert counted() == {("functools.partial", "returned"): 1}


def test_its_cost_is_small():
    """A timed call costs a few microseconds: it may stand on what is called a thousand times a second."""
    import timeit

    def nothing():
        pass

    measured = timed(nothing)
    assert min(timeit.repeat(measured, number=1000, repeat=5)) < 0.05
    assert module.timings
