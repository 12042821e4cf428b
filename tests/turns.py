"""How long one turn of the event loop may take: CPU time of its thread, on a machine at rest.

A machine that does other things as well takes longer for the same work (caches, hyper-threads), so the bound grows by
as much as a fixed piece of work does, measured beside it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

LONGEST = 0.02
"""Seconds that one step of the event loop's thread may take for any input that the limits let in."""
REFERENCE = 0.0040
"""CPU seconds that `_work` takes on the 2 cores of CI at rest."""
RUNS = 5
"""How often `least` runs its work."""
_TEXT = json.dumps([{"n": number, "s": f"text {number}", "f": number / 7} for number in range(1500)])


FOLLOWED = 5.0 if sys.gettrace() is not None else 1.0
"""How many times longer Python code may take because coverage follows it; what C does takes as long as ever."""


def _work() -> None:
    for _ in range(2):
        json.dumps(json.loads(_TEXT))


def allowed() -> float:
    """Return the seconds that a turn may take now."""
    return LONGEST * slowness(time.thread_time)


def slowness(clock: Callable[[], float] = time.monotonic) -> float:
    """Return how many times longer than on a machine at rest a piece of work takes now, by a clock; at least 1."""
    times = []
    for _ in range(3):
        began = clock()
        _work()
        times.append(clock() - began)
    return max(1.0, sorted(times)[1] / REFERENCE)


def begin() -> float:
    """Return this thread's CPU time, to measure what comes now: without the collector's walk through what other tests
    have left, which takes 0.3 s, and is not there in a worker.
    """
    gc.freeze()
    return time.thread_time()


def least(work: Callable[[], Any]) -> float:
    """Return the least CPU seconds of this thread that some runs of work took: what else the machine does only adds.

    Work that remembers what it found must forget it first, or only its first run is work.
    """
    took = []
    for _ in range(RUNS):
        began = begin()
        work()
        took.append(time.thread_time() - began)
    return min(took)


async def longest_turn(work: Awaitable[Any]) -> tuple[Any, float]:
    """Return what work returns or raises, and the most CPU seconds of this thread between two turns of the loop."""
    gc.freeze()  # what other tests have left is nothing that a worker's collector would walk
    longest, last, ended = 0.0, time.thread_time(), False

    async def tick() -> None:
        nonlocal longest, last
        while not ended:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    try:
        [result] = await asyncio.gather(work, return_exceptions=True)
    finally:
        ended = True
        await ticking
        gc.unfreeze()
    return result, longest
