"""The watch over an event loop, on real loops and real stalls, with short limits."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from streams.telemetry import loop as module
from streams.telemetry.loop import LoopWatch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Limits in hundredths of a second."""
    for name, seconds in {"BEAT": 0.01, "TICK": 0.05, "STALLED": 0.1, "HOPELESS": 0.3}.items():
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr("streams.ticks.TICK_MS", 10)


def hang(seconds):
    """Hold up the loop, as a plugin might."""
    time.sleep(seconds)


async def test_lag_is_measured():
    """Each beat is counted with its lateness; a loop that was held up tells the worst."""
    async with LoopWatch() as watch:
        await asyncio.sleep(0.1)
        assert 3 <= watch.lags.count <= 10
        hang(0.06)
        await asyncio.sleep(0.02)
        assert 0.04 < watch.lag < 0.5
        assert watch.lags.sum >= watch.lag
        assert watch.stalls == 0


@pytest.mark.slow
async def test_a_stalled_loop_is_told_of_with_what_it_does(caplog):
    """Once a stall: an error with the stack of the loop's thread, and a line when the loop turns again."""
    async with LoopWatch(pytest.fail) as watch:
        await asyncio.sleep(0.02)
        hang(0.2)
        await asyncio.sleep(0.12)
    told, again = caplog.records
    assert (told.levelname, watch.stalls) == ("ERROR", 1)
    assert "time.sleep(seconds)" in told.stack_info
    assert "in hang" in told.stack_info
    assert "runs again" in again.getMessage()


@pytest.mark.slow
async def test_a_hopeless_loop_ends_the_process(caplog, monkeypatch):
    """Past the limit the process ends with 1, after a critical line with the stack; the log is closed before."""
    monkeypatch.setattr(logging, "shutdown", lambda: codes.append("closed"))
    codes = []
    async with LoopWatch(codes.append):
        await asyncio.sleep(0.02)
        hang(0.6)
    assert codes == ["closed", 1]
    assert caplog.records[-1].levelname == "CRITICAL"
    assert "in hang" in caplog.records[-1].stack_info


async def test_a_process_that_was_stopped_has_not_stalled(caplog, monkeypatch):
    """Time in which the watching thread did not run either is nobody's fault: looks are counted, not seconds."""
    monkeypatch.setattr(module, "STALLED", 0.25)
    async with LoopWatch(pytest.fail) as watch:
        await asyncio.sleep(0.02)
        hang(0.15)  # as if stopped: fewer looks than a stall takes
        await asyncio.sleep(0.02)
        assert (watch.stalls, caplog.records) == (0, [])


async def test_the_thread_ends_with_it():
    """Closing leaves neither a thread nor a timer behind."""
    async with LoopWatch() as watch:
        pass
    watch._thread.join(1)
    assert not watch._thread.is_alive()
    count = watch.lags.count
    await asyncio.sleep(0.05)
    assert watch.lags.count == count
    assert threading.current_thread() is threading.main_thread()
