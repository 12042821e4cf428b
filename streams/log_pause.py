"""Lines of the log that are written once a minute: an operator needs one, however often it happens."""

from __future__ import annotations

import time
from collections.abc import Hashable

LOG_EVERY = 60.0
"""Seconds between two lines about the same thing."""


class LogPause:
    """The pauses of one kind of line; `until` has their ends on the monotonic clock, by what a line is about."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until: dict[Hashable, float] = {}

    def is_over(self, key: Hashable) -> bool:
        """Whether a line about `key` may be written; if so, the next pause begins."""
        now = time.monotonic()
        if now < self.until.get(key, 0.0):
            return False
        self.until[key] = now + LOG_EVERY
        return True
