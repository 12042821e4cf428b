"""`Kept`: a bounded dictionary of what can be made again, in two generations."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, at most `most` units of them in each of two generations: when the younger is full, the older goes.

    What is used of the older moves into the younger. No value may be false.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K, size: int = 1) -> V | None:
        """Return a value that is kept, whose `size` is the one that it was put in with."""
        found = self.young.get(key)
        if found is None and self._old and (found := self._old.get(key)) is not None:
            self.put(key, found, size)
        return found

    def put(self, key: K, value: V, size: int = 1) -> None:
        """Keep a value of so many units."""
        if self._size + size > self._most:
            self._old, self.young, self._size = self.young, {}, 0
        self.young[key] = value
        self._size += size
