"""An idle worker wakes up seldom: timers end together, and Faust's services wait without tasks."""

from __future__ import annotations

import asyncio

import pytest

from streams import ticks
from streams.kafka.quiet import Monitor, Quiet

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


@pytest.mark.parametrize(
    ("now", "seconds", "pause"),
    [(100.0, 1.0, 1.0), (100.001, 1.0, 1.099), (100.099, 0.5, 0.501), (4.1, 0.1, 0.1), (4.101, 0.1, 0.199)],
)
def test_a_pause_ends_at_a_tick(now, seconds, pause):
    """Never before so many seconds, and less than a tick after them."""
    assert ticks.until_tick(now, seconds) == pytest.approx(pause)


async def test_sleeps_that_begin_at_different_times_end_together(monkeypatch):
    """Two of half a second, one begun 30 ms later, end at the same moment; a short one is not made longer."""
    loop, slept = asyncio.get_running_loop(), []
    now = [1_000.01]

    async def nap(seconds):
        slept.append(now[0] + seconds)

    monkeypatch.setattr(loop, "time", lambda: now[0])
    monkeypatch.setattr(asyncio, "sleep", nap)
    await ticks.sleep(0.5)
    now[0] += 0.03
    await ticks.sleep(0.5)
    await ticks.sleep(0.02)
    assert slept == pytest.approx([1_000.6, 1_000.6, 1_000.06])


class Sleeper(Quiet):
    """A service that does nothing."""


async def test_a_service_sleeps_until_its_time_or_its_stop():
    """As mode's own does, without a task of its own."""
    service = Sleeper()
    await service.start()
    await asyncio.wait_for(service.sleep(0.001), PATIENCE)
    before = len(asyncio.all_tasks())
    sleeping = asyncio.create_task(service.sleep(1_000))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before + 1
    assert not sleeping.done()
    await service.stop()
    await asyncio.wait_for(sleeping, PATIENCE)


async def test_fausts_monitor_samples_nothing():
    """Its task ends at once, and the monitor lives on."""
    monitor = Monitor()
    await asyncio.wait_for(Monitor._sampler(monitor), PATIENCE)
    async with monitor:
        await asyncio.sleep(0)
        assert not monitor.crashed
