"""The log: one line an event, for a console or as JSON. No secret is in it, no line break of a stranger's, and not the
same line a thousand times: of one kind ten are written in ten seconds, then how many were left out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that this task's lines are about, if there is one."""

BURST = 10
"""Lines of one kind (logger, level and message without its values) that are written in one interval."""
FOREIGN = "aiokafka"
"""Loggers of a library that logs each retry; our own lines say what that means."""
FOREIGN_BURST = 1
"""The same of these."""
INTERVAL = 10.0
"""Seconds of an interval; it begins with its first line."""
MAX_KINDS = 1_000
"""Kinds that are counted separately: messages made of values must not fill the memory."""

MAX_MESSAGE = 200
"""Characters by which messages are distinguished."""

Kind = tuple[str, int, str]

MASK = "********"
MIN_SECRET = 6
"""Characters from which on a secret is looked for: a shorter one stands in many lines by chance."""

_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/?#\s]{0,500}@")
_QUERY = re.compile(
    r"([?&;][^=&\s]{0,40}?(?:token|secret|passw|pwd|api-?_?key|access-?_?key|signature|sig|auth|credential|session)"
    r"[^=&\s]{0,40}=)[^&\s\"'#<>]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(Bearer|Basic) +[A-Za-z0-9._~+/=-]{6,}")
_PARTITION = re.compile(r"TopicPartition\(topic='([^']{0,249})', partition=([0-9]{1,9})\)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Mask:
    """Removes secrets from a text: configured ones, logins in URLs, usual carriers in URLs and headers."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: re.Pattern[str] | None = None
        self._secrets: set[str] = set()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Add secrets, in every spelling that a line may have them in."""
        for secret in secrets:
            if len(secret) >= MIN_SECRET:
                self._secrets |= {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
        if self._secrets:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._known = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if "://" in text:
            text = _USER.sub(rf"\1{MASK}@", text)
        if "=" in text:
            text = _QUERY.sub(rf"\1{MASK}", text)
        return _SCHEME.sub(rf"\1 {MASK}", text)


class Console(logging.Formatter):
    """For people: time, level, logger, message, and the request that it is about."""

    def __init__(self, mask: Mask) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the stack of an error."""
        line = f"{self.formatTime(record)} {record.levelname:<7} {record.name}: {_plain(_text(record))}"
        if (subject := request_id.get()) is not None:
            line += f" (request {_plain(subject)})"
        return self._mask("\n".join([line, *_stack(self, record)]))


class Json(logging.Formatter):
    """For machines: an object a line with `time`, `level`, `logger`, `message`; `request_id` and `error` if any."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        members: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._mask(_text(record)),
        }
        if (subject := request_id.get()) is not None:
            members["request_id"] = self._mask(subject)
        if stack := _stack(self, record):
            kind, error = record.exc_info[:2] if record.exc_info else (None, None)
            error_of = {"type": kind.__name__, "message": self._mask(str(error))} if kind else {}
            members["error"] = {**error_of, "stack": self._mask("\n".join(stack))}
        return json.dumps(members, ensure_ascii=False)


def _text(record: logging.LogRecord) -> str:
    """Return a line's text, partitions in it as we name them ourselves, not as Python does."""
    text = record.getMessage()
    return _PARTITION.sub(r"\1-\2", text) if "TopicPartition(" in text else text


def _stack(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    return [*parts, record.stack_info] if record.stack_info else parts


def _plain(text: str) -> str:
    """Return a text on one line: foreign text must not look like lines of ours."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
    """A filter for a handler. `report` writes the line with the number of lines left out; CRITICAL always passes.

    Thread-safe, as handlers must be.
    """

    def __init__(
        self, report: Callable[[logging.LogRecord], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._report = report
        self._clock = clock
        self._intervals: dict[Kind, _Interval] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        if record.levelno >= logging.CRITICAL:
            return True
        kind = record.name, record.levelno, str(record.msg)[:MAX_MESSAGE]
        with self._lock:
            over = self._over() if len(self._intervals) >= MAX_KINDS else self._over(kind)
            passes = self._count(kind, record)
        self._report_left_out(over)
        return passes

    def close(self) -> None:
        """Report all lines left out that were not reported yet."""
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
        interval.first = interval.first or _safe_text(record)
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


def _safe_text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  its values do not fit: the handler reports that for lines that are written
        return str(record.msg)


STYLES = {"console": Console, "json": Json}
"""What `MILLRACE_LOG_FORMAT` may be."""


def _matters(record: logging.LogRecord) -> bool:
    """Return whether a line is worth reading: connections that aiokafka leaves open close when they are collected."""
    return not (record.name == "asyncio" and str(record.msg).startswith("Unclosed AIOKafkaConnection"))


class _Stream(logging.StreamHandler[TextIO]):
    """Writes to a stream what the flood gate lets through."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._gate = FloodGate(self.emit_alone)
        self.addFilter(_matters)
        self.addFilter(self._gate)

    def emit_alone(self, record: logging.LogRecord) -> None:
        """Write a line past the gate, without a request id."""
        self.acquire()
        try:
            Context().run(self.emit, record)
        finally:
            self.release()

    def close(self) -> None:
        """Report what was left out."""
        self._gate.close()
        super().close()


def setup(level: str, style: str = "console", secrets: Iterable[str] = (), stream: TextIO | None = None) -> Mask:
    """Log to stderr (or `stream`) from `level` on, in one of STYLES; warnings of Python's are lines, too.

    Returns the mask, to which more secrets may be added later.
    """
    mask = Mask(secrets)
    handler = _Stream(stream or sys.stderr, STYLES[style](mask))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    return mask
