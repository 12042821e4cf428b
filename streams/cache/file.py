"""The file tier: answers of other workers or an earlier run. An aiocache backend that raises no disk errors: a failure
is a miss, counted, and logged once a minute. Reads, writes and walks have separate threads, so that neither a sweep nor
an fsync delays a get.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from models.errors import PurgeError, SettingsError
from streams.cache.folder import KEY, MAX_ENTRY_BYTES, SWEEP_SHARE, Folder, Walked
from streams.cache.threads import Refused, Threads
from streams.config.cache_url import MIB, FileTier
from streams.log_pause import LogPause
from streams.tasks import start

logger = logging.getLogger(__name__)
T = TypeVar("T")

READERS, WRITERS, WALKERS = 4, 2, 1
"""Threads that read; that write and delete; that sweep, purge and list."""
MAX_READS, MAX_WRITES, MAX_WALKS = 1024, 1024, 8
"""Calls of each kind at once; one more is skipped."""
MAX_WRITE_BYTES = 64 * MIB
"""Bytes of values that wait to be written; beyond them a value is skipped."""
SHARE = 8
"""Fewest keys that a thread reads, of several that are looked for together."""
READ_DEADLINE = 1.0
"""Seconds after which a get is a miss."""
WRITE_DEADLINE = 2.0
"""Seconds after which a set or delete is abandoned; it may still happen."""
WALK_DEADLINE = 30.0
"""Seconds after which a purge, clear or keys is abandoned; it may still happen."""
OPEN_DEADLINE = 5.0
"""Seconds that opening the folder may take."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
REST = 5.0
"""Seconds that nothing is stored after the disk failed."""


COUNTED = {
    "hits": "gets that found a value",
    "misses": "all other gets, whatever the reason",
    "expired": "misses on an expired entry, which is removed",
    "torn": "misses on a file that is damaged, of another version or of another key; it is removed",
    "foreign": "misses on what has an entry's name but is not a regular file",
    "stores": "sets that reached the disk",
    "skipped": "calls not tried: not a key of ours, too large, expired, or the disk pauses or is behind",
    "failures": "disk errors and missed deadlines",
    "purged": "entries that purge and clear removed",
    "pruned": "files that sweeps removed",
}
"""Every name in `FileCache.counts` and what it counts."""


class FileCache(BaseCache):
    """Entries in a folder, opened with `async with`, which raises SettingsError if the folder cannot be used.

    Keys are bytes of the form `folder.KEY`, nothing is stored under others; values are bytes. Of aiocache's calls it
    has get, set, delete and clear. `clock` gives seconds since the epoch.
    """

    NAME = "file"

    def __init__(self, tier: FileTier, *, clock: Callable[[], float] = time.time) -> None:
        # The deadlines are ours: aiocache's timeout would raise.
        super().__init__(serializer=NullSerializer(), timeout=None, ttl=tier.timeout)
        self.tier = tier
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._clock = clock
        self._folder = Folder(tier, clock)
        self._reads = Threads(READERS, MAX_READS)
        self._writes = Threads(WRITERS, MAX_WRITES, MAX_WRITE_BYTES)
        self._walks = Threads(WALKERS, MAX_WALKS)
        self._sweeper: asyncio.Task[None] | None = None
        self._unswept = 0
        self._rests_until = 0.0
        self._log_pause = LogPause()

    async def __aenter__(self) -> Self:
        self._folder.closed = False
        for threads in (self._reads, self._writes, self._walks):
            threads.open()
        try:
            await self._walks.run(self._folder.open, OPEN_DEADLINE)
        except (OSError, ValueError) as exc:  # a path with a NUL is a ValueError
            await self.close()
            reason = _reason(exc) if isinstance(exc, OSError) else exc
            msg = f"MILLRACE_CACHE: the folder {str(self.tier.path)!r} cannot be used: {reason}"
            raise SettingsError(msg) from exc
        self._start_sweeping()
        return self

    async def _close(self, *_: Any, **__: Any) -> None:
        self._folder.closed = True
        # Before the sweeper is cancelled: otherwise nobody waits for its thread, which would go on sweeping.
        await asyncio.gather(*(threads.close() for threads in (self._reads, self._writes, self._walks)))
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait({self._sweeper})

    async def keys(self) -> list[bytes]:
        """Return all keys, including expired ones until a sweep."""
        return await self._walk(self._folder.keys, WALK_DEADLINE) or []

    async def stats(self) -> list[dict[str, str | int]]:
        """Return the folder's `path`, the number of `entries`, including expired ones, and the counts."""
        entries = len(await self.keys())
        return [{"tier": self.NAME, "path": str(self.tier.path), "entries": entries, **self.counts}]

    async def purge(self, matches: Callable[[bytes], bool]) -> int:
        """Remove the entries whose key `matches`, which is called in a thread; returns how many.

        Raises PurgeError if disk errors prevented that for some.
        """
        wrong = self.counts["failures"] + self.counts["skipped"]
        removed = await self._walk(partial(self._folder.purge, matches), WALK_DEADLINE) or 0
        self.counts["purged"] += removed
        if self.counts["failures"] + self.counts["skipped"] > wrong:
            msg = f"the cache in {self.tier.path} fails: {removed} entries were removed, others may be left"
            raise PurgeError(msg, removed)
        return removed

    # -- aiocache's interface

    async def _get(self, key: Any, encoding: str = "utf-8", _conn: Any = None) -> bytes | None:
        return (await self._multi_get([key], encoding))[0]

    async def _multi_get(self, keys: Sequence[Any], encoding: str, _conn: Any = None) -> list[bytes | None]:  # noqa: ARG002
        """Read several in as many threads as they fill: a slow disk answers several at once, and where one hangs, the
        others read on.
        """
        left = deque(key for key in keys if self._is_ours(key))
        found: dict[bytes, tuple[str, bytes | None] | OSError] = {}
        read = partial(self._folder.read_all, left, found)
        threads = min(READERS, -(-len(left) // SHARE))
        try:
            if threads == 1:
                await self._run(self._reads, read, READ_DEADLINE)
            else:
                await asyncio.gather(*(self._run(self._reads, read, READ_DEADLINE) for _ in range(threads)))
        finally:
            left.clear()  # a thread that hangs now reads nothing more
        return [self._counted(self._taken(found.get(key))) for key in keys]

    def _taken(self, read: tuple[str, bytes | None] | OSError | None) -> tuple[str, bytes | None] | None:
        if isinstance(read, OSError):
            self._fail(read)
            return None
        return read

    def _counted(self, found: tuple[str, bytes | None] | None) -> bytes | None:
        reason, value = found or ("", None)
        if reason:
            self.counts[reason] += 1
        self.counts["misses" if value is None else "hits"] += 1
        return value

    async def _set(
        self, key: Any, value: bytes, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        """Store a value for `ttl` seconds, at most the tier's timeout; False if that failed; the old one may remain."""
        lifetime = self.tier.timeout if ttl is None else min(ttl, self.tier.timeout)
        if not self._is_ours(key):
            return False
        if not lifetime > 0 or len(value) > MAX_ENTRY_BYTES or time.monotonic() < self._rests_until:
            self.counts["skipped"] += 1
            return False
        write = partial(self._folder.write, key, value, self._clock() + lifetime)
        if not await self._run(self._writes, write, WRITE_DEADLINE, len(value)):
            return False
        self.counts["stores"] += 1
        self._unswept += 1
        if self._is_due() and (self._sweeper is None or self._sweeper.done()):
            self._start_sweeping()
        return True

    async def _delete(self, key: Any, _conn: Any = None) -> int:
        if not self._is_ours(key):
            return 0
        return await self._run(self._writes, partial(self._folder.delete, key), WRITE_DEADLINE) or 0

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        try:
            await self.purge(lambda key: key.startswith((namespace or "").encode()))
        except PurgeError:
            return False
        return True

    # -- the disk

    def _is_ours(self, key: Any) -> bool:
        ours = isinstance(key, bytes) and KEY.fullmatch(key) is not None
        self.counts["skipped"] += not ours
        return ours

    def _is_due(self) -> bool:
        return self._unswept >= max(1, int(self.tier.threshold * SWEEP_SHARE))

    def _start_sweeping(self) -> None:
        means = "the folder grows until so much is stored again"
        self._sweeper = start(self._sweep(), f"sweeping {self.tier.path}", means=means, fatal=False)

    async def _sweep(self) -> None:
        """Sweep, and again while enough was stored meanwhile."""
        while True:
            self._unswept = 0
            self.counts["pruned"] += await self._walk(self._folder.sweep, None) or 0
            if not self._is_due():
                return

    async def _walk(self, walk: Callable[[], Walked[T]], deadline: float | None) -> T | None:
        walked = await self._run(self._walks, walk, deadline)
        if walked is None:
            return None
        for exc in walked.errors:
            self._fail(exc)
        return walked.found

    async def _run(self, threads: Threads, call: Callable[[], T], deadline: float | None, weight: int = 0) -> T | None:
        try:
            return await threads.run(call, deadline, weight)
        except Refused:
            self.counts["skipped"] += 1
        except OSError as exc:  # TimeoutError is one
            self._fail(exc)
        return None

    def _fail(self, exc: OSError) -> None:
        self.counts["failures"] += 1
        if exc.errno != errno.ENOENT:
            self._rests_until = time.monotonic() + REST
        if exc.errno in _FULL and (self._sweeper is None or self._sweeper.done()):
            self._folder.is_full = True
            self._start_sweeping()
        if self._log_pause.is_over(exc.errno):
            logger.warning("the cache in %s fails: %s", self.tier.path, _reason(exc))


def _reason(exc: OSError) -> str:
    return exc.strerror or "no answer in time"
