"""The rows of each table: their fields, and how partial rows, one a results partition, are merged into a whole one.

answers    by key: the latest result
hosts      by host:port: answers by outcome, cache states, latency, bytes, last error, last seen
outcomes   by minute: answers by outcome, cache states, latency, bytes
checks     by check: runs, failures, time

Pure functions. Merging is associative and commutative, so partial rows may be merged in any order, and in steps.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, TypeAlias

from models import strictjson
from models.histogram import BOUNDS
from models.moment import iso

Row: TypeAlias = dict[str, Any]

RESULT = b',"result":'
"""Comes after the head of a stored answer."""
MICRO = 6
"""Digits of seconds that are kept: sums of whole microseconds come out the same in any order."""


def merge(table: str, rows: Iterable[Row]) -> Row:
    """Merge the partial rows of one key; unreadable ones count only if there is no other.

    Raises ValueError for no rows, KeyError for an unknown table.
    """
    parts = list(rows)
    if not parts:
        msg = "no rows to merge"
        raise ValueError(msg)
    return reduce(_MERGERS[table], [row for row in parts if "unreadable" not in row] or parts[:1])


def _answers(one: Row, other: Row) -> Row:
    return max(one, other, key=lambda row: (row["at"], row["partition"], row["offset"]))


def _hosts(one: Row, other: Row) -> Row:
    row = _counted(one, other) | _named(str(one["host"])) | {"last_seen": max(one["last_seen"], other["last_seen"])}
    errors = [each["last_error"] for each in (one, other) if "last_error" in each]
    if errors:
        row["last_error"] = max(errors, key=lambda error: (error["at"], error["id"], sorted(error.items())))
    return row


def _outcomes(one: Row, other: Row) -> Row:
    return _counted(one, other) | {"minute": one["minute"]}


def _checks(one: Row, other: Row) -> Row:
    return {
        "name": one["name"],
        "runs": one["runs"] + other["runs"],
        "failures": one["failures"] + other["failures"],
        "seconds": round(one["seconds"] + other["seconds"], MICRO),
        "slowest_ms": max(one["slowest_ms"], other["slowest_ms"]),
        "last_seen": max(one["last_seen"], other["last_seen"]),
    }


def _counted(one: Row, other: Row) -> Row:
    latency, added = one["latency"], other["latency"]
    return {
        "answers": _sum(one["answers"], other["answers"]),
        "cache": _sum(one["cache"], other["cache"]),
        "latency": {
            "le": latency["le"],
            "counts": [a + b for a, b in zip(latency["counts"], added["counts"], strict=True)],
            "sum": round(latency["sum"] + added["sum"], MICRO),
        },
        "bytes": one["bytes"] + other["bytes"],
    }


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted(one.keys() | other.keys())}


_MERGERS: dict[str, Callable[[Row, Row], Row]] = {
    "answers": _answers,
    "hosts": _hosts,
    "outcomes": _outcomes,
    "checks": _checks,
}


def decode(table: str, partition: int, key: bytes, stored: bytes, heads: bool) -> Row:  # noqa: FBT001
    """Return the row that is stored under a key; `unreadable` if something else wrote it. `heads` leaves the result
    out.
    """
    try:
        if heads and table == "answers" and (cut := stored.find(RESULT)) >= 0:
            stored = stored[:cut] + b"}"
        row = (_decode if heads else _decode_whole)(strictjson.well_formed(stored).decode())
        return _DECODERS[table](partition, key, row)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"unreadable": True, "partition": partition, **key_fields(key)}


def _answer_row(partition: int, key: bytes, stored: Row) -> Row:
    kept = {name: stored[name] for name in _ANSWER_FIELDS if name in stored}
    return {**key_fields(key), **kept, "at": iso(stored["at"]), "partition": partition}


def _named(host: str) -> Row:
    """Return the name of a host's row, and the source that it is of, if it is of one: `h:443 (prices)`."""
    kind, _, function = host.partition("source ")
    if not kind and function:
        return {"host": host, "source": function}
    _, opening, source = host.partition(" (")
    return {"host": host, "source": source.removesuffix(")")} if opening else {"host": host}


def _host_row(partition: int, key: bytes, stored: Row) -> Row:  # noqa: ARG001
    row = {**_named(key.decode()), **_counted_row(stored), "last_seen": iso(stored["at"])}
    if "last_error" in stored:
        row["last_error"] = stored["last_error"] | {"at": iso(stored["last_error"]["at"])}
    return row


def _outcome_row(partition: int, key: bytes, stored: Row) -> Row:  # noqa: ARG001
    return {"minute": key.decode(), **_counted_row(stored)}


def _check_row(partition: int, key: bytes, stored: Row) -> Row:  # noqa: ARG001
    return {
        "name": key.decode(),
        "runs": stored["runs"],
        "failures": stored["failures"],
        "seconds": stored["micros"] / 1e6,
        "slowest_ms": stored["slowest"] / 1000,
        "last_seen": iso(stored["at"]),
    }


def _counted_row(stored: Row) -> Row:
    answers, cache, counts = stored["answers"], stored["cache"], stored["counts"]
    if len(counts) != len(BOUNDS) + 1 or sum(counts) != sum(answers.values()) or sum(cache.values()) < 0:
        msg = "the counts contradict each other"
        raise ValueError(msg)
    return {
        "answers": answers,
        "cache": cache,
        "latency": {"le": list(BOUNDS), "counts": counts, "sum": stored["micros"] / 1e6},
        "bytes": stored["bytes"],
    }


def key_fields(key: bytes) -> Row:
    """Return the field of a row that holds its key: `key`, or `key_base64` for a key that is not UTF-8."""
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key_base64": base64.b64encode(key).decode()}


def encode_key(key: bytes) -> str:
    """Return a key as a URL has it: base64 in its URL-safe alphabet, without padding."""
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def decode_key(text: str) -> bytes:
    """Return the key that base64 of either alphabet stands for, with or without padding. Raises ValueError."""
    bare = text.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _as_written(digits: str) -> float | None:
    try:
        return strictjson.as_written(digits)
    except ValueError:
        return None


_ANSWER_FIELDS = (
    "keyed", "id", "outcome", "cache", "status", "url", "source", "host", "fetched_at", "elapsed_ms", "attempts",
    "error", "offset", "bytes", "result", "truncated",
)  # fmt: skip
_decode = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None).decode
_decode_whole = json.JSONDecoder(
    parse_float=_as_written, parse_int=strictjson.int_as_written, parse_constant=lambda _: None
).decode
_DECODERS: dict[str, Callable[[int, bytes, Row], Row]] = {
    "answers": _answer_row,
    "hosts": _host_row,
    "outcomes": _outcome_row,
    "checks": _check_row,
}
