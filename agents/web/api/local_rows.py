"""The rows that this worker holds. They are read in slices of a few milliseconds, between which other tasks run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

from agents.tables import rows
from agents.tables.projection import projection, whole_of
from agents.tables.rows import Row
from agents.web.api.selection import KEY, Place, Selection
from streams.tables.state import TableState

SLICE = 0.002
"""Seconds of one slice."""
BATCH = 16
"""Rows between two checks of the clock: with keys of 64 KiB they take some milliseconds."""
SPARE = 16
"""Rows kept beyond a page, in case another worker has later versions of some."""
LATEST = "answers"
"""The table whose rows are whole in each partition: of several rows of one key, the latest counts."""

Item = TypeVar("Item")
Pairs: TypeAlias = list[tuple[bytes, Row]]
Decode: TypeAlias = Callable[[str, int, bytes, bytes, bool], Row]
"""Makes a row of (table, partition, key, stored row, without the result)."""
_NOTHING: Row = {}


@dataclass(slots=True)
class Found:
    """Rows with their keys; `total` counts those of all pages."""

    rows: list[tuple[bytes, Row]] = field(default_factory=list)
    total: int = 0


async def sliced(items: Iterable[Item], batch: int = BATCH) -> AsyncIterator[list[Item]]:
    """Yield items in batches, and let other tasks run whenever a slice is over."""
    left = iter(items)
    began = time.perf_counter()
    while taken := list(islice(left, batch)):
        yield taken
        if time.perf_counter() - began > SLICE:
            await asyncio.sleep(0)
            began = time.perf_counter()


class Page:
    """Takes rows in any order and keeps those of one page and SPARE more, of those that `is_current`, if given."""

    def __init__(self, selection: Selection, is_current: Callable[[tuple[Place, Row]], bool] | None = None) -> None:
        self.selection = selection
        self._is_current = is_current
        self._place = selection.sort_key()
        self._descending = selection.descending
        self._most = selection.limit + 1 + SPARE
        self._kept: list[tuple[Place, Row]] = []
        self._last: Place | None = None
        self.total = 0

    def add(self, key: bytes, row: Row) -> None:
        """Consider a row."""
        if self.selection.chooses and not self.selection.matches(row):
            return
        self.total += 1
        place = self._place(key, row)
        if self._last is not None and (place > self._last) is not self._descending:
            return
        if not self.selection.follows(place):
            return
        self._kept.append((place, row))
        if len(self._kept) > self._most * 8 and len(kept := self.rows()) == self._most:
            self._last = kept[-1][0]

    def rows(self) -> list[tuple[Place, Row]]:
        """Return the rows in order."""
        self._kept.sort(key=_place_of, reverse=self._descending)
        standing = self._kept if self._is_current is None else filter(self._is_current, self._kept)
        self._kept = list(islice(standing, self._most))
        return self._kept


_place_of = itemgetter(0)


class LocalRows:
    """The rows of the partitions that this worker holds. Partitions given that it does not hold are left out."""

    def __init__(self, state: TableState, decode: Decode = rows.decode) -> None:
        self.state = state
        self._decode = decode

    @property
    def partitions(self) -> frozenset[int]:
        """Return the results partitions held here that have recovered."""
        return self.state.partitions

    def get(self, table: str, key: bytes, partitions: Collection[int], *, result: bool = True) -> list[Row]:
        """Return the partial rows of a key, at most one a partition; without the `result` unless that is true."""
        store = self.state.store
        found = ((each, store.get(table, each, key)) for each in self._held(partitions))
        return [self._decode(table, each, key, stored, not result) for each, stored in found if stored is not None]

    async def get_whole(self, table: str, key: bytes, partitions: Collection[int]) -> list[Row]:
        """Do what `get` does, decoding in a thread: a document takes tens of milliseconds."""
        store = self.state.store
        found = [(each, store.get(table, each, key)) for each in self._held(partitions)]
        return [
            await asyncio.to_thread(self._decode, table, each, key, stored, False)  # noqa: FBT003  `heads`
            for each, stored in found
            if stored is not None
        ]

    def scan(
        self, table: str, prefix: bytes, partitions: Collection[int], fields: Sequence[str] | None = None
    ) -> Iterator[tuple[bytes, Row]]:
        """Yield the partial rows whose key begins with `prefix`, in no order.

        `fields`, if given, are all that is needed: other ones may be left out, as the `result` of answers is.
        """
        read = None if fields is None else projection(table, fields)
        for partition in self._held(partitions):
            for key, stored in self.state.store.scan(table, partition, prefix):
                row = None if read is None else read(partition, key, stored)
                yield key, self._decode(table, partition, key, stored, fields is not None) if row is None else row

    def _held(self, partitions: Collection[int]) -> list[int]:
        return sorted(self.partitions.intersection(partitions))

    async def page(self, table: str, selection: Selection, partitions: Collection[int]) -> Found:
        """Return the rows of one page and SPARE more, merged as far as this worker holds their parts."""
        if selection.by_key:
            return await self._page_by_key(table, selection, partitions)

        def latest(entry: tuple[Place, Row]) -> bool:
            """Whether no other partition has a later row of this key. The row counts as it was read: one that moves
            meanwhile is on one page or another, and a page of a busy table has as many rows as any.
            """
            (*_, key), row = entry
            others = self.get(table, key, [each for each in partitions if each != row.get("partition")])
            return not others or whole(table, [whole_of(row), *others]) not in others

        page = Page(selection, latest if table == LATEST and len(partitions) > 1 else None)
        parts = sliced(self.scan(table, selection.prefix, partitions, selection.fields))
        async for pairs in parts if table == LATEST else merged(table, parts):
            for key, row in pairs:
                page.add(key, row)
        found = Found(total=page.total)
        async for entries in sliced(page.rows()):
            found.rows += [(place[3], whole_of(row)) for place, row in entries]
        return found

    async def _page_by_key(self, table: str, selection: Selection, partitions: Collection[int]) -> Found:
        """Return the rows of a page that the keys alone determine."""
        page = Page(selection)
        keys = await self.keys(table, selection.prefix, partitions)
        async for pairs in sliced(keys.rows):
            for key, row in pairs:
                page.add(key, row)
        found = Found(total=page.total)
        async for [(place, _)] in sliced(page.rows(), 1):
            if parts := self.get(table, place[3], partitions, result=False):
                found.rows.append((place[3], whole(table, parts)))
        if (
            len(found.rows) <= selection.limit < len(page.rows())
        ):  # too many were deleted meanwhile: others take their place
            return await self._page_by_key(table, selection, partitions)
        return found

    async def parts(self, table: str, prefix: bytes, partitions: Collection[int]) -> Found:
        """Return every partial row whose key begins with `prefix`."""
        found: Pairs = []
        async for pairs in sliced(self.scan(table, prefix, partitions)):
            found += pairs
        return Found(found, len(found))

    async def keys(self, table: str, prefix: bytes, partitions: Collection[int]) -> Found:
        """Return every key that begins with `prefix`, once, with an empty row. Rows are not decoded."""
        store, held = self.state.store, self._held(partitions)
        stored = (key for partition in held for key, _ in store.scan(table, partition, prefix))
        keys: set[bytes] = set()
        async for batch in sliced(stored):
            keys.update(batch)
        return Found([(key, _NOTHING) for key in keys], len(keys))


async def merged(table: str, parts: AsyncIterator[Pairs]) -> AsyncIterator[Pairs]:
    """Yield whole rows in batches, each merged from all rows of its key."""
    by_key: dict[bytes, list[Row]] = {}
    async for pairs in parts:
        for key, row in pairs:
            by_key.setdefault(key, []).append(row)
    async for found in sliced(by_key.items()):
        yield [(key, whole(table, each)) for key, each in found]


def whole(table: str, parts: Sequence[Row]) -> Row:
    """Merge partial rows. Another worker may have another version, or return nonsense."""
    if len(parts) == 1:
        return parts[0]
    try:
        return rows.merge(table, parts)
    except (KeyError, TypeError, ValueError, AttributeError):
        return {"unreadable": True}


def keyed(table: str, key: bytes, row: Row) -> dict[str, Any]:
    """Return a row as lists have it: with its key, and without the result itself."""
    fields = {name: value for name, value in row.items() if name != "result"}
    if table == LATEST and KEY not in fields and "key_base64" not in fields:
        fields[KEY] = key.decode(errors="replace")
    return fields
