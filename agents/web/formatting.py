"""How the pages write values: with units, and `unknown` for unknown ones, never 0."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from agents.cluster.cluster_status import MOST
from models import strictjson

UNKNOWN = "unknown"
_MINUTE = 60
_HOUR = 3600
_DAY = 86_400
_SPANS = ((_MINUTE, "min", 1, "s", _HOUR), (_HOUR, "h", _MINUTE, "min", _DAY), (_DAY, "d", _HOUR, "h", 10 * _DAY))
"""A unit in seconds and its name, the next smaller, and the seconds from which on the next larger takes over."""
_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_WHOLE = 100
"""From here on a number is written without decimals."""
_FINE = 10
_EPSILON = 1e-9

_SEVERITIES = {
    "ok": "ok",
    "passed": "ok",
    "dropped": "ok",
    "unreachable": "bad",
    "timeout": "bad",
    "upstream_error": "bad",
    "overloaded": "bad",
}


def severity(outcome: str) -> str:
    """Return how an outcome looks: `ok`, `bad` (an upstream or this service failed) or `warn` (the request or its
    document was invalid).
    """
    return _SEVERITIES.get(outcome, "warn")


def _is_figure(value: Any) -> bool:
    """Whether a value, perhaps of somebody else's record, is a number that can be written."""
    return isinstance(value, int | float) and abs(value) < MOST


def number(value: Any) -> str:
    """Write a count: 12,345; a rate under 100 with one decimal."""
    if not _is_figure(value):
        return UNKNOWN
    if isinstance(value, float) and value < _WHOLE and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}"


def duration(seconds: Any) -> str:
    """Write seconds: 0.4 ms, 12 ms, 1.24 s, 3 min 5 s, 2 h 4 min, 3 d 2 h."""
    if not _is_figure(seconds):
        return UNKNOWN
    if seconds < 1:
        return f"{_three(seconds * 1000)} ms"
    if seconds < _MINUTE:
        return f"{_three(seconds)} s"
    for unit, name, lower, lower_name, end in _SPANS:
        if seconds < end:
            whole, rest = divmod(int(seconds), unit)
            return f"{whole} {name} {rest // lower} {lower_name}"
    return f"{int(seconds // _DAY):,} d"


def _three(value: float) -> str:
    """Write a number with three digits, decimals included."""
    if value >= _WHOLE:
        return f"{value:.0f}"
    return f"{round(value, 1 if value >= _FINE else 2):g}"


def milliseconds(value: Any) -> str:
    """Write a result's `elapsed_ms`."""
    return duration(value / 1000) if _is_figure(value) else UNKNOWN


def age(seconds: Any) -> str:
    """Write a duration in whole seconds: `12 s`, `3 min 5 s`."""
    if not _is_figure(seconds):
        return UNKNOWN
    return f"{int(seconds)} s" if seconds < _MINUTE else duration(seconds)


def size(value: Any) -> str:
    """Write bytes: 512 B, 1.5 KiB, 3 MiB."""
    if not _is_figure(value):
        return UNKNOWN
    amount, unit = float(value), 0
    while amount >= _STEP and unit < len(_UNITS) - 1:
        amount, unit = amount / _STEP, unit + 1
    return f"{_three(amount)} {_UNITS[unit]}" if unit else f"{int(value)} B"


def percent(share: Any) -> str:
    """Write a share of 1, rounded down, so that 100 % means all and 0 % means none: 93.4 %."""
    if not _is_figure(share):
        return UNKNOWN
    tenths = math.floor(share * 1000 + _EPSILON)
    return "<0.1 %" if share > 0 and not tenths else f"{tenths / 10:g} %"


def clock(iso: Any) -> str:
    """Write an ISO time as the time of day, in UTC; with the date when that is not today."""
    moment = _moment(iso)
    if moment is None:
        return UNKNOWN
    form = "%H:%M:%S" if moment.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%S"
    return moment.strftime(form)


def _moment(iso: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(iso)).astimezone(UTC)
    except (ValueError, OverflowError):  # the year 1, east of Greenwich
        return None


def pretty(value: Any) -> str:
    """Write JSON with indentation, its numbers as they came."""
    return strictjson.indented(value)


def inline(value: Any) -> str:
    """Write a plain JSON value in one line, a number as it came."""
    return strictjson.dumps(value, exact=True).decode()


def visible(text: str) -> str:
    """Write a key so that it is visible: unprintable or surrounded by blanks, it is quoted and escaped."""
    if text and text.isprintable() and text == text.strip():
        return text
    return '"' + "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text) + '"'


def urlpath(text: str) -> str:
    """Write text as one segment of a path."""
    return quote(text, safe="")


def nodes(value: Any, most: int) -> int:
    """Count the values inside a JSON value, up to `most`."""
    count, waiting = 0, [value]
    while waiting and count < most:
        here = waiting.pop()
        count += 1
        if isinstance(here, dict):
            waiting += here.values()
        elif isinstance(here, list):
            waiting += here
    return count
