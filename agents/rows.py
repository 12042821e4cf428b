"""What a row of each table means: its fields, and how partial rows, one a results partition, make a whole one.

answers    by key: the latest result
hosts      by host:port: answers by outcome, cache states, latency, bytes, last error, last seen
outcomes   by minute: answers by outcome, cache states, latency, bytes
checks     by check: runs, failures, time

Pure functions. Merging is associative and commutative, so partial rows may be merged in any order, also by others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

TABLES = ("answers", "hosts", "outcomes", "checks")
MICRO = 6
"""Digits of seconds that are kept: sums of whole microseconds come out the same in any order."""


def merge(table: str, rows: Iterable[Row]) -> Row:
    """Make one row of the partial rows of one key. Raises ValueError for no rows, KeyError for an unknown table."""
    parts = list(rows)
    if not parts:
        msg = "nothing to merge"
        raise ValueError(msg)
    return reduce(_MERGERS[table], parts)


def _answers(one: Row, other: Row) -> Row:
    return max(one, other, key=lambda row: (row["at"], row["partition"], row["offset"]))


def _hosts(one: Row, other: Row) -> Row:
    row = _counted(one, other) | {"host": one["host"], "last_seen": max(one["last_seen"], other["last_seen"])}
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
