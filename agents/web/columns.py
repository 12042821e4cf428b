"""Which columns the pages show of each table, and which rows the address of a page selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from agents.tables.rows import Row, encode_key
from agents.web.api.overview import SHARES
from models.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Column:
    """`name` is the field that the API sorts by, if `sortable`; `kind` names the way of writing in macros.html."""

    title: str
    name: str
    kind: str = "text"
    sortable: bool = True


KEYS = {"answers": "key", "hosts": "host", "outcomes": "minute", "checks": "name"}
"""The field of each table's rows that holds the key."""
DEFAULT_SORT = {"answers": "-at", "hosts": "host", "outcomes": "-minute", "checks": "name"}
FILTER_FIELDS = ("outcome", "host")
"""Fields that a page filters by; the API knows more."""
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
    """Return the columns of a table; those of an unknown table are its plain fields."""
    if table in COLUMNS:
        return COLUMNS[table]
    plain = {name: None for row in rows for name, value in row.items() if not isinstance(value, dict | list)}
    return [Column(name, name) for name in plain]


def key_text(table: str, row: Row) -> str:
    """Return a row's key as it is shown; one that is not text in base64."""
    name = KEYS.get(table, "key")
    return str(row.get(name, row.get("key_base64", row.get("key", ""))))


def address(table: str, row: Row) -> str:
    """Return a row's address. A key that is not text, or that a browser would take for a folder, is in base64."""
    text = key_text(table, row)
    if "key_base64" in row:
        return f"/tables/{quote(table, safe='')}/{quote(text, safe='')}?encoding=base64"
    if text in ("", ".", ".."):
        coded = encode_key(text.encode())
        return f"/tables/{quote(table, safe='')}/{quote(coded, safe='')}?encoding=base64"
    return f"/tables/{quote(table, safe='')}/{quote(text, safe='')}"


def quantile(row: Mapping[str, Any], name: str) -> float | None:
    """Return the seconds of `p50`, `p95` or `p99` of a row's latency; None if it has none of ours."""
    try:
        return Histogram.from_row(row["latency"]).quantile(SHARES[name])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class TableView:
    """What the address of a table's page selects."""

    path: str
    prefix: str
    where: list[tuple[str, str]]
    sort: str
    cursor: str

    @classmethod
    def of(cls, table: str, query: Mapping[str, str], path: str = "") -> Self:
        """Read it from an address."""
        return cls(
            path=path or f"/tables/{quote(table, safe='')}",
            prefix=query.get("prefix", ""),
            where=[(field, query[field]) for field in FILTER_FIELDS if query.get(field)],
            sort=query.get("sort") or DEFAULT_SORT.get(table, ""),
            cursor=query.get("cursor", ""),
        )

    def value(self, field: str) -> str:
        """Return the value that a field is filtered by, empty if there is none."""
        return dict(self.where).get(field, "")

    def but(self, **changed: str) -> str:
        """Return this address with some parameters changed, from the first row on unless a cursor is given."""
        terms = {"prefix": self.prefix, **dict(self.where), "sort": self.sort, **changed}
        return f"{self.path}?{urlencode({name: value for name, value in terms.items() if value})}"

    def order(self, field: str) -> str:
        """Return how the rows are sorted by a field, as `aria-sort` has it."""
        return {field: "ascending", f"-{field}": "descending"}.get(self.sort, "none")

    def sorted_by(self, field: str) -> str:
        """Return this address sorted by a field; reversed if it is sorted by it already."""
        return self.but(sort=f"-{field}" if self.sort == field else field)
