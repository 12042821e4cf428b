"""One front to all tiers: memory first, which answers without an await, then the tiers that workers share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self

from aiocache.base import BaseCache

from models.errors import AnswerError, PurgeError
from models.large import LARGE
from streams.cache.changes import CLOCK_SLACK, Changes, marker_key, read_marker, target_of, write_marker
from streams.cache.entry import LONGEST, Entry, decode_entry, encode_entry
from streams.cache.lookup_queue import TURN, Later, LookupQueue
from streams.cache.memory import MemoryCache
from streams.config.cache_url import FileTier, MemcachedTier, MemoryTier, Tier
from streams.pool import LargeWork
from streams.tasks import end_tasks, start
from streams.telemetry.timed import timed

logger = logging.getLogger(__name__)

MAX_WRITES = 1_024
"""Writes to lower tiers at once; beyond them an answer is only cached in memory."""
MARK_AGAIN = 5.0
"""Seconds until the marker of a change is written again that its tier has not taken."""
MOMENT = 1.0
"""Seconds that an answer stays in memory without a memory tier: for requests that come at once."""
CLOSE_TIMEOUT = 2.0
"""Seconds that writes in progress may take to finish when the cache is closed."""


class Cache:
    """Opened with `async with`. Keys as `agents.answer.parsed_requests.entry_key` makes them; none of its calls raises.

    `large` validates entries that would block the event loop. `longest`: most seconds that an entry of a lower tier may
    be used. `counts`: `lower_hits`, `lower_misses`, `refused` (invalid entries of a lower tier), `outdated` (entries
    from before a change), `unwritten` (too many writes in progress).
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.time,
        large: LargeWork | None = None,
    ) -> None:
        first = tiers[0] if tiers and isinstance(tiers[0], MemoryTier) else None
        self._longest_in_memory = LONGEST if first else MOMENT
        # Without a memory tier it still has failures, and for a moment what was fetched.
        self.memory = MemoryCache(first or MemoryTier(entries=1_000, bytes=1 << 20), group=target_of)
        self.lower: list[BaseCache] = [_lower(tier) for tier in tiers if not isinstance(tier, MemoryTier)]
        self._clock = clock
        self._large = large
        self._stack = AsyncExitStack()
        self.lookups = LookupQueue(self._look_up)
        self._writes: set[asyncio.Task[None]] = set()
        self._last: dict[tuple[bytes, int], asyncio.Task[None]] = {}
        self._unmarked: dict[tuple[bytes, int], BaseCache] = {}
        self._marking: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()
        self.changes = Changes(longest)
        self.peek: Callable[[bytes], Entry | None] = self.memory.peek  # the hit path: one call less

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for tier in self.lower:
                await opening.enter_async_context(tier)
            self._stack = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._marking is not None:
            await end_tasks(self._marking)
        if self._writes:
            _done, late = await asyncio.wait(self._writes, timeout=CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
        await self.lookups.close()
        await self._stack.aclose()

    async def find(self, key: bytes) -> Entry | None:
        """Return the entry of the first lower tier that has one, and store it in the tiers above.

        The one in memory stays if it is as new.
        """
        return await self.lookups.find(key)

    async def _look_up(self, keys: Sequence[bytes]) -> Mapping[bytes, Entry | Later]:
        """Do what `find` does, for several keys with one call to a tier; large ones are only read."""
        found: dict[bytes, Entry] = {}
        large: dict[bytes, Later] = {}
        left = keys
        for place, tier in enumerate(self.lower):
            for key, (written, entry) in (await self._read(tier, left)).items():
                if self._large is not None and len(written) > LARGE:
                    large[key] = partial(self._looked_at, key, entry, written, place)
                else:
                    found[key] = entry
                    self._store(key, entry, written, self.lower[:place])
            left = [key for key in left if key not in found and key not in large]
            if not left:
                break
        # While other keys were looked for in the next tier:
        for key in [key for key, entry in found.items() if self._has_changed(key, entry)]:
            del found[key]
            self.counts["outdated"] += 1
        for name, count in (("lower_hits", len(found)), ("lower_misses", len(keys) - len(found) - len(large))):
            if count:
                self.counts[name] += count
        newest = {key: self._newest(key, found.get(key)) for key in keys if key not in large}
        return large | {key: entry for key, entry in newest.items() if entry is not None}

    async def _looked_at(self, key: bytes, entry: Entry, written: bytes, place: int) -> Entry | None:
        """Return what is found of a key, once another process has looked at its large entry of the tier at `place`."""
        assert self._large is not None
        try:
            whole = await self._large.run("look at an entry", entry.shared) == b"true"
        except AnswerError:
            whole = False
        if whole and not self._has_changed(key, entry):
            self.counts["lower_hits"] += 1
            self._store(key, entry, written, self.lower[:place])
            return self._newest(key, entry)
        self.counts["lower_misses"] += 1
        self._remove(key, self.lower[place], "outdated" if whole else "refused")
        return self._newest(key, None)

    def _has_changed(self, key: bytes, entry: Entry) -> bool:
        """Whether an entry was requested before a change that this process knows of."""
        target = target_of(key) if self.changes.count else None
        return target is not None and entry.asked_at <= self.changes.time_of(target) + CLOCK_SLACK

    def _newest(self, key: bytes, found: Entry | None) -> Entry | None:
        in_memory = self.peek(key)
        if found is None or (in_memory is not None and in_memory.asked_at >= found.asked_at):
            return in_memory
        self.put_in_memory(key, found)
        return found

    async def _read(self, tier: BaseCache, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, Entry]]:
        """Return the usable entries of a tier by key, each as written, too; remove the unusable ones."""
        found: dict[bytes, tuple[bytes, Entry]] = {}
        end = time.monotonic() + TURN
        for key, written in zip(keys, await _get(tier, keys), strict=True):
            if written is None:
                continue
            entry = self._decoded(key, written)
            if entry is None:
                self._remove(key, tier, "refused")
            else:
                found[key] = written, entry
            if time.monotonic() >= end:
                await asyncio.sleep(0)
                end = time.monotonic() + TURN
        for key in await self._outdated({key: entry for key, (_, entry) in found.items()}):
            del found[key]
            self._remove(key, tier, "outdated")
        return found

    async def _outdated(self, entries: Mapping[bytes, Entry]) -> list[bytes]:
        """Return the keys of those that were requested before a change that any tier may know of."""
        of = {key: target for key in entries if (target := target_of(key)) is not None}
        targets = list(dict.fromkeys(of.values()))
        changed_at = dict.fromkeys(targets, 0.0)
        for tier in self.lower if targets else ():
            for target, written in zip(targets, await _get(tier, list(map(marker_key, targets))), strict=True):
                marked = None if written is None else read_marker(written, self._clock())
                if marked is not None:
                    changed_at[target] = max(marked, changed_at[target])
        # Ours last: it may have changed while we looked.
        return [
            key
            for key, target in of.items()
            if entries[key].asked_at <= max(self.changes.time_of(target), changed_at[target]) + CLOCK_SLACK
        ]

    def _remove(self, key: bytes, tier: BaseCache, why: str) -> None:
        self.counts[why] += 1
        self._write(key, tier, tier.delete(key))

    def _decoded(self, key: bytes, written: bytes) -> Entry | None:
        if self._large is None or len(written) <= LARGE:
            return decode_entry(key, written, self._clock())
        return decode_entry(key, written, self._clock(), is_whole=lambda _: True)

    def put(self, key: bytes, entry: Entry) -> None:
        """Store an entry: at once in memory, and soon in the lower tiers unless it is a failure."""
        self.put_in_memory(key, entry)
        if self.lower and entry.error is None:
            self._store(key, entry, encode_entry(key, entry), self.lower)

    def put_in_memory(self, key: bytes, entry: Entry) -> None:
        """Store an entry in this process only."""
        seconds = entry.keep_until - self._clock()
        self.memory.put(key, entry, seconds if entry.error else min(seconds, self._longest_in_memory))

    def drop(self, key: bytes) -> None:
        """Remove an entry: at once from memory, and soon from the lower tiers."""
        self.memory.drop(key)
        for tier in self.lower:
            self._write(key, tier, tier.delete(key))

    def change(self, target: bytes) -> None:
        """Remove all entries of a target (16 hex digits of a key), which has changed at the upstream.

        What was requested before is not cached either, here or by the workers that share a lower tier.
        """
        self.changes.note(target, self._clock())
        removed_keys = self.memory.drop_group(target)
        for tier in self.lower:
            for key in removed_keys:
                self._write(key, tier, tier.delete(key))
            if self.changes.schedule(target, id(tier)):
                self._write(marker_key(target), tier, self._mark(target, tier))

    async def _mark(self, target: bytes, tier: BaseCache) -> None:
        self.changes.start(target, id(tier))
        if await self._set_marker(target, tier) is False:
            self._unmarked[target, id(tier)] = tier
            if self._marking is None or self._marking.done():
                means = "workers that share the tier may use answers from before a change"
                self._marking = start(self._mark_again(), "marking changes", means=means, fatal=False)

    async def _mark_again(self) -> None:
        """Write the markers that their tiers have not taken: one that rests comes back with all its entries."""
        while self._unmarked:
            await asyncio.sleep(MARK_AGAIN)
            for (target, place), tier in list(self._unmarked.items()):
                if not self.changes.time_of(target) or await self._set_marker(target, tier) is not False:
                    self._unmarked.pop((target, place), None)

    async def _set_marker(self, target: bytes, tier: BaseCache) -> Any:
        marker = write_marker(self.changes.time_of(target))
        return await tier.set(marker_key(target), marker, ttl=self.changes.longest)

    async def stats(self) -> dict[str, Any]:
        """Return the figures of each tier, and the counts."""
        tiers, counts = [self.memory.stats()], {"front": dict(self.counts)}
        for tier in self.lower:
            tiers += await tier.stats()
            counts[tier.NAME] = dict(tier.counts)
        return {"tiers": tiers, "counts": counts}

    @timed(name="purge")
    async def purge(self, matches: Callable[[bytes], bool]) -> int:
        """Remove the entries whose key matches from all tiers; returns how many removals there were.

        Raises PurgeError naming the tiers that could not be searched, once all others are purged.
        """
        removed, problems = 0, []
        for tier in self.lower:
            try:
                removed += await tier.purge(matches)
            except PurgeError as exc:
                removed += exc.removed
                problems.append(str(exc))
        # Memory last: until the lower tiers were empty they might have filled it again.
        found = [key for key in self.memory.keys() if matches(key)]  # noqa: SIM118  a method of ours, no dict
        removed += sum(self.memory.drop(key) for key in found)
        if problems:
            raise PurgeError("\n".join(problems), removed)
        return removed

    def _store(self, key: bytes, entry: Entry, written: bytes, tiers: Sequence[BaseCache]) -> None:
        """Write to tiers, unless the entry has expired or too many writes are in progress."""
        seconds = entry.keep_until - self._clock()
        for tier in tiers if seconds > 0 else ():
            if len(self._writes) >= MAX_WRITES:
                self.counts["unwritten"] += 1
            else:
                self._write(key, tier, tier.set(key, written, ttl=seconds))

    def _write(self, key: bytes, tier: BaseCache, work: Coroutine[Any, Any, Any]) -> None:
        """Write in the background. Writes to one key keep their order."""
        place = key, id(tier)
        task = start(_after(self._last.get(place), work), "writing to a tier", means="the answer is not cached there")
        self._last[place] = task
        self._writes.add(task)
        task.add_done_callback(partial(self._written, place))

    def _written(self, place: tuple[bytes, int], task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if self._last.get(place) is task:
            del self._last[place]


async def _get(tier: BaseCache, keys: Sequence[bytes]) -> Sequence[bytes | None]:
    try:
        written: Sequence[bytes | None] = await tier.multi_get(keys)
    except Exception:  # the tiers do not raise; if one does, the requests are answered all the same
        logger.exception("a cache tier failed to read: the requests are fetched")
        return [None] * len(keys)
    return written


async def _after(earlier: asyncio.Task[None] | None, work: Coroutine[Any, Any, Any]) -> None:
    try:
        if earlier is not None:
            await asyncio.wait({earlier})
        await work
    except Exception:  # the tiers do not raise; if one does, the request is answered all the same
        logger.exception("a cache tier failed to write: the answer is not cached there")
    finally:
        work.close()  # unless it was awaited, it would complain


def _lower(tier: Tier) -> BaseCache:
    """Return the cache of a lower tier; its client is only imported if there is one."""
    if isinstance(tier, FileTier):
        from streams.cache.file import FileCache  # noqa: PLC0415

        return FileCache(tier)
    assert isinstance(tier, MemcachedTier)
    from streams.cache.memcached import MemcachedCache  # noqa: PLC0415

    return MemcachedCache(tier)
