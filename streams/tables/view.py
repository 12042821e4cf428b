"""What this worker holds of the tables: the partial rows of the partitions that it was given and has recovered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = dict[str, Any]
"""Plain JSON values; the fields of each table are in agents/tables/rows.py."""
Decode: TypeAlias = Callable[[str, int, bytes, bytes, bool], Row]
"""Makes a row of (table, partition, key, stored value, heads only)."""
Glimpses: TypeAlias = Callable[[str, Sequence[str]], Callable[[int, bytes, bytes], Row | None] | None]
"""Returns what reads of (partition, key, stored value) no more than some fields of a table; None if that is all."""


class Shelves(Protocol):
    """The rows as they are stored, by results partition."""

    @property
    def held(self) -> frozenset[int]:
        """Return the partitions that are held and recovered."""
        ...

    def state(self) -> str:
        """Return `ok`, or what the tables still wait for."""
        ...

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """Return one stored row."""
        ...

    def scan(self, table: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the stored rows whose key begins with `prefix`; rows may change while it goes on."""
        ...

    def count(self, table: str, partition: int) -> int:
        """Return how many rows there are, on disk perhaps by estimate."""
        ...


class Tables:
    """See the module. All of it answers at once, from memory or the local disk."""

    def __init__(
        self, names: Sequence[str], shelves: Shelves, decode: Decode, glimpse: Glimpses = lambda *_: None
    ) -> None:
        self.names = names
        self._glimpse = glimpse
        self._shelves = shelves
        self._decode = decode

    @property
    def partitions(self) -> frozenset[int]:
        """Return the results partitions held here and recovered."""
        return self._shelves.held

    @property
    def recovered(self) -> bool:
        """Whether every partition assigned has recovered."""
        return self._shelves.state() == "ok"

    def readiness(self) -> str:
        """Return `ok`, or what is missing."""
        return self._shelves.state()

    def get(self, table: str, key: bytes, partitions: Collection[int] | None = None) -> list[Row]:
        """Return the partial rows of a key, at most one a partition; agents.tables.rows.merge makes one of them.

        `partitions` are those to look into, here and below; None is all that are held.
        """
        found = ((partition, self._shelves.get(table, partition, key)) for partition in self._among(partitions))
        return [self._decode(table, partition, key, value, False) for partition, value in found if value is not None]  # noqa: FBT003

    def scan(
        self, table: str, prefix: bytes = b"", *, fields: Sequence[str] | None = None,
        partitions: Collection[int] | None = None,
    ) -> Iterator[tuple[bytes, Row]]:  # fmt: skip
        """Yield the partial rows whose key begins with `prefix`, in no order; cheap to abandon.

        `fields`, if given, are all that is needed: other ones may be left out, as the `result` of answers is.
        """
        glimpse = None if fields is None else self._glimpse(table, fields)
        for partition in self._among(partitions):
            for key, value in self._shelves.scan(table, partition, prefix):
                row = None if glimpse is None else glimpse(partition, key, value)
                yield key, self._decode(table, partition, key, value, fields is not None) if row is None else row

    def keys(self, table: str, prefix: bytes = b"", partitions: Collection[int] | None = None) -> Iterator[bytes]:
        """Yield the keys of the partial rows, one for each partition that has it, without reading the rows."""
        for partition in self._among(partitions):
            for key, _ in self._shelves.scan(table, partition, prefix):
                yield key

    def _among(self, partitions: Collection[int] | None) -> list[int]:
        return sorted(self.partitions if partitions is None else self.partitions.intersection(partitions))

    def count(self, table: str) -> int:
        """Return how many partial rows there are."""
        return sum(self._shelves.count(table, partition) for partition in self.partitions)
