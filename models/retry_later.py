"""Trying again later: after which delays, in which topics, and the headers of what waits there.

A record that waits in a delay topic is a dead letter with three headers more, so whatever reads dead letters reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from models.dead_letter import DLQ

MAX_DELAY = 7 * 86_400
"""Seconds of the longest delay: 7 days."""
MAX_DELAYS = 16
"""Tries that `retry_later` may list."""
TRIES = DLQ + "later.tries"
"""Which later try of the request this record waits for: 1 is the first."""
SINCE = DLQ + "later.since"
"""When the request failed first, in milliseconds since the epoch."""
DUE = DLQ + "later.due"
"""When the next try is due, in milliseconds since the epoch."""
KEPT = 7 * 86_400
"""Seconds beyond its delay for which a delay topic keeps a record, at least: for as long workers may be away."""
RESERVED = "later"
"""No route's name where anything is tried later: its group would be that of the delay topics."""

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DELAY = re.compile(r"([1-9][0-9]{0,8})([smhd])")

Headers = Sequence[tuple[str, bytes | None]]


class RetryLater(NamedTuple):
    """What a source or route says: `delays` in seconds, one a try; whether failures before the last try are published
    as interim results.
    """

    delays: tuple[int, ...] = ()
    interim_results: bool = False


NEVER = RetryLater()


def parse_delay(text: str) -> int:
    """Return the seconds of `90s`, `1m`, `10m`, `1h` or `2d`. Raises ValueError."""
    found = _DELAY.fullmatch(text)
    if found is None:
        msg = f"{text[:60]!r} is not a delay: use a whole number with s, m, h or d, such as '10m'"
        raise ValueError(msg)
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > MAX_DELAY:
        msg = f"{text!r} is longer than 7 days"
        raise ValueError(msg)
    return seconds


def delay_topic(group: str, seconds: int) -> str:
    """Return the topic where a group's records wait for so many seconds."""
    return f"{group}-later-{seconds}s"


def retention(delay: int) -> dict[str, str]:
    """Return the settings of a delay topic that is made."""
    return {"cleanup.policy": "delete", "retention.ms": str((delay + KEPT) * 1000)}


def is_delay_topic(group: str, name: str) -> bool:
    """Whether a topic's name is one that `delay_topic` returns for a group."""
    return re.fullmatch(rf"{re.escape(group)}-later-[0-9]+s", name) is not None


def delay_topics(group: str, delays: Iterable[int]) -> dict[str, int]:
    """Return a group's delay topics, shortest delay first, each with its seconds."""
    return {delay_topic(group, seconds): seconds for seconds in sorted(set(delays))}


def next_delay(policy: RetryLater, headers: Headers) -> int | None:
    """Return the seconds until the next try of a record with these headers; None if no try is left."""
    tries = tries_of(headers)
    return policy.delays[tries] if tries < len(policy.delays) else None


def tries_of(headers: Headers) -> int:
    """Return how many later tries a record has had."""
    return _number(headers, TRIES) or 0


def later_headers(headers: Headers, now: float, due: float) -> list[tuple[str, bytes]]:
    """Return what a delayed record has beside a dead letter's headers; `headers` are those of the try that failed."""
    since = _number(headers, SINCE) or int(now * 1000)
    return [
        (TRIES, b"%d" % (tries_of(headers) + 1)),
        (SINCE, b"%d" % since),
        (DUE, b"%d" % int(due * 1000)),
    ]


def due_of(headers: Headers, appended_ms: int, delay: int) -> float:
    """Return when a delayed record is due, in epoch seconds: never later than its delay after it was written."""
    latest = appended_ms / 1000 + delay
    due = _number(headers, DUE)
    return latest if due is None else min(due / 1000, latest)


def _number(headers: Headers, name: str) -> int | None:
    content = next((content for each, content in headers if each == name), None)
    text = "" if content is None else content.decode(errors="replace")
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 15 else None  # noqa: PLR2004  milliseconds
