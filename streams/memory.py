"""The process's memory: what the garbage collector looks at, and what the system gets back.

Neither Python nor glibc gives back what it has once had: cycles that have grown old wait for the oldest generation,
which is hardly ever looked at, and free pages between used ones stay. So what a burst took, of large documents or a
backlog, would count against the container's limit for ever.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from models.large import trim

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (50_000, 20, 100)
"""Allocations, and collections of the younger generation, between two looks at each generation."""
LOOK_EVERY = 30.0
"""Seconds between two looks at how large the process is."""
GROWN, GROWN_BY = 32 << 20, 0.25
"""Bytes, and part of its size, by which it must have grown since it last collected: both of them."""
WORTH_IT = 0.1
"""Part of what it has grown by that has to come back."""


def settle() -> None:
    """Keep the garbage collector from walking what lives as long as the process, and let it look seldom at the rest.

    Requests and answers hardly make cycles; the default thresholds cost a hit 2.3 µs and a miss 37 µs of CPU (bench/).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def resident() -> int:
    """Return the bytes of memory in use; where the system does not report them, the peak."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


async def keep_level(pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Give back what is free, for ever: pages while the process is larger than it was, and garbage once it has grown.

    It stands still meanwhile: 0.1 to 0.4 s for garbage among a million objects, 30 ms for 150 MiB of pages. If little
    came of a collection, it must grow by twice as much for the next.
    """
    least = level = resident()
    times = 1
    while True:
        await pause(LOOK_EVERY)
        now = resident()
        has_grown = now - level >= times * max(GROWN, level * GROWN_BY)
        if has_grown:
            gc.collect()
        if has_grown or now - least >= GROWN:  # what a cache dropped is free without any growth
            trim()
        after = resident()
        if has_grown:
            times = 1 if now - after >= (now - level) * WORTH_IT else times * 2
        level = after if has_grown else min(level, after)
        least = min(least, after)
        logger.debug("memory: %d MiB, of them %d MiB given back", now >> 20, (now - after) >> 20)
