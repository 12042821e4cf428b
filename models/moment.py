"""Times: how they are written, and which timestamps of records are credible.

A producer may write any number into a record's timestamp, such as seconds instead of milliseconds.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache

EARLIEST_MS = 1_293_840_000_000
"""The beginning of 2011, in milliseconds since the epoch: Kafka is not older."""
AHEAD_MS = 86_400_000
"""Milliseconds that a timestamp may be ahead of our clock: a day, for clocks in the wrong time zone."""


UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Seconds of the units of an age."""
_AGO = re.compile(r"([0-9]{1,9})([smhd])")


def parse_moment(text: str) -> float:
    """Return the seconds since the epoch of a time that a person gives, in ISO 8601 or as an age: `2h`.

    Raises ValueError. A time without a zone is local; none is before the epoch.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0.0, time.time() - int(ago[1]) * UNITS[ago[2]])
    try:
        return max(0.0, datetime.fromisoformat(text).astimezone().timestamp())
    except (ValueError, OverflowError):
        msg = f"invalid time {text!r}: use 2026-11-22T14:00Z (without Z: local time) or an age such as 30m, 2h, 7d"
        raise ValueError(msg) from None


def is_credible(timestamp: int, now: float) -> bool:
    """Whether a record's timestamp, in milliseconds, is credible; `now` is in seconds since the epoch."""
    return EARLIEST_MS <= timestamp <= now * 1000 + AHEAD_MS


def believed(timestamp: int, now: float) -> int:
    """Return a record's timestamp if it is credible, else now, in milliseconds."""
    return timestamp if is_credible(timestamp, now) else int(now * 1000)


def age_of(timestamp: int | None, now: float) -> float | None:
    """Return the seconds since a record's timestamp, None if it has none that is credible."""
    if timestamp is None or not is_credible(timestamp, now):
        return None
    return max(0.0, now - timestamp / 1000)


def iso(milliseconds: int) -> str:
    """Write milliseconds since the epoch as results write times: 2026-11-22T14:00:00.123Z."""
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def iso_now() -> str:
    """Return the present time, as `iso` writes it."""
    return iso(int(time.time() * 1000))


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
