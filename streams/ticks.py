"""Timers that end together: an idle process wakes up once for all of them, instead of once for each."""

from __future__ import annotations

import asyncio

TICK_MS = 100
"""Milliseconds of the loop's clock between two moments at which timers end."""
SHORTEST = 0.5
"""Seconds of sleep from which on it may last up to a tick longer."""


async def sleep(seconds: float) -> None:
    """Sleep for so long, and on to the next tick."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(until_tick(loop.time(), seconds) if seconds >= SHORTEST else seconds)


def until_tick(now: float, seconds: float) -> float:
    """Return the seconds from `now`, on the loop's clock, to the first tick after so many seconds or just then."""
    due = round((now + seconds) * 1000)
    return -(-due // TICK_MS) * TICK_MS / 1000 - now
