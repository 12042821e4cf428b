from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.cache.entry import Entry
from streams.cache.memory import ENTRY_OVERHEAD, MemoryCache
from streams.config.cache_url import MemoryTier
from tests.fakes import Clock

TTL = 60.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return MemoryCache(MemoryTier(ttl=TTL), clock=clock)


class Model:
    """The simplest thing that does the same: a list of (key, value, size, expires), least recently used first."""

    def __init__(self, tier):
        self.tier, self.rows, self.evictions = tier, [], 0

    def peek(self, key, now):
        row = next((row for row in self.rows if row[0] == key), None)
        if row is None:
            return None
        self.rows.remove(row)
        if row[3] <= now:
            return None
        self.rows.append(row)
        return row[1]

    def drop(self, key):
        before = len(self.rows)
        self.rows = [row for row in self.rows if row[0] != key]
        return len(self.rows) < before

    def put(self, key, value, ttl, now):
        self.drop(key)
        size = ENTRY_OVERHEAD + len(value)
        if size > self.tier.bytes:
            return False
        self.rows.append((key, value, size, now + (self.tier.ttl if ttl is None else ttl)))
        while len(self.rows) > self.tier.entries or sum(row[2] for row in self.rows) > self.tier.bytes:
            self.rows.pop(0)
            self.evictions += 1
        return True


KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])
STEPS = st.one_of(
    st.tuples(
        st.just("put"), KEYS, st.sampled_from([0, 1, 100, 600, 601, 3000]), st.sampled_from([None, 0.5, 2.0, 9.0])
    ),
    st.tuples(st.just("peek"), KEYS),
    st.tuples(st.just("drop"), KEYS),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.5, 5.0])),
)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 5), st.integers(1, 4000), st.lists(STEPS, max_size=40))
def test_it_behaves_like_a_simple_list(entries, size, steps):
    """Whatever is put, read, dropped and waited for, order, time to live and both bounds are those of the model."""
    tier = MemoryTier(entries=entries, bytes=size, ttl=3.0)
    clock = Clock()
    cache, model = MemoryCache(tier, clock=clock), Model(tier)
    for number, (what, *rest) in enumerate(steps):
        if what == "wait":
            clock.now += rest[0]
        elif what == "put":
            key, length, ttl = rest
            value = bytes([number]) * length
            assert cache.put(key, value, ttl) == model.put(key, value, ttl, clock.now)
        elif what == "peek":
            assert cache.peek(rest[0]) == model.peek(rest[0], clock.now)
        else:
            assert cache.drop(rest[0]) == model.drop(rest[0])
        assert len(cache) == len(model.rows) <= entries
        assert cache.bytes == sum(row[2] for row in model.rows) <= size
        assert cache.evictions == model.evictions
    for key in (b"a", b"b", b"c", b"d", b"e", b"f"):
        assert cache.peek(key) == model.peek(key, clock.now)


def test_the_least_recently_used_goes_first(clock):
    """Reading and writing an entry both keep it; the one untouched longest makes room."""
    cache = MemoryCache(MemoryTier(entries=3), clock=clock)
    for key in "abc":
        cache.put(key, b"1")
    cache.peek("a")
    cache.put("b", b"2")
    cache.put("d", b"1")
    assert [cache.peek(key) for key in "abcd"] == [b"1", b"2", None, b"1"]
    assert cache.evictions == 1


def test_an_entry_lives_until_its_time_and_no_longer(cache, clock):
    """Just before its time to live is over a value is there; at that time it is gone, and its bytes too."""
    cache.put("a", b"1")
    cache.put("b", b"1", ttl=1.0)
    clock.now += 0.999
    assert cache.peek("b") == b"1"
    clock.now += 0.001
    assert (cache.peek("b"), cache.peek("a")) == (None, b"1")
    clock.now += TTL - 1.0
    assert cache.peek("a") is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_alone_is_too_much_is_not_kept(clock):
    """An entry as big as the tier is kept; a byte more is not, and takes the old value with it."""
    cache = MemoryCache(MemoryTier(bytes=ENTRY_OVERHEAD + 10), clock=clock)
    assert cache.put("a", b"x" * 10) is True
    assert cache.put("a", b"x" * 11) is False
    assert cache.peek("a") is None
    assert cache.bytes == 0


@pytest.mark.parametrize(
    ("value", "size"), [(Entry(b"x" * 50, 1.0, 2.0), 50), (b"x" * 50, 50), ("x" * 50, 50), (7, 0), ({"a": 1}, 0)]
)
def test_what_an_entry_weighs(cache, value, size):
    """Encoded answers, bytes and text count with their length, anything else with the overhead alone."""
    cache.put("a", value)
    assert cache.bytes == ENTRY_OVERHEAD + size
    assert cache.peek("a") is value


def test_it_has_the_defaults_of_a_tier():
    """Without settings it is bounded as the contract says."""
    cache = MemoryCache()
    assert (cache.tier.entries, cache.tier.bytes, cache.tier.ttl) == (10_000, 64 << 20, 60.0)
    assert cache.put("a", b"1")
    assert cache.peek("a") == b"1"


def test_every_key_is_told(cache, clock):
    """Whoever purges sees all that is held, also what has just expired, in a list of its own."""
    cache.put(b"a", b"1", ttl=1.0)
    cache.put(b"b", b"2")
    clock.now += 5
    for key in cache.keys():  # noqa: SIM118  a method of ours, no dict
        cache.drop(key)
    assert (len(cache), cache.bytes) == (0, 0)


def test_an_entry_s_validators_weigh_too(clock):
    """What an upstream sends as validators is bounded with the rest."""
    cache = MemoryCache(MemoryTier(bytes=ENTRY_OVERHEAD + 5_000), clock=clock)
    assert cache.put("a", Entry(b"x", 1.0, 2.0, etag="e" * 8_000, last_modified="l" * 8_000)) is False
