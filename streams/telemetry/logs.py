"""The log: one line an event, for a console or as JSON. No secret is in it, no line break of a stranger's, and not the
same line a thousand times (flood.py).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from contextvars import Context, ContextVar
from typing import Any, TextIO
from urllib.parse import quote

from streams.telemetry.flood import FloodGate

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""What the lines of this task are about, if they are about one request."""

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
    """Takes secrets out of a text: the known ones, logins in URLs, and what URLs and headers usually carry them as."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: re.Pattern[str] | None = None
        self._secrets: set[str] = set()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Know more secrets, in every spelling that a line may have them in."""
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
            told = {"type": kind.__name__, "message": self._mask(str(error))} if kind else {}
            members["error"] = {**told, "stack": self._mask("\n".join(stack))}
        return json.dumps(members, ensure_ascii=False)


def _text(record: logging.LogRecord) -> str:
    """Return a line's text, partitions in it as we name them ourselves, not as Python does."""
    text = record.getMessage()
    return _PARTITION.sub(r"\1-\2", text) if "TopicPartition(" in text else text


def _stack(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    return [*parts, record.stack_info] if record.stack_info else parts


def _plain(text: str) -> str:
    """Return a text on one line: what a stranger sends must not look like lines of ours."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


STYLES = {"console": Console, "json": Json}
"""What `MILLRACE_LOG_FORMAT` may be."""


def _matters(record: logging.LogRecord) -> bool:
    """Say whether a line is worth reading: a connection that aiokafka left open is closed by being forgotten."""
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
        """Write a line past the gate, about no request."""
        self.acquire()
        try:
            Context().run(self.emit, record)
        finally:
            self.release()

    def close(self) -> None:
        """Tell of what was left out."""
        self._gate.close()
        super().close()


def setup(level: str, style: str = "console", secrets: Iterable[str] = (), stream: TextIO | None = None) -> Mask:
    """Log to stderr (or `stream`) from `level` on, in one of STYLES; warnings of Python's are lines, too.

    Returns the mask, which may be told of more secrets later.
    """
    mask = Mask(secrets)
    handler = _Stream(stream or sys.stderr, STYLES[style](mask))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    return mask
