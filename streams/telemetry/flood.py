"""When everything fails at once, ten lines say as much as ten thousand: the rest is left out, and their number told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

BURST = 10
"""Lines of one kind (logger, level and message before its values are put in) that are written in one interval."""
FOREIGN = "aiokafka"
"""Loggers of a library that tries again, and says so each time; what that means, our own lines say."""
FOREIGN_BURST = 1
"""The same of these."""
INTERVAL = 10.0
"""Seconds of an interval; it begins with its first line."""
MAX_KINDS = 1_000
"""Kinds that are told apart: messages that are made of values must not fill the memory."""

MAX_MESSAGE = 200
"""Characters by which messages are told apart."""

Kind = tuple[str, int, str]


class _Interval:
    __slots__ = ("began", "first", "left_out", "written")

    def __init__(self, began: float) -> None:
        self.began = began
        self.written = self.left_out = 0
        self.first = ""


class _LeftOut(NamedTuple):
    kind: Kind
    left_out: int
    first: str


class FloodGate(logging.Filter):
    """A filter for a handler. `tell` writes the line that says how many were left out; what is critical always passes.

    Thread-safe, as handlers must be.
    """

    def __init__(self, tell: Callable[[logging.LogRecord], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._report = tell
        self._clock = clock
        self._intervals: dict[Kind, _Interval] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written."""
        if record.levelno >= logging.CRITICAL:
            return True
        kind = record.name, record.levelno, str(record.msg)[:MAX_MESSAGE]
        with self._lock:
            over = self._over() if len(self._intervals) >= MAX_KINDS else self._over(kind)
            passes = self._count(kind, record)
        self._report_left_out(over)
        return passes

    def close(self) -> None:
        """Tell of all that was left out and not told of."""
        with self._lock:
            over = self._over(everything=True)
            if self._timer is not None:
                self._timer.cancel()
        self._report_left_out(over)

    def _count(self, kind: Kind, record: logging.LogRecord) -> bool:
        interval = self._intervals.get(kind)
        if interval is None:
            if len(self._intervals) >= MAX_KINDS:
                return True
            interval = self._intervals[kind] = _Interval(self._clock())
        if interval.written < (FOREIGN_BURST if record.name.startswith(FOREIGN) else BURST):
            interval.written += 1
            return True
        interval.first = interval.first or _text(record)
        interval.left_out += 1
        if self._timer is None:
            self._timer = threading.Timer(INTERVAL, self._sweep)
            self._timer.daemon = True
            self._timer.start()
        return False

    def _over(self, *kinds: Kind, everything: bool = False) -> list[_LeftOut]:
        """Forget the intervals (default: any) that are over; returns those that left something out."""
        now = self._clock()
        over = [
            (kind, interval)
            for kind in kinds or list(self._intervals)
            if (interval := self._intervals.get(kind)) and (everything or now - interval.began >= INTERVAL)
        ]
        for kind, _ in over:
            del self._intervals[kind]
        return [_LeftOut(kind, interval.left_out, interval.first) for kind, interval in over if interval.left_out]

    def _sweep(self) -> None:
        with self._lock:
            over = self._over()
            self._timer = None
            if any(interval.left_out for interval in self._intervals.values()):
                self._timer = threading.Timer(INTERVAL / 2, self._sweep)
                self._timer.daemon = True
                self._timer.start()
        self._report_left_out(over)

    def _report_left_out(self, over: list[_LeftOut]) -> None:
        for (name, level, _), left_out, first in over:
            line = "%d more lines like this were left out: %s"
            self._report(logging.LogRecord(name, level, "", 0, line, (left_out, first), None))


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  its values do not fit: the handler says so of those that are written
        return str(record.msg)
