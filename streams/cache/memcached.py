"""The memcached tier: shared by workers, bounded by the servers, never worth waiting for. An aiocache backend; a server
that is down, slow or violates the protocol causes misses and no errors.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from models.errors import MillraceError, PurgeError
from models.source import DEFAULT_TTL
from streams.cache.memcached_admin import read_stats, remove
from streams.cache.memcached_connection import Server, ServerUnavailable
from streams.config.cache_url import MIB, MemcachedTier

KEY_LIMIT = 250
"""Longest key in bytes that memcached accepts."""
VALUE_LIMIT = MIB - 512
"""Largest value in bytes: an item of memcached, 1 MiB by default, also has its key and about 60 bytes."""
SHARE = 8
"""Keys of an exchange at most: the large values of many would take its time-out together, as one connection brings what
one read of the event loop takes."""
LONGEST_TTL = 30 * 24 * 3600
"""Seconds above which memcached reads a time to live as a date."""
COUNTED = {
    "hits": "gets that a server answered with a value",
    "misses": "gets that a server answered with none",
    "stores": "sets that a server confirmed",
    "refused": "sets that a server refused: its memory or its item limit is too small",
    "too_large": "sets of more than VALUE_LIMIT bytes, never sent; what the key had is deleted",
    "failures": "calls that ended with a broken connection or an invalid reply",
    "timeouts": "calls that exceeded the tier's timeout",
    "resting": "calls that were skipped while their server pauses after a failure",
}
"""Every name in `MemcachedCache.counts` and what it counts."""

_PLAIN = re.compile(rb"(?!#)[!-9;-~]+")


class MemcachedCache(BaseCache):
    """An aiocache backend over memcached servers. Opening it connects to none. `clock` gives monotonic seconds.

    Of aiocache's calls it has get, set, delete and clear. Keys are bytes (or text), values bytes.
    """

    NAME = "memcached"

    def __init__(self, tier: MemcachedTier, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(serializer=NullSerializer(), ttl=DEFAULT_TTL, timeout=None)
        self.tier = tier
        self.counts: Counter[str] = Counter()
        self._prefix = tier.prefix.encode()
        self._servers = {
            server.mark: server
            for server in (Server(at, timeout=tier.timeout, counts=self.counts, clock=clock) for at in tier.servers)
        }

        self._only = next(iter(self._servers.values())) if len(self._servers) == 1 else None

    async def purge(self, matches: Callable[[bytes], bool]) -> int:
        """Remove the entries of ours whose key, without the prefix, matches; returns how many there were.

        Raises PurgeError naming each server that failed, after the others are done.
        """
        start = self._prefix + b":"

        def ours(stored: bytes) -> bool:
            key = stored.removeprefix(start)
            return stored.startswith(start) and b":" not in key and matches(key)

        removed, problems = 0, []
        for server in self._servers.values():
            try:
                removed += await remove(server.host, server.port, ours)
            except MillraceError as exc:
                problems.append(f"memcached {server.name}: {exc}")
        if problems:
            raise PurgeError("\n".join(problems), removed)
        return removed

    async def stats(self) -> list[dict[str, str | int]]:
        """Return for each server its `address` and `state`: `up` with its figures, or `away` with the `reason`."""
        found: list[dict[str, str | int]] = []
        for server in self._servers.values():
            row: dict[str, str | int] = {"tier": self.NAME, "address": server.name, "state": "up"}
            try:
                row |= await read_stats(server.host, server.port)
            except MillraceError as exc:
                row |= {"state": "away", "reason": str(exc)}
            found.append(row)
        return found

    # -- aiocache's interface

    def _build_key(self, key: bytes | str, namespace: str | None = None) -> bytes:
        raw = key.encode() if isinstance(key, str) else key
        return stored_key(self._prefix, (namespace or "").encode() + raw)

    def _server(self, key: bytes) -> Server:
        return self._servers[choose(self._servers, key)] if self._only is None else self._only

    async def _get(self, key: bytes, encoding: str = "utf-8", _conn: Any = None) -> bytes | None:
        return (await self._multi_get([key], encoding))[0]

    async def _multi_get(self, keys: Sequence[bytes], encoding: str, _conn: Any = None) -> list[bytes | None]:  # noqa: ARG002
        of: dict[Server, list[bytes]] = {}
        for key in dict.fromkeys(keys):
            of.setdefault(self._server(key), []).append(key)
        parts = [(server, part) for server, its in of.items() for part in self._parts(server, its)]
        if len(parts) == 1:
            [(server, part)] = parts
            found = await self._values(server, part)
        else:
            found = {}
            for values in await asyncio.gather(*(self._values(server, part) for server, part in parts)):
                found |= values
        return [found.get(key) for key in keys]

    def _parts(self, server: Server, keys: list[bytes]) -> Iterable[list[bytes]]:
        """Return the keys of each exchange; a server that pauses is tried with one, whose value comes soon if any."""
        if server.resting:
            self.counts["resting"] += len(keys) - 1
            return [keys[:1]]
        return (keys[at : at + SHARE] for at in range(0, len(keys), SHARE))

    async def _values(self, server: Server, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        try:
            found = await server.run(server.client.values, keys, calls=len(keys))
        except ServerUnavailable:
            return {}
        hits = len(found) - sum(value is None for value in found.values())
        for name, count in (("hits", hits), ("misses", len(keys) - hits)):
            if count:
                self.counts[name] += count
        return found

    async def _set(
        self, key: bytes, value: bytes, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        if _cas_token is not None:
            raise NotImplementedError
        if len(value) > VALUE_LIMIT:
            self.counts["too_large"] += 1
            await self._delete(key)  # the older answer would outlive it; memcached does so with what it refuses itself
            return False
        server = self._server(key)
        try:
            stored = await server.run(server.client.set, key, value, lifetime(DEFAULT_TTL if ttl is None else ttl))
        except ServerUnavailable:
            return False
        self.counts["stores" if stored else "refused"] += 1
        return stored

    async def _delete(self, key: bytes, _conn: Any = None) -> int:
        server = self._server(key)
        try:
            return int(await server.run(server.client.delete, key))
        except ServerUnavailable:
            return 0

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        start = (namespace or "").encode()
        await self.purge(lambda key: key.startswith(start))
        return True

    async def _close(self, *_args: Any, _conn: Any = None, **_options: Any) -> None:
        for server in self._servers.values():
            server.close()


def stored_key(prefix: bytes, key: bytes) -> bytes:
    """Return the key in memcached: `<prefix>:<key>`, or `<prefix>:#<SHA-256>` of a key that it does not accept.

    The part after the prefix has no colon, which separates the keys of `mr` from those of a prefix `mr:x`.
    """
    stored = b"%b:%b" % (prefix, key)
    if len(stored) <= KEY_LIMIT and _PLAIN.fullmatch(key):
        return stored
    return b"%b:#%b" % (prefix, hashlib.sha256(key).hexdigest().encode())


def choose(names: Iterable[bytes], key: bytes) -> bytes:
    """Return the server of a key: the one whose name hashes highest with it (rendezvous hashing)."""
    return max(names, key=lambda name: hashlib.blake2b(b"%b %b" % (name, key), digest_size=8).digest())


def lifetime(ttl: float) -> int:
    """Return a time to live in whole seconds for memcached: rounded down, at least 1, at most 30 days."""
    return max(1, int(min(ttl, LONGEST_TTL)))
