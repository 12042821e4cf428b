"""What the pages show of each table: which fields, in which order, under which title, written how."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from streams.web.problems import Problem

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """`field` is what the API sorts by, empty where it cannot; `kind` names the way of writing in macros.html."""

    title: str
    name: str
    kind: str = "text"
    sortable: bool = True


KEYS = {"answers": "key", "hosts": "host", "outcomes": "minute", "checks": "name"}
"""The field of each table's rows that holds the key."""
DEFAULT_SORT = {"answers": "-at", "hosts": "host", "outcomes": "-minute", "checks": "name"}
_LATENCIES = tuple(Column(title, f"latency.{title}", "quantile", sortable=False) for title in ("p50", "p95", "p99"))
COLUMNS: Mapping[str, Sequence[Column]] = {
    "answers": (
        Column("Key", "key", "key"),
        Column("Outcome", "outcome", "verdict"),
        Column("Cache", "cache"),
        Column("Status", "status", "count"),
        Column("Took", "elapsed_ms", "ms"),
        Column("Host", "host", "code"),
        Column("Answered", "at", "time"),
    ),
    "hosts": (
        Column("Host", "host", "key"),
        Column("Answers", "answers", "sum", sortable=False),
        Column("ok", "answers", "share", sortable=False),
        *_LATENCIES,
        Column("Bytes", "bytes", "size"),
        Column("Last seen", "last_seen", "time"),
    ),
    "outcomes": (
        Column("Minute", "minute", "key"),
        Column("Answers", "answers", "sum", sortable=False),
        Column("ok", "answers", "share", sortable=False),
        *_LATENCIES,
        Column("Bytes", "bytes", "size"),
    ),
    "checks": (
        Column("Check", "name", "key"),
        Column("Runs", "runs", "count"),
        Column("Failures", "failures", "count"),
        Column("Slowest", "slowest_ms", "ms"),
        Column("Time spent", "seconds", "seconds"),
        Column("Last seen", "last_seen", "time"),
    ),
}


def columns_of(table: str, rows: Sequence[Row]) -> Sequence[Column]:
    """Return the columns of a table; of one we do not know, its own plain fields."""
    if table in COLUMNS:
        return COLUMNS[table]
    plain = {name: None for row in rows for name, value in row.items() if not isinstance(value, dict | list)}
    return [Column(name, name) for name in plain]


def key_text(table: str, row: Row) -> str:
    """Return a row's key as it is shown; one that is no text in base64."""
    name = KEYS.get(table, "key")
    return str(row.get(name, row.get("key_base64", row.get("key", ""))))


def address(table: str, row: Row) -> str:
    """Return a row's permanent address. A key that is no text, or that a browser would take for a folder, in base64."""
    text = key_text(table, row)
    if "key_base64" in row:
        return f"/tables/{quote(table, safe='')}/{quote(text, safe='')}?encoding=base64"
    if text in ("", ".", ".."):
        coded = base64.b64encode(text.encode()).decode()
        return f"/tables/{quote(table, safe='')}/{quote(coded, safe='')}?encoding=base64"
    return f"/tables/{quote(table, safe='')}/{quote(text, safe='')}"


def decoded(text: str) -> bytes:
    """Return the key that base64 in an address stands for, with or without its padding. Raises Problem."""
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Problem(HTTPStatus.NOT_FOUND, "the key is no base64") from None
