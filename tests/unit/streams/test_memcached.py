from __future__ import annotations

import math
from collections import Counter

import pytest
from aiocache.base import BaseCache
from hypothesis import given
from hypothesis import strategies as st

from streams.cache.memcached import (
    COUNTED,
    KEY_LIMIT,
    LONGEST_TTL,
    SHARE,
    VALUE_LIMIT,
    MemcachedCache,
    choose,
    lifetime,
    stored_key,
)
from streams.config.cache_url import MemcachedTier
from tests.fakes import Clock

KEY = b"0123abcd-0123456789abcdef-" + b"0" * 40
NOWHERE = ("127.0.0.1", 1)


# -- keys


@pytest.mark.parametrize(
    ("prefix", "key", "stored"),
    [
        (b"mr", KEY, b"mr:" + KEY),
        (b"a:b", b"!~", b"a:b:!~"),
        (b"mr", b"x" * 247, b"mr:" + b"x" * 247),
        (b"mr", b"x" * 248, b"mr:#c7f9b244448c356a7c5c8310c9142aa34ae4d922988c1cd8bd6943aa5cbf4489"),
        (b"mr", b"", b"mr:#e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ],
)
def test_a_key_is_stored_behind_its_prefix(prefix, key, stored):
    """What memcached takes stays readable up to its last byte; the rest is hashed, the same way in every version."""
    assert stored_key(prefix, key) == stored


@pytest.mark.parametrize("key", [b"a b", b"a\r\nflush_all", b"a\0", b"\x7f", "ä".encode(), b"a:b", b"#a", b"a\n"])
def test_what_memcached_or_the_prefix_cannot_bear_is_hashed(key):
    """Spaces, control and other bytes, a colon and the mark of a hash itself never reach a server."""
    assert stored_key(b"mr", key).startswith(b"mr:#")
    assert len(stored_key(b"mr", key)) == len(b"mr:#") + 64


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 100))
def test_every_key_can_be_stored(one, other, length):
    """A stored key is one that memcached takes, without a colon behind the prefix, and no two keys share one."""
    prefix = b"p" * length
    stored = stored_key(prefix, one)
    assert len(stored) <= KEY_LIMIT
    assert all(0x21 <= byte <= 0x7E for byte in stored)
    assert b":" not in stored[length + 1 :]
    assert (stored == stored_key(prefix, other)) == (one == other)


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(60, 60), (60.9, 60), (0.2, 1), (0, 1), (-5, 1), (LONGEST_TTL + 1, LONGEST_TTL), (math.inf, LONGEST_TTL)],
)
def test_a_time_to_live_is_one_that_memcached_takes(ttl, seconds):
    """Whole seconds, never 0, which would be for ever, and never more than 30 days, which would be a date."""
    assert lifetime(ttl) == seconds
    assert type(lifetime(ttl)) is int


# -- which server


def keys(count):
    return [b"mr:%d" % number for number in range(count)]


def names(count):
    return [b"cache%d:11211" % number for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 2, 3, 8])
def test_a_new_server_takes_its_share_and_moves_nothing_else(servers):
    """Adding one server to N moves about 1/(N+1) of the keys, every one of them to the new server."""
    moved = [key for key in keys(5000) if choose(names(servers), key) != choose(names(servers + 1), key)]
    assert 0.9 < len(moved) * (servers + 1) / 5000 < 1.1
    assert {choose(names(servers + 1), key) for key in moved} == {names(servers + 1)[-1]}


def test_keys_spread_evenly_and_whatever_the_order():
    """Each of four servers has about a quarter, and the order in which they are written does not matter."""
    shares = Counter(choose(names(4), key) for key in keys(8000))
    assert all(0.9 < share / 2000 < 1.1 for share in shares.values())
    assert len(shares) == 4
    assert all(choose(names(4), key) == choose(names(4)[::-1], key) for key in keys(200))


def test_where_a_key_lives_is_the_same_in_every_version():
    """A release that chose otherwise would miss everything once."""
    assert [choose(names(3), key) for key in keys(6)] == [names(3)[number] for number in (1, 2, 1, 0, 0, 1)]


# -- the cache


async def test_what_is_too_large_is_never_sent():
    """A byte more than the limit is counted, and what the key had is to be deleted; the limit itself is tried."""
    async with MemcachedCache(MemcachedTier((NOWHERE,))) as cache:
        assert await cache.set(KEY, b"x" * (VALUE_LIMIT + 1), ttl=60) is False
        assert cache.counts == {"too_large": 1, "failures": 1}  # what the key had could not be deleted
    async with MemcachedCache(MemcachedTier((NOWHERE,))) as cache:
        assert await cache.set(KEY, b"x" * VALUE_LIMIT, ttl=60) is False
        assert cache.counts == {"failures": 1}


async def test_without_a_server_everything_is_a_miss():
    """Get, set and delete say so and raise nothing, be the server refusing or resting."""
    async with MemcachedCache(MemcachedTier((NOWHERE,))) as cache:
        assert isinstance(cache, BaseCache)
        for _ in range(2):
            assert await cache.get(KEY) is None
            assert await cache.get(KEY, default=b"d") == b"d"
            assert await cache.set(KEY, b"1", ttl=60) is False
            assert await cache.delete(KEY) == 0
        assert cache.counts == {"failures": 1, "resting": 7}
        assert set(cache.counts) <= set(COUNTED)


async def test_many_keys_go_in_several_exchanges_and_a_trial_has_one():
    """Large values of one exchange would take its time-out together, and those of a trial would keep a server away."""
    asked, clock = [], Clock(0.0)

    async def values(names):
        asked.append(len(names))
        if len(asked) == 1:
            raise ConnectionResetError
        return {each: each for each in names}

    many = [b"%040d" % number for number in range(2 * SHARE + 1)]
    async with MemcachedCache(MemcachedTier((NOWHERE,)), clock=clock) as cache:
        cache._only.client.values = values
        assert await cache.multi_get(many[:1]) == [None]
        clock.now += 60
        assert await cache.multi_get(many[:3]) == [b"mr:" + many[0], None, None]
        assert await cache.multi_get(many) == [b"mr:" + each for each in many]
    assert asked == [1, 1, SHARE, SHARE, 1]
    assert cache.counts == {"failures": 1, "resting": 2, "hits": 2 * SHARE + 2}


async def test_a_token_is_refused():
    """Compare-and-set is not offered, and not passed over either."""
    async with MemcachedCache(MemcachedTier((NOWHERE,))) as cache:
        with pytest.raises(NotImplementedError):
            await cache.set(KEY, b"1", _cas_token=b"0")
