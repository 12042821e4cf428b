"""One front to all tiers: memory first, lower tiers behind it, which may be slow, wrong, full of garbage or broken."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import MillraceError, PurgeError, Unreachable
from models.large import LARGE
from streams.cache import front
from streams.cache.changes import marker_key, target_of, write_marker
from streams.cache.entry import REVALIDATE_WITHIN, decode_entry, encode_entry, failed_entry, fresh_entry
from streams.cache.file import FileCache
from streams.cache.freshness import Freshness
from streams.cache.front import MAX_WRITES, MOMENT, Cache
from streams.cache.lookup_queue import MAX_LOOKUPS
from streams.cache.memcached import MemcachedCache
from streams.cache.memory import ENTRY_OVERHEAD
from streams.config.cache_url import FileTier, MemcachedTier, MemoryTier
from tests.fakes import Clock

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""
NOW = 1_800_000_000.0
KEY, OTHER = b"00000000-4a6965d8262a22b0-" + b"0" * 40, b"00000000-4a6965d8262a22b0-" + b"1" * 40
SHARED = b'"outcome":"ok","document":%d,"attempts":1,"fetched_at":"2027-01-15T08:00:00.000Z"'


def entry(version, fetched_at=NOW, **headers):
    """Make an entry that is fresh for a minute and stands in for failures for ten."""
    return fresh_entry(SHARED % version, fetched_at, Freshness(60.0, 0.0, 600.0), headers=headers)


class Tier:
    """A dict that is asked with `await`; each kind of call can be held up, or broken."""

    def __init__(self):
        self.kept, self.ttls, self.calls = {}, {}, []
        self.gates: dict[str, asyncio.Event] = {}
        self.broken = None
        self.resting = False
        self.opened = 0

    async def __aenter__(self):
        self.opened += 1
        return self

    async def __aexit__(self, *_):
        self.opened -= 1

    async def _pass(self, what):
        self.calls.append(what)
        if what in self.gates:
            await self.gates[what].wait()
        if self.broken is not None:
            raise self.broken

    async def get(self, key):
        found = self.kept.get(key)  # as of when it was asked
        await self._pass("get")
        return found

    async def multi_get(self, keys):
        return await asyncio.gather(*map(self.get, keys))

    async def set(self, key, value, ttl):
        await self._pass("set")
        if self.resting:
            return False
        self.kept[key], self.ttls[key] = value, ttl
        return True

    async def delete(self, key):
        await self._pass("delete")
        return int(self.kept.pop(key, None) is not None)

    async def purge(self, matches):
        await self._pass("purge")
        found = [key for key in self.kept if matches(key)]
        for key in found:
            del self.kept[key]
        return len(found)


class Large:
    """Another process, which answers when it is told to."""

    def __init__(self):
        self.waiting = []

    async def run(self, *_):
        self.waiting.append(asyncio.get_running_loop().create_future())
        return await self.waiting[-1]


@pytest.fixture
async def clock():
    return Clock(NOW)


@pytest.fixture
async def upper():
    return Tier()


@pytest.fixture
async def lower():
    return Tier()


@pytest.fixture
async def cache(clock, upper, lower):
    """A cache of memory and two lower tiers."""
    cache = Cache((MemoryTier(),), clock=clock)
    cache.memory._clock = clock
    cache.lower = [upper, lower]
    async with cache:
        yield cache


async def settle(cache):
    """Let what is written behind the answers' backs be written."""
    async with asyncio.timeout(PATIENCE):
        while cache._writes:
            await asyncio.sleep(0)


async def test_tiers_are_what_the_settings_name(tmp_path):
    """Memory takes its size from its tier, the lower ones keep their order, and without memory there is a little."""
    tiers = (MemoryTier(entries=3), FileTier(tmp_path), MemcachedTier((("localhost", 1),)))
    cache = Cache(tiers)
    assert cache.memory.tier == tiers[0]
    assert [type(tier) for tier in cache.lower] == [FileCache, MemcachedCache]
    assert [type(tier) for tier in Cache(tiers[1:]).lower] == [FileCache, MemcachedCache]
    assert Cache(tiers[1:]).memory.tier.bytes == 1 << 20


async def test_what_is_put_is_in_every_tier(cache, upper, lower):
    """At once in memory, soon in the others, for as long as it is of use."""
    kept = entry(1, ETag='"1"')
    cache.put(KEY, kept)
    assert cache.peek(KEY) is kept
    await settle(cache)
    for tier in (upper, lower):
        assert decode_entry(KEY, tier.kept[KEY], NOW) == kept
        assert tier.ttls[KEY] == 660 + REVALIDATE_WITHIN


async def test_without_a_memory_tier_memory_keeps_an_answer_for_a_moment(tmp_path):
    """Another worker may change what the shared tier holds; where memory is a tier, it keeps what the entry allows."""
    for tiers, kept in (((FileTier(tmp_path),), False), ((MemoryTier(), FileTier(tmp_path)), True)):
        now = NOW
        cache = Cache(tiers, clock=lambda: NOW)
        cache.memory._clock = lambda: now  # noqa: B023
        cache.put_in_memory(KEY, entry(1))
        assert cache.peek(KEY) is not None
        now += MOMENT
        assert (cache.peek(KEY) is not None) is kept
        cache.put(KEY, failed_entry(b'"outcome":"unreachable"', NOW, 5.0, Unreachable("gone")))
        now += MOMENT
        assert cache.peek(KEY) is not None


async def test_a_failure_stays_in_memory(cache, upper, lower):
    """Other workers ask for themselves."""
    failed = failed_entry(b'"outcome":"unreachable"', NOW, 5.0, Unreachable("gone"))
    cache.put(KEY, failed)
    await settle(cache)
    assert cache.peek(KEY) is failed
    assert upper.calls == lower.calls == []


async def test_what_one_worker_learnt_stays_in_memory(cache, upper, lower):
    """`put_in_memory` writes to no lower tier."""
    cache.put_in_memory(KEY, entry(1))
    await settle(cache)
    assert upper.calls == lower.calls == []


async def test_an_entry_is_gone_from_memory_when_it_is_of_no_use(cache, clock):
    """Not before."""
    cache.put(KEY, entry(1))
    clock.now += 659.9
    assert cache.peek(KEY) is not None
    clock.now += 0.2
    assert cache.peek(KEY) is None


async def test_a_hit_in_a_lower_tier_fills_those_above(cache, clock, upper, lower):
    """The last tier has it; then memory and the tier between have it too, for what is left of its time."""
    lower.kept[KEY] = encode_entry(KEY, entry(1))
    clock.now += 100
    assert await cache.find(KEY) == cache.peek(KEY) == entry(1)
    await settle(cache)
    assert upper.kept == lower.kept
    assert upper.ttls[KEY] == 560
    assert "set" not in lower.calls
    assert cache.counts == {"lower_hits": 1}


async def test_the_first_tier_that_has_it_is_the_last_that_is_asked_for_it(cache, upper, lower):
    """A hit in the upper one costs the lower one a look for a change, of which it alone may know."""
    upper.kept[KEY] = encode_entry(KEY, entry(1))
    lower.kept[KEY] = encode_entry(KEY, entry(2))
    assert await cache.find(KEY) == entry(1)
    assert (upper.calls, lower.calls) == (["get", "get"], ["get"])


async def test_a_miss_everywhere_is_counted(cache):
    """None has it: nothing is found, nothing is written."""
    assert await cache.find(KEY) is None
    assert cache.counts == {"lower_misses": 1}
    assert not cache._writes


@pytest.mark.parametrize(
    ("in_memory", "below", "found"), [(2, 1, 2), (1, 2, 2), (1, 1, 1)], ids=["older", "newer", "as old"]
)
async def test_the_newer_of_memory_and_a_lower_tier_is_taken(  # noqa: PLR0917  three of them are a table
    cache, clock, upper, in_memory, below, found
):
    """Another worker may have fetched since, and this one too; what is as new stays with what was learnt of it."""
    clock.now += 10
    held = entry(in_memory, NOW + in_memory)._replace(ask_after=NOW + 15)
    cache.put_in_memory(KEY, held)
    upper.kept[KEY] = encode_entry(KEY, entry(below, NOW + below))
    assert await cache.find(KEY) == cache.peek(KEY) == (held if found == in_memory else entry(found, NOW + found))


@pytest.mark.parametrize("newer", [entry(2, NOW + 5), failed_entry(b'"x":1', NOW + 5, 5.0, Unreachable("gone"))])
async def test_what_came_while_a_lower_tier_was_asked_is_newer(cache, clock, upper, newer):
    """A slow tier's old answer does not take the place of what was fetched meanwhile, nor of a failure."""
    upper.kept[KEY] = encode_entry(KEY, entry(1))
    upper.gates["get"] = asyncio.Event()
    finding = asyncio.create_task(cache.find(KEY))
    await asyncio.sleep(0)
    clock.now += 5
    cache.put(KEY, newer)
    upper.gates["get"].set()
    await finding
    assert cache.peek(KEY) is newer


@pytest.mark.parametrize("garbage", [b"", b"\x80\x04K\x01.", encode_entry(OTHER, entry(1)), b"{}\n"])
async def test_garbage_is_counted_and_deleted_and_the_next_tier_asked(cache, upper, lower, garbage):
    """What is no entry of this key is none; the tier below may have one, which then takes its place."""
    upper.kept[KEY] = garbage
    lower.kept[KEY] = encode_entry(KEY, entry(1))
    assert await cache.find(KEY) == entry(1)
    assert cache.counts == {"refused": 1, "lower_hits": 1}
    await settle(cache)
    assert upper.kept == lower.kept


async def test_garbage_in_the_last_tier_is_a_miss(cache, lower):
    """Nothing is found, and the garbage is gone."""
    lower.kept[KEY] = b"garbage"
    assert await cache.find(KEY) is None
    await settle(cache)
    assert (lower.kept, cache.counts) == ({}, {"refused": 1, "lower_misses": 1})


async def test_what_is_dropped_is_gone_everywhere(cache, upper, lower):
    """At once from memory, soon from the others."""
    cache.put(KEY, entry(1))
    cache.put(OTHER, entry(2))
    await settle(cache)
    cache.drop(KEY)
    assert cache.peek(KEY) is None
    await settle(cache)
    assert set(upper.kept) == set(lower.kept) == {OTHER}


@pytest.mark.parametrize("then", ["drop", "put"])
async def test_writes_to_one_key_keep_their_order(cache, clock, upper, then):
    """A write that hangs does not undo what came after it."""
    upper.gates["set"] = asyncio.Event()
    cache.put(KEY, entry(1))
    await asyncio.sleep(0)
    gate = upper.gates.pop("set")
    if then == "drop":
        cache.drop(KEY)
    else:
        cache.put(KEY, entry(2, NOW + 1))
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    await settle(cache)
    assert upper.kept == ({} if then == "drop" else {KEY: encode_entry(KEY, entry(2, NOW + 1))})


@pytest.mark.slow
async def test_writes_are_bounded(cache, upper, lower, recwarn):
    """Beyond MAX_WRITES an answer is kept in memory alone, which is counted; later ones are written again."""
    upper.gates["set"] = lower.gates["set"] = asyncio.Event()
    keys = [b"%040d" % number for number in range(MAX_WRITES)]
    for key in keys:
        cache.put(key, entry(1))
    assert (len(cache._writes), cache.counts["unwritten"]) == (MAX_WRITES, MAX_WRITES)
    assert all(cache.peek(key) for key in keys)
    upper.gates["set"].set()
    await settle(cache)
    assert len(upper.kept) == len(lower.kept) == MAX_WRITES // 2
    cache.put(KEY, entry(1))
    await settle(cache)
    assert KEY in upper.kept
    assert not recwarn.list


async def test_what_is_dropped_is_gone_however_much_is_being_written(cache, upper, lower):
    """An answer that must not be kept does not come back from a tier that was too busy to delete it."""
    cache.put(KEY, entry(1))
    await settle(cache)
    upper.gates["set"] = lower.gates["set"] = asyncio.Event()
    for number in range(MAX_WRITES):
        cache.put(b"%040d" % number, entry(1))
    cache.drop(KEY)
    upper.gates["set"].set()
    await settle(cache)
    assert await cache.find(KEY) is None


async def test_lookups_are_bounded(cache, upper):
    """No more than MAX_LOOKUPS ask a lower tier at once; the others wait for their turn."""
    upper.gates["get"] = asyncio.Event()
    finding = [asyncio.create_task(cache.find(b"%040d" % number)) for number in range(MAX_LOOKUPS + 5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(upper.calls) == MAX_LOOKUPS
    upper.gates["get"].set()
    assert await asyncio.wait_for(asyncio.gather(*finding), PATIENCE) == [None] * (MAX_LOOKUPS + 5)


async def test_what_is_looked_for_together_is_one_call_a_tier(cache, upper, lower):
    """A hit, a miss, garbage and an entry from before a change: each is found out, and costs the others nothing."""
    keys = [b"00000000-%016d-" % number + b"1" * 40 for number in range(1, 5)]
    upper.kept = {keys[0]: encode_entry(keys[0], entry(1)), keys[1]: b"garbage"}
    lower.kept = {keys[2]: encode_entry(keys[2], entry(3)), marker_key(target_of(keys[2])): write_marker(NOW)}
    calls = []
    for tier in (upper, lower):
        get = tier.multi_get
        tier.multi_get = lambda asked, get=get: calls.append(len(asked)) or get(asked)
    assert await asyncio.gather(*map(cache.find, [*keys, keys[0]])) == [entry(1), None, None, None, entry(1)]
    assert calls == [4, 1, 1, 3, 1, 1]
    assert cache.counts == {"lower_hits": 1, "lower_misses": 3, "refused": 1, "outdated": 1}
    await settle(cache)
    assert [list(upper.kept), keys[2] in lower.kept] == [[keys[0]], False]


async def test_what_changes_while_others_are_looked_for_is_outdated(cache, upper, lower):
    """An entry of the first tier waits for the second, which is asked for other keys: meanwhile it may be of no use."""
    keys = [b"00000000-%016d-" % number + b"1" * 40 for number in range(1, 3)]
    upper.kept = {key: encode_entry(key, entry(1)) for key in keys[:1]}
    finding = [asyncio.create_task(cache.find(key)) for key in keys]
    while lower.calls != ["get"]:  # for the marker of the first
        await asyncio.sleep(0)
    lower.gates["get"] = asyncio.Event()
    while len(lower.calls) == 1:  # for the second
        await asyncio.sleep(0)
    cache.change(target_of(keys[0]))
    lower.gates["get"].set()
    assert await asyncio.gather(*finding) == [None, None]
    assert cache.peek(keys[0]) is None
    assert cache.counts == {"outdated": 1, "lower_misses": 2}


async def test_a_large_entry_holds_up_no_other(cache, clock, lower):
    """Others of the same call are found while another process still looks at it; broken, it is a miss and removed."""
    cache._large = Large()
    keys = [b"00000000-%016d-" % number + b"1" * 40 for number in range(1, 4)]
    large = fresh_entry(SHARED % 1 + b" " * LARGE, NOW, Freshness(60.0, 0.0, 600.0))
    lower.kept = {key: encode_entry(key, each) for key, each in zip(keys, (large, entry(1), large), strict=True)}
    finding = [asyncio.create_task(cache.find(key)) for key in keys]
    assert await asyncio.wait_for(finding[1], PATIENCE) == entry(1)
    assert [cache.peek(keys[0]), len(cache._large.waiting)] == [None, 2]
    for future, whole in zip(cache._large.waiting, (b"true", b"false"), strict=True):
        future.set_result(whole)
    assert await asyncio.gather(*finding) == [large, entry(1), None]
    assert [cache.peek(keys[0]), cache.peek(keys[2])] == [large, None]
    assert cache.counts == {"lower_hits": 2, "lower_misses": 1, "refused": 1}
    await settle(cache)
    assert keys[2] not in lower.kept


async def test_a_change_is_marked_once_its_tier_takes_it(cache, clock, lower, monkeypatch):
    """A memcached that rested for a moment comes back with what was asked for before the change: nobody may use it."""
    monkeypatch.setattr(front, "MARK_AGAIN", 0.01)
    cache.put(OTHER, entry(1))
    await settle(cache)
    lower.resting = True
    clock.now += 5
    cache.change(target_of(OTHER))
    async with asyncio.timeout(PATIENCE):
        while cache._marking is None:
            await asyncio.sleep(0)
    lower.resting = False
    async with asyncio.timeout(PATIENCE):
        await cache._marking
    assert lower.kept[marker_key(target_of(OTHER))] == write_marker(clock.now)


async def test_large_entries_that_wait_are_bounded(cache, lower):
    """No more are read than lookups may be in progress: each keeps its bytes until another process has looked at it."""
    cache._large = Large()
    large = fresh_entry(SHARED % 1 + b" " * LARGE, NOW, Freshness(60.0, 0.0, 600.0))
    keys = [b"00000000-%016d-" % number + b"1" * 40 for number in range(MAX_LOOKUPS + 5)]
    lower.kept = {key: encode_entry(key, large) for key in keys}
    finding = [asyncio.create_task(cache.find(key)) for key in keys]
    while len(cache._large.waiting) < MAX_LOOKUPS:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(cache._large.waiting) == MAX_LOOKUPS
    finding[0].cancel()
    while not all(task.done() for task in finding):
        for future in cache._large.waiting:
            if not future.done():
                future.set_result(b"true")
        await asyncio.sleep(0)
    assert [task.result() for task in finding[1:]] == [large] * (MAX_LOOKUPS + 4)
    assert cache.lookups._in_flight == 0


async def test_a_lookup_that_is_given_up_makes_room(cache, upper):
    """A request out of time leaves its place to the next."""
    upper.gates["get"] = asyncio.Event()
    finding = [asyncio.create_task(cache.find(b"%040d" % number)) for number in range(MAX_LOOKUPS)]
    await asyncio.sleep(0)
    for task in finding:
        task.cancel()
    await asyncio.gather(*finding, return_exceptions=True)
    upper.gates["get"].set()
    assert await asyncio.wait_for(cache.find(KEY), PATIENCE) is None


async def test_a_write_that_fails_harms_nobody(cache, upper, lower, caplog):
    """It is logged, memory and the other tier have the answer all the same."""
    upper.broken = OSError("disk")
    cache.put(KEY, entry(1))
    await settle(cache)
    assert cache.peek(KEY) == entry(1)
    assert KEY in lower.kept
    assert "a cache tier failed to write" in caplog.text


@pytest.mark.parametrize("fault", [TimeoutError(), OSError("disk"), MillraceError("odd")])
async def test_a_look_that_fails_is_a_miss(cache, upper, lower, fault):
    """The class says that none of its calls raises; the next tier is asked."""
    upper.broken = fault
    lower.kept[KEY] = encode_entry(KEY, entry(1))
    assert await cache.find(KEY) == entry(1)


async def test_a_validator_of_any_bytes_can_be_kept(cache):
    """An ETag may hold bytes beyond ASCII (RFC 9110, section 8.8.3); nothing is raised because of it."""
    kept = entry(1, ETag='"\udcff"')
    cache.put(KEY, kept)
    assert cache.peek(KEY) is not None


async def test_what_memory_cannot_hold_is_found_in_a_lower_tier(clock, lower):
    """An answer larger than all of memory is not kept there, and still found."""
    cache = Cache((MemoryTier(bytes=ENTRY_OVERHEAD + 10),), clock=clock)
    cache.lower = [lower]
    async with cache:
        cache.put(KEY, entry(1))
        await settle(cache)
        assert cache.peek(KEY) is None
        assert await cache.find(KEY) == entry(1)


async def test_a_purge_takes_from_all_tiers_what_matches(cache, upper, lower):
    """Removals are counted, tier by tier; what does not match stays."""
    for key in (KEY, OTHER):
        cache.put(key, entry(1))
    await settle(cache)
    del upper.kept[KEY]
    assert await cache.purge(lambda key: key == KEY) == 2
    assert cache.peek(KEY) is None
    assert cache.peek(OTHER) is not None
    assert set(upper.kept) == set(lower.kept) == {OTHER}


async def test_a_tier_that_cannot_be_purged_keeps_no_other_from_it(cache, upper, lower):
    """Memory and the other tiers are purged all the same; the error says what failed and counts what was removed."""
    cache.put(KEY, entry(1))
    await settle(cache)
    upper.broken = PurgeError("upper is away", 3)
    with pytest.raises(PurgeError, match="upper is away") as caught:
        await cache.purge(lambda _: True)
    assert (caught.value.removed, cache.peek(KEY), lower.kept) == (5, None, {})


async def test_memory_is_purged_last(cache, upper):
    """What a lower tier filled while it was purged goes too."""
    upper.gates["purge"] = asyncio.Event()
    purging = asyncio.create_task(cache.purge(lambda _: True))
    await asyncio.sleep(0)
    cache.put_in_memory(KEY, entry(1))
    upper.gates["purge"].set()
    assert await purging == 1
    assert cache.peek(KEY) is None


async def test_a_purge_of_a_tier_that_cannot_be_searched_says_so(cache, upper):
    """Whoever purges must know that it was not done."""
    upper.broken = MillraceError("not there")
    with pytest.raises(MillraceError, match=r"^not there$"):
        await cache.purge(lambda _: True)


async def test_tiers_are_opened_and_closed_with_it(cache, upper, lower):
    """Each once; what one has opened is closed if the next does not open."""
    assert (upper.opened, lower.opened) == (1, 1)
    broken = Tier()

    async def refuse():
        raise MillraceError("odd")

    class Broken(Tier):
        async def __aenter__(self):
            await refuse()

    other = Cache(())
    other.lower = [broken, Broken()]
    with pytest.raises(MillraceError):
        await other.__aenter__()
    assert broken.opened == 0


async def test_closing_waits_for_writes_but_not_for_ever(monkeypatch, lower):
    """What is being written may end; what hangs is given up, and the tier closed."""
    monkeypatch.setattr(front, "CLOSE_TIMEOUT", 0.01)
    quick, slow = Cache(()), Cache(())
    quick.lower = [lower]
    async with quick:
        quick.put(KEY, entry(1, NOW * 2))
    assert (KEY in lower.kept, lower.opened) == (True, 0)
    slow.lower = [lower]
    lower.gates["set"] = asyncio.Event()
    async with slow:
        slow.put(OTHER, entry(1, NOW * 2))
        await asyncio.sleep(0)
    assert (OTHER in lower.kept, lower.opened) == (False, 0)
