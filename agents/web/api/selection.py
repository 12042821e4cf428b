"""Which rows of a table a query selects. A page's cursor holds the position of its last row in the chosen order, so
that rows that are added or deleted meanwhile neither repeat nor skip any other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeAlias

from agents.tables.rows import Row, decode_key, encode_key
from models import strictjson
from streams.web.problems import Problem

Place: TypeAlias = tuple[int, int, Any, bytes]
"""A row's position in an order: whether it has the field, the value's type, the value, and the key for ties."""

KEY = "key"
"""The name for the key itself, by which every table can be sorted."""
DEFAULT_LIMIT, MAX_LIMIT = 50, 1_000
"""Rows of a page."""
MAX_CONDITIONS = 8
MAX_TEXT = 1_024
"""Characters of a prefix or condition."""
MAX_CURSOR = 56 << 10
"""Characters of a cursor: it contains a key, of up to 31 KB, and a value that the rows are sorted by. With the rest of
the query it has to fit into the first line of a request."""
_NUMBER, _TEXT, _OTHER = range(3)


@dataclass(frozen=True, slots=True)
class Selection:
    """`where` are pairs of a dotted field and the text of its value, `begins` of one and how its text begins; `sort` is
    a dotted field, `-` before it reverses; `after` is the position of the last row of the page before.
    """

    prefix: bytes = b""
    where: tuple[tuple[str, str], ...] = ()
    sort: str = KEY
    limit: int = DEFAULT_LIMIT
    after: Place | None = None
    begins: tuple[tuple[str, str], ...] = ()

    @property
    def descending(self) -> bool:
        """Whether the greatest comes first."""
        return self.sort.startswith("-")

    @property
    def field(self) -> str:
        """Return the field that rows are sorted by."""
        return self.sort.removeprefix("-")

    @property
    def fields(self) -> list[str]:
        """Return the fields that determine which rows are on the page."""
        ordered = [] if self.field == KEY else [self.field]
        return [*ordered, *(field for field, _ in (*self.where, *self.begins))]

    @property
    def chooses(self) -> bool:
        """Whether not every row matches."""
        return bool(self.where or self.begins)

    @property
    def by_key(self) -> bool:
        """Whether keys alone determine which rows are on the page."""
        return self.field == KEY and not self.chooses

    def matches(self, row: Row) -> bool:
        """Whether a row meets every condition."""
        return all(_sort_value(value_at(row, field)) == text for field, text in self.where) and all(
            (_sort_value(value_at(row, field)) or "").startswith(text) for field, text in self.begins
        )

    def sort_key(self) -> Callable[[bytes, Row], Place]:
        """Return the function that gives a row's position; a row without the field comes last in either direction."""
        field, descending = self.field, self.descending
        if field == KEY:
            return lambda key, _: (descending, 0, 0, key)

        def place(key: bytes, row: Row) -> Place:
            value = row.get(field)
            if value is None:
                value = value_at(row, field)
            kind, comparable = _comparable(value)
            return (value is None) is not descending, kind, comparable, key

        return place

    def follows(self, place: Place) -> bool:
        """Whether a position comes after the page before."""
        if self.after is None:
            return True
        return place < self.after if self.descending else place > self.after

    def cursor(self, place: Place) -> str:
        """Return the cursor of what follows this position."""
        last = [place[0], place[1], place[2], base64.b64encode(place[3]).decode(), self._mark()]
        return encode_key(strictjson.dumps(last))

    def _mark(self) -> str:
        """Return a hash that ties a cursor to its query."""
        begins = [[list(each) for each in self.begins]] if self.begins else []
        query = strictjson.dumps([self.prefix.hex(), [list(each) for each in self.where], self.sort, *begins])
        return hashlib.blake2b(query, digest_size=6).hexdigest()

    def read_cursor(self, text: str) -> Place:
        """Return the position that a cursor stands for. Raises Problem for one that is not of this query."""
        try:
            present, kind, value, key, mark = strictjson.loads(decode_key(text))
            place = bool(present), int(kind), value, base64.b64decode(key, validate=True)
        except (ValueError, TypeError, binascii.Error):
            raise invalid_parameter("cursor", "is invalid") from None
        fits = isinstance(value, str) if kind in (_TEXT, _OTHER) else type(value) in (int, float)
        if mark != self._mark() or not fits or kind not in (_NUMBER, _TEXT, _OTHER):
            raise invalid_parameter("cursor", "belongs to another query: keep prefix, where and sort as they were")
        return place


def select(
    fields: Sequence[str],
    *,
    prefix: str | bytes = "",
    where: Iterable[tuple[str, str]] = (),
    begins: Iterable[tuple[str, str]] = (),
    sort: str = KEY,
    limit: int = DEFAULT_LIMIT,
    cursor: str = "",
) -> Selection:
    """Return a selection of a table with these fields. Raises Problem (400) with the invalid parameter."""
    conditions, beginnings = tuple(where), tuple(begins)
    allowed = {KEY, *fields}
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid_parameter("limit", f"must be 1 to {MAX_LIMIT}")
    named = {"where": conditions, "begins": beginnings}
    for name, pairs in named.items():
        if len(pairs) > MAX_CONDITIONS:
            raise invalid_parameter(name, f"at most {MAX_CONDITIONS} conditions are allowed")
    fields_named = ((name, field) for name, pairs in named.items() for field, _ in pairs)
    for name, field in [("sort", sort.removeprefix("-")), *fields_named]:
        if field.partition(".")[0] not in allowed:
            raise invalid_parameter(name, f"no field {field[:60]!r}; there are: {', '.join(sorted(allowed))}")
    start = prefix.encode(errors="surrogateescape") if isinstance(prefix, str) else prefix
    chosen = Selection(start, conditions, sort, limit, begins=beginnings)
    return replace(chosen, after=chosen.read_cursor(cursor)) if cursor else chosen


def parse_query(query: Mapping[str, str], **conditions: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `select` in the query of a URL, with its `where` and `begins`.

    Raises Problem (400) with the invalid parameter.
    """
    for name, most in (("prefix", MAX_TEXT), ("sort", MAX_TEXT), ("cursor", MAX_CURSOR)):
        if len(query.get(name, "")) > most:
            raise invalid_parameter(name, f"at most {most} characters are allowed")
    found: dict[str, Any] = {name: query[name] for name in ("prefix", "sort", "cursor") if query.get(name)}
    if "limit" in query:
        text = query["limit"]
        found["limit"] = int(text) if text.isascii() and text.isdigit() and len(text) < MAX_LIMIT else 0
    for name, given in conditions.items():
        pairs = [each.partition(":") for each in given]
        if not all(field and colon for field, colon, _ in pairs) or any(len(each) > MAX_TEXT for each in given):
            raise invalid_parameter(name, "must be field:value")
        found[name] = [(field, value) for field, _, value in pairs]
    return found


def invalid_parameter(field: str, message: str) -> Problem:
    """Return the problem of one invalid parameter."""
    errors = [{"field": field, "message": message}]
    return Problem(HTTPStatus.BAD_REQUEST, f"{field}: {message}", errors=errors)


def value_at(row: Row, field: str) -> Any:
    """Return the value at a dotted field, None if there is none. Names may contain dots themselves, as hosts do."""
    value: Any = row
    rest = field
    while rest:
        if not isinstance(value, dict):
            return None
        if rest in value:
            return value[rest]
        name, _, rest = rest.partition(".")
        value = value.get(name)
    return None


def _sort_value(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return strictjson.dumps(value).decode()


def _comparable(value: Any) -> tuple[int, Any]:
    if value is None:
        return _NUMBER, 0
    if isinstance(value, int | float):
        return _NUMBER, int(value) if isinstance(value, bool) else value
    return (_TEXT, value) if isinstance(value, str) else (_OTHER, strictjson.canonical(value).decode())
