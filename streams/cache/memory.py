"""The in-memory tier: least recently used out first, every entry with its time to live, bounded by entries and by
bytes. It is an aiocache backend; `peek` and `put` are the same without an await, for the hit path.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from streams.cache.entry import Entry
from streams.config.cache_url import MemoryTier

ENTRY_OVERHEAD = 1_000
"""Bytes that an entry takes beside its value: key, tuple and the tables' shares, rounded up."""


class _Slot(NamedTuple):
    value: Any
    expires: float
    size: int


class MemoryCache(BaseCache):
    """An aiocache backend over an ordered dict. `clock` gives monotonic seconds.

    `group` says to which group a key belongs, if to any, which `drop_group` forgets together.
    """

    NAME = "memory"

    def __init__(
        self,
        tier: MemoryTier | None = None,
        *,
        clock: Any = time.monotonic,
        group: Callable[[Any], Any] | None = None,
    ) -> None:
        self.tier = tier or MemoryTier()
        super().__init__(serializer=NullSerializer(), ttl=self.tier.ttl)
        self._slots: OrderedDict[Any, _Slot] = OrderedDict()
        self._group = group
        self._groups: dict[Any, Any] = {}  # most have one key: it stands there itself, several in a set
        self._clock = clock
        self.bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._slots)

    def peek(self, key: Any) -> Any:
        """Return the fresh value kept under `key`, else None."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        if slot.expires <= self._clock():
            self.drop(key)
            return None
        self._slots.move_to_end(key)
        return slot.value

    def put(self, key: Any, value: Any, ttl: float | None = None) -> bool:
        """Keep a value for `ttl` seconds (default: the tier's); False if it alone is more than the tier may hold."""
        size = ENTRY_OVERHEAD + _size(value)
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
        """Forget a key; returns whether it was there."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        self.bytes -= slot.size
        self._leave(key)
        return True

    def drop_group(self, group: Any) -> list[Any]:
        """Forget the keys of a group; returns them."""
        held = self._groups.get(group)
        keys = [] if held is None else list(held) if isinstance(held, set) else [held]
        for key in keys:
            self.drop(key)
        return keys

    def _join(self, key: Any) -> None:
        group = None if self._group is None else self._group(key)
        if group is None:
            return
        held = self._groups.setdefault(group, key)
        if isinstance(held, set):
            held.add(key)
        elif held != key:
            self._groups[group] = {held, key}

    def _leave(self, key: Any) -> None:
        group = None if self._group is None else self._group(key)
        if group is None:
            return
        held = self._groups[group]
        if isinstance(held, set):
            held.discard(key)
        if not isinstance(held, set) or not held:
            del self._groups[group]

    def keys(self) -> list[Any]:
        """Return every key held."""
        return list(self._slots)

    def wipe(self, namespace: str | None = None) -> None:
        """Forget everything, or the text keys that begin with `namespace`."""
        for key in [k for k in self._slots if not namespace or (isinstance(k, str) and k.startswith(namespace))]:
            self.drop(key)

    # -- aiocache's interface

    async def _get(self, key: Any, encoding: str = "utf-8", _conn: Any = None) -> Any:  # noqa: ARG002
        return self.peek(key)

    _gets = _get

    async def _multi_get(self, keys: Sequence[Any], encoding: str = "utf-8", _conn: Any = None) -> list[Any]:  # noqa: ARG002
        return [self.peek(key) for key in keys]

    async def _set(
        self, key: Any, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        if _cas_token is not None and _cas_token != self.peek(key):
            return False
        return self.put(key, value, ttl)

    async def _multi_set(self, pairs: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        kept = [self.put(key, value, ttl) for key, value in pairs]
        return all(kept)

    async def _add(self, key: Any, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if self.peek(key) is not None:
            msg = f"Key {key} already exists, use .set to update the value"
            raise ValueError(msg)
        return self.put(key, value, ttl)

    async def _exists(self, key: Any, _conn: Any = None) -> bool:
        return self.peek(key) is not None

    async def _increment(self, key: Any, delta: int, _conn: Any = None) -> int:
        try:
            value = int(self.peek(key) or 0) + delta
        except ValueError:
            msg = "Value is not an integer"
            raise TypeError(msg) from None
        self.put(key, value)
        return value

    async def _expire(self, key: Any, ttl: float, _conn: Any = None) -> bool:
        value = self.peek(key)
        return value is not None and self.put(key, value, ttl)

    async def _delete(self, key: Any, _conn: Any = None) -> int:
        return int(self.drop(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        self.wipe(namespace)
        return True


def _size(value: Any) -> int:
    if isinstance(value, Entry):
        verdicts = 0 if value.check_results is None else value.check_results.size
        headers = value.etag, value.last_modified, value.cache_control, value.expires
        return len(value.shared) + sum(len(each) for each in headers if each) + verdicts
    return len(value) if isinstance(value, bytes | str) else 0
