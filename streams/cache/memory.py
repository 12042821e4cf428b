"""The in-memory tier: the least recently used entry leaves first; bounded by time to live, by entries and by bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from streams.cache.entry import Entry
from streams.config.cache_url import MemoryTier

ENTRY_OVERHEAD = 1_000
"""Bytes that an entry takes beside its value: key, tuple and the tables' shares, rounded up."""


class _Slot(NamedTuple):
    value: Any
    expires: float
    size: int


class MemoryCache:
    """An ordered dict: nothing is serialised, nothing awaits. `clock` gives monotonic seconds.

    `group` returns the group of a key, or None; `drop_group` removes the keys of a group together.
    """

    def __init__(
        self,
        tier: MemoryTier | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        group: Callable[[Any], Any] | None = None,
    ) -> None:
        self.tier = tier or MemoryTier()
        self._slots: OrderedDict[Any, _Slot] = OrderedDict()
        self._group = group
        self._groups: dict[Any, Any] = {}  # most have one key: it is the value itself; several are a set
        self._clock = clock
        self.bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._slots)

    def peek(self, key: Any) -> Any:
        """Return the value stored under `key` that has not expired, else None."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        if slot.expires <= self._clock():
            self.drop(key)
            return None
        self._slots.move_to_end(key)
        return slot.value

    def put(self, key: Any, value: Any, ttl: float | None = None) -> bool:
        """Store a value for `ttl` seconds (default: the tier's); False if it alone exceeds the tier's bytes."""
        size = ENTRY_OVERHEAD + _size(value)
        if key in self._slots:
            self.drop(key)
        if size > self.tier.bytes:
            return False
        self._slots[key] = _Slot(value, self._clock() + (self.tier.ttl if ttl is None else ttl), size)
        self.bytes += size
        self._join(key)
        while len(self._slots) > self.tier.entries or self.bytes > self.tier.bytes:
            self.drop(next(iter(self._slots)))
            self.evictions += 1
        return True

    def drop(self, key: Any) -> bool:
        """Remove a key; returns whether it was there."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        self.bytes -= slot.size
        self._leave(key)
        return True

    def drop_group(self, group: Any) -> list[Any]:
        """Remove the keys of a group; returns them."""
        found = self._groups.get(group)
        keys = [] if found is None else list(found) if isinstance(found, set) else [found]
        for key in keys:
            self.drop(key)
        return keys

    def _join(self, key: Any) -> None:
        group = None if self._group is None else self._group(key)
        if group is None:
            return
        found = self._groups.setdefault(group, key)
        if isinstance(found, set):
            found.add(key)
        elif found != key:
            self._groups[group] = {found, key}

    def _leave(self, key: Any) -> None:
        group = None if self._group is None else self._group(key)
        if group is None:
            return
        found = self._groups[group]
        if isinstance(found, set):
            found.discard(key)
        if not isinstance(found, set) or not found:
            del self._groups[group]

    def stats(self) -> dict[str, str | int]:
        """Return the figures of the tier."""
        return {"tier": "memory", "entries": len(self), "bytes": self.bytes, "evictions": self.evictions}

    def keys(self) -> list[Any]:
        """Return every key, also of expired values."""
        return list(self._slots)


def _size(value: Any) -> int:
    if isinstance(value, Entry):
        size = len(value.shared) + (0 if value.check_results is None else value.check_results.size)
        if value.etag is None and value.last_modified is None:  # then nothing else of the headers is kept
            return size
        validators = len(value.etag or "") + len(value.last_modified or "")
        return size + validators + len(value.cache_control or "") + len(value.expires or "")
    return len(value) if isinstance(value, bytes | str) else 0
