"""Some fields of a stored answer, read without decoding all of it: a search needs no more of most rows.

A quote within a JSON string is escaped, so `,"name":` only stands before the value of that name. Values other than
plain text and numbers, and rows that do not begin as ours do, are left to `agents.tables.rows.decode`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

from agents.tables.rows import RESULT, Row, decode
from models.moment import iso
from streams.tables.store import mark

Projections: TypeAlias = Callable[[int, bytes, bytes], Row | None]
"""Reads (partition, key, stored row); None if that row has to be decoded."""

_PLAIN = frozenset(
    {"id", "outcome", "cache", "status", "url", "source", "host", "fetched_at", "elapsed_ms", "attempts", "bytes"}
)
"""Fields whose values are stored as they are shown."""
_STORED = _PLAIN | {"at"}
_BEGIN = b'{"offset":'
_ABSENT = object()
_DECODE = object()


class Projection(dict[str, Any]):
    """Some fields of a row; `whole` returns all of it, without the result."""

    __slots__ = ("whole",)

    def __init__(self, fields: Row, whole: Callable[[], Row]) -> None:
        super().__init__(fields)
        self.whole = whole


def whole_of(row: Row) -> Row:
    """Return the whole row of a projection; any other row as it is."""
    return row.whole() if isinstance(row, Projection) else row


def projection(table: str, fields: Sequence[str]) -> Projections | None:
    """Return a reader of these fields of a table's rows; None if they have to be decoded."""
    if table != "answers" or not _STORED.union(("partition",)).issuperset(fields):
        return None
    readers = [(field, _at if field == "at" else _reader(field)) for field in dict.fromkeys(fields) if field in _STORED]

    def read(partition: int, key: bytes, stored: bytes) -> Row | None:
        end = stored.find(RESULT)
        if end < 0 or not stored.startswith(_BEGIN):
            return None
        row: Row = {"partition": partition}
        for field, value_of in readers:
            value = value_of(stored, end)
            if value is _DECODE:
                return None
            if value is not _ABSENT:
                row[field] = value
        return Projection(row, partial(decode, table, partition, key, stored, heads=True))

    return read


def _at(stored: bytes, _: int) -> Any:
    found = mark(stored)
    return _DECODE if found is None else iso(found.at)


@lru_cache(maxsize=len(_PLAIN))
def _reader(field: str) -> Callable[[bytes, int], Any]:
    """Return a reader of a field before `end`, which returns `_ABSENT` or `_DECODE` if there is no plain value."""
    name = b',"%b":' % field.encode()
    search = re.compile(name + rb'(?:"([^"\\]*)"|(-?[0-9]{1,15})(\.[0-9]{1,15})?(?=[,}]))').search

    def read(stored: bytes, end: int) -> Any:
        found = search(stored, 0, end + 1)
        if found is None:
            return _DECODE if stored.find(name, 0, end) >= 0 else _ABSENT
        text, number, fraction = found.groups()
        if text is not None:
            try:
                return text.decode()
            except UnicodeDecodeError:
                return _DECODE
        return int(number) if fraction is None else float(number + fraction)

    return read
