"""Stores of rows: by table and results partition, with the changelog offset that they reach up to.

A row is bytes that begin with `{"offset":<results offset it counts up to>,"at":<ms>`; the store reads nothing else.
`MILLRACE_STORE` chooses: `memory://` is MemoryStore, `rocksdb://PATH` is RocksStore in rocksdb.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

Change: TypeAlias = tuple[bytes, bytes | None]
"""A key and its row, None for a deletion."""

OFFSET_HEADER = "offset"
"""Of a tombstone on a changelog: the results offset that the row counted up to."""

_OFFSET = len(b'{"offset":')
_MARK = re.compile(rb'\{"offset":([0-9]{1,18}),"at":([0-9]{1,15})[,}]')


class Mark(NamedTuple):
    """How a row begins: the results offset that it counts up to, and its latest result's timestamp in ms."""

    offset: int
    at: int


def mark(row: bytes) -> Mark | None:
    """Return a row's mark, None if these bytes are not a row of ours."""
    found = _MARK.match(row)
    return None if found is None else Mark(int(found[1]), int(found[2]))


def offset_of(row: bytes) -> int:
    """Return the results offset of a row of ours."""
    return int(row[_OFFSET : row.index(b",", _OFFSET)])


class Store(Protocol):
    """Rows by table and partition. Not thread-safe: it lives on the event loop.

    A partition is `dirty` while its changelog has records after ours that another worker wrote, or that were not
    checked yet. A recovery drops a dirty partition and reads all of it. `changelog_ids` names the rows' changelogs by
    the ids of cluster and topics; it is empty where these are not known.
    """

    dirty: set[int]
    changelog_ids: str

    def partitions(self) -> set[int]:
        """Return the partitions of which anything is kept."""
        ...

    def reaches(self, table: str, partition: int) -> int | None:
        """Return the changelog offset to read on from, None if nothing is known."""
        ...

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """Return one row."""
        ...

    def scan(self, table: str, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose key begins with `prefix`; they may change while it goes on."""
        ...

    def oldest(self, table: str, partition: int, most: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows written the longest ago, `most` at most; nothing is to be written meanwhile."""
        ...

    def newest(self, table: str, partition: int) -> bytes | None:
        """Return the row that was written last."""
        ...

    def count(self, table: str, partition: int) -> int:
        """Return how many rows there are."""
        ...

    def apply(self, table: str, partition: int, changes: Iterable[Change], reaches: int | None) -> None:
        """Make changes, in the changelog's order, and note how far they reach, together."""
        ...

    def drop(self, partition: int) -> None:
        """Forget a partition, and that it was dirty."""
        ...

    def belong_to(self, changelog_ids: str) -> None:
        """Note which changelogs the rows are of, also for the next process."""
        ...

    def mark_dirty(self, partition: int) -> None:
        """Mark a partition as dirty, also for the next process."""
        ...

    def mark_clean(self, partition: int) -> None:
        """Mark a partition as clean."""
        ...

    def open(self) -> None:
        """Open what is kept outside this process. Raises SettingsError with the reason."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class MemoryStore:
    """Rows in dictionaries, whose order is that of their last writing."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], dict[bytes, bytes]] = {}
        self._reaches: dict[tuple[str, int], int] = {}
        self.dirty: set[int] = set()
        self.changelog_ids = ""

    def partitions(self) -> set[int]:
        """Return the partitions of which anything is kept."""
        return {partition for _, partition in self._rows}

    def reaches(self, table: str, partition: int) -> int | None:
        """Return the changelog offset to read on from."""
        return self._reaches.get((table, partition))

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """Return one row."""
        rows = self._rows.get((table, partition))
        return None if rows is None else rows.get(key)

    def scan(self, table: str, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield rows; those added since it began are not among them."""
        rows = self._rows.get((table, partition), {})
        keys = [key for key in rows if key.startswith(prefix)] if prefix else list(rows)
        for key in keys:
            row = rows.get(key)
            if row is not None:
                yield key, row

    def oldest(self, table: str, partition: int, most: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the first rows of the dictionary."""
        return islice(self._rows.get((table, partition), {}).items(), most)

    def newest(self, table: str, partition: int) -> bytes | None:
        """Return the last row of the dictionary."""
        return next(reversed(self._rows.get((table, partition), {}).values()), None)

    def count(self, table: str, partition: int) -> int:
        """Return how many rows there are."""
        return len(self._rows.get((table, partition), ()))

    def apply(self, table: str, partition: int, changes: Iterable[Change], reaches: int | None) -> None:
        """Make changes; each changed row moves to the end of the order."""
        place = table, partition
        rows = self._rows.setdefault(place, {})
        for key, row in changes:
            rows.pop(key, None)
            if row is not None:
                rows[key] = row
        if reaches is not None:
            self._reaches[place] = reaches

    def drop(self, partition: int) -> None:
        """Forget a partition, and that it was dirty."""
        self.dirty.discard(partition)
        for place in [place for place in self._rows if place[1] == partition]:
            del self._rows[place]
            self._reaches.pop(place, None)

    def belong_to(self, changelog_ids: str) -> None:
        """Note which changelogs the rows are of."""
        self.changelog_ids = changelog_ids

    def mark_dirty(self, partition: int) -> None:
        """Mark a partition as dirty."""
        self.dirty.add(partition)

    def mark_clean(self, partition: int) -> None:
        """Mark a partition as clean."""
        self.dirty.discard(partition)

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._reaches.clear()
