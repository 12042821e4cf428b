"""What a table's page was asked for, and the addresses that ask for something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlencode

from streams.web import columns

FILTERS = ("outcome", "host")
"""Fields that a page filters by; the API knows more."""


@dataclass(frozen=True, slots=True)
class TableView:
    """The terms of a table's page, as its address says them."""

    path: str
    prefix: str
    where: list[tuple[str, str]]
    sort: str
    cursor: str

    @classmethod
    def of(cls, table: str, query: Mapping[str, str], path: str = "") -> Self:
        """Read the terms from an address."""
        return cls(
            path=path or f"/tables/{quote(table, safe='')}",
            prefix=query.get("prefix", ""),
            where=[(field, query[field]) for field in FILTERS if query.get(field)],
            sort=query.get("sort") or columns.DEFAULT_SORT.get(table, ""),
            cursor=query.get("cursor", ""),
        )

    def value(self, field: str) -> str:
        """Return what a field is filtered by, or nothing."""
        return dict(self.where).get(field, "")

    def but(self, **changed: str) -> str:
        """Return the address of the same with something changed, from the first row on unless a cursor is given."""
        terms = {"prefix": self.prefix, **dict(self.where), "sort": self.sort, **changed}
        return f"{self.path}?{urlencode({name: value for name, value in terms.items() if value})}"

    def order(self, field: str) -> str:
        """Say how the rows are ordered by a field, in the words of `aria-sort`."""
        return {field: "ascending", f"-{field}": "descending"}.get(self.sort, "none")

    def sorted_by(self, field: str) -> str:
        """Return the address of the same in the order of a field; the other way round if it is that already."""
        return self.but(sort=f"-{field}" if self.sort == field else field)
