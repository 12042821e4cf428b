"""The memcached tier on real memcached processes. None of it needs Kafka."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest

from streams.cache.changes import target_of
from streams.cache.entry import fresh_entry
from streams.cache.freshness import Freshness
from streams.cache.front import Cache
from streams.cache.memcached import LONGEST_TTL, VALUE_LIMIT, choose, stored_key
from streams.config.cache_url import parse_tiers
from tests.integration.memcached import PATIENCE, TIMEOUT, Clock, Memcached, key, on_both_loops, opened, within
from tests.turns import FOLLOWED, slowness


@pytest.fixture
def clock():
    return Clock()


def value(number, length=500):
    """A value that names its key, so that an answer for another key shows."""
    return (b"<%d>" % number * length)[:length]


def keys_of(server, servers, count):
    """The first numbers whose keys live on one of several servers."""
    marks = [b"%s:%d" % (each.host.encode(), each.port) for each in servers]
    mine = marks[servers.index(server)]
    return [n for n in range(10 * count) if choose(marks, stored_key(b"mr", key(n))) == mine][:count]


# -- what it keeps


@on_both_loops
@pytest.mark.parametrize(
    "data",
    [b"", b"x", bytes(range(256)) * 40, b"END\r\n" * 40_000, b"\r\n", b"VALUE mr:a 0 3\r\nabc\r\nEND\r\n"],
    ids=["empty", "a byte", "all bytes", "200 kB of ends", "a line end", "an answer"],
)
async def test_what_is_set_is_got(data):
    """A value comes back byte by byte, whatever is in it, until it is deleted."""
    async with Memcached() as memcached, opened(memcached) as cache:
        assert await cache.get(key()) is None
        assert await cache.set(key(), data, ttl=60) is True
        assert await cache.get(key()) == data
        assert [await cache.delete(key()), await cache.delete(key())] == [1, 0]
        assert await cache.get(key()) is None
        assert cache.counts == {"hits": 1, "misses": 2, "stores": 1}


@on_both_loops
async def test_the_largest_value_fits():
    """What is sent at most is what memcached takes under the longest key; of a byte more nothing is sent, and what the
    key had is gone, too.
    """
    async with Memcached() as memcached, opened(memcached, prefix="p" * 100, timeout=5.0) as cache:
        for name in (key(), b"k" * 149, b"k" * 500):
            assert await cache.set(name, b"x" * VALUE_LIMIT, ttl=60) is True
            assert await cache.get(name) == b"x" * VALUE_LIMIT
            assert await cache.set(name, b"x" * (VALUE_LIMIT + 1), ttl=60) is False
            assert await cache.get(name) is None
        assert cache.counts == {"hits": 3, "misses": 3, "stores": 3, "too_large": 3}


@on_both_loops
@pytest.mark.parametrize("options", [("-I", "512k"), ("-M", "-m", "2")], ids=["small items", "full memory"])
async def test_a_value_that_the_server_refuses_costs_no_rest(options):
    """A server that has no room says so: that is counted, and its other keys go on."""
    async with Memcached(*options) as memcached, opened(memcached, timeout=2.0) as cache:
        assert await cache.set(key(0), b"small", ttl=60) is True
        sizes = [600_000] * 4 + [100_000] * 30
        kept = [await cache.set(key(n), b"x" * size, ttl=60) for n, size in enumerate(sizes, 1)]
        assert not kept[3]
        assert await cache.get(key(0)) == b"small"
        assert cache.counts == {"stores": 1 + sum(kept), "refused": len(kept) - sum(kept), "hits": 1}


@on_both_loops
@pytest.mark.parametrize(("ttl", "seconds"), [(60, 60), (7.9, 7), (0.1, 1), (10 * LONGEST_TTL, LONGEST_TTL)])
async def test_the_time_to_live_reaches_the_server(ttl, seconds):
    """Memcached itself says how long it will keep the entry."""
    async with Memcached() as memcached, opened(memcached) as cache:
        await cache.set(key(), b"1", ttl=ttl)
        answer = await memcached.ask(b"mg mr:%b t\r\n" % key())
        assert answer in (b"HD t%d\r\n" % seconds, b"HD t%d\r\n" % (seconds - 1))


@on_both_loops
@pytest.mark.parametrize("host", ["::1", "localhost"])
async def test_ipv6_and_names_are_servers_too(host):
    """The loopback's IPv6 address and its name work as its IPv4 address does."""
    if host == "::1":
        try:
            probe = socket.create_server((host, 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("no IPv6 on loopback")
        probe.close()
    async with Memcached(host="::1" if host == "::1" else "127.0.0.1") as memcached:
        memcached.host = host
        async with opened(memcached, timeout=2.0) as cache:
            assert await cache.set(key(), b"1", ttl=60) is True
            assert await cache.get(key()) == b"1"
            assert [row["state"] for row in await cache.stats()] == ["up"]


# -- several servers, and servers that go away


@on_both_loops
async def test_several_are_got_together():
    """Each key's own value, whatever its size, from the server that has it, and None for those that none has."""
    async with Memcached() as one, Memcached() as other, opened(one, other, timeout=5.0) as cache:
        kept = {key(n): value(n, 1 + 40_000 * (n % 5)) for n in range(30) if n % 3}
        for name, data in kept.items():
            assert await cache.set(name, data, ttl=60)
        names = [key(n) for n in (*range(30), 1)]
        assert await cache.multi_get(names) == [kept.get(name) for name in names]
        assert cache.counts == {"stores": 20, "hits": 20, "misses": 10}
        await one.kill()
        lost = {key(n) for n in keys_of(one, [one, other], 30)}
        got = await cache.multi_get(list(kept))
        assert got == [None if name in lost else data for name, data in kept.items()]


@on_both_loops
async def test_each_key_lives_on_one_server():
    """Keys spread over the servers, each on the one that is its own and on no other."""
    async with Memcached() as one, Memcached() as other, opened(one, other) as cache:
        for number in range(40):
            assert await cache.set(key(number), value(number), ttl=60)
        for server in (one, other):
            mine = keys_of(server, [one, other], 40)
            assert all([await server.holds(b"mr:" + key(n)) == (n in mine) for n in range(40)])
        assert [await cache.get(key(n)) for n in range(40)] == [value(n) for n in range(40)]


@on_both_loops
async def test_one_dead_server_costs_its_own_keys_alone(clock):
    """Its keys miss, then at no cost; the other's go on; back on its port it is asked again, and was given nothing."""
    async with Memcached() as one, Memcached() as other, opened(one, other, clock=clock) as cache:
        lost, kept = keys_of(one, [one, other], 20), keys_of(other, [one, other], 20)
        for number in lost + kept:
            await cache.set(key(number), value(number), ttl=60)
        await one.kill()
        with within(TIMEOUT):
            assert [await cache.get(key(n)) for n in lost] == [None] * 20
        assert (cache.counts["failures"], cache.counts["resting"]) == (1, 19)
        assert await cache.set(key(lost[0]), b"new", ttl=60) is False
        assert [await cache.get(key(n)) for n in kept] == [value(n) for n in kept]
        assert not await other.holds(b"mr:" + key(lost[0]))
        await one.start()
        assert await cache.get(key(lost[0])) is None
        assert cache.counts["misses"] == 0
        clock.now += 1
        assert await cache.set(key(lost[0]), value(lost[0]), ttl=60) is True
        assert await cache.get(key(lost[0])) == value(lost[0])


@on_both_loops
async def test_a_restart_between_two_calls_is_not_noticed(clock):
    """Connections that ended while they lay idle are replaced: nothing fails, and what is gone is a miss."""
    async with Memcached() as memcached, opened(memcached, clock=clock) as cache:
        await cache.set(key(), b"1", ttl=60)
        await asyncio.gather(*(cache.get(key()) for _ in range(20)))
        await memcached.kill()
        await memcached.start()
        assert await cache.get(key()) is None
        assert await cache.set(key(), b"2", ttl=60) is True
        assert await cache.get(key()) == b"2"
        assert cache.counts.keys() == {"stores", "hits", "misses"}


@on_both_loops
async def test_a_server_that_hangs_costs_one_timeout_a_rest(clock, caplog):
    """However many ask a stopped server, they wait once, together; when it goes on no answer is another key's."""
    async with Memcached() as memcached, opened(memcached, clock=clock, timeout=TIMEOUT) as cache:
        for number in range(64):
            await cache.set(key(number), value(number), ttl=60)
        for rest in (1, 2):
            memcached.hang()
            with within(TIMEOUT):
                asked = [cache.get(key(n)) for n in range(64)] + [cache.set(key(n), value(n), ttl=60) for n in range(8)]
                assert set(await asyncio.gather(*asked)) == {None, False}
            waited = cache.counts["timeouts"]
            with within(0):
                assert [await cache.get(key(n)) for n in range(64)] == [None] * 64
            clock.now += 1
            with within(TIMEOUT):
                assert await asyncio.gather(*(cache.get(key(n)) for n in range(64))) == [None] * 64
            assert cache.counts["timeouts"] == waited + 1, rest
            memcached.go_on()
            clock.now += 2
            assert await cache.get(key(0)) == value(0)
            for _ in range(10):
                got = await asyncio.gather(*(cache.get(key(n)) for n in range(64)))
                assert got == [value(n) for n in range(64)]
        assert cache.counts["failures"] == 0
        assert [record.levelname for record in caplog.records if record.name.startswith("streams")] == ["WARNING"] * 4


@on_both_loops
async def test_many_calls_that_are_cut_off_leave_no_answer_behind():
    """Stops, time-outs and cancellations at random moments: not one of thousands of answers is for another key."""
    async with (
        Memcached() as memcached,
        opened(memcached, clock=lambda: next(ticks), timeout=0.01 * FOLLOWED * slowness()) as cache,
    ):
        ticks = iter(range(0, 10**9, 60))
        for number in range(100):
            await cache.set(key(number), value(number, 20_000), ttl=60)
        for turn in range(30):
            calls = [asyncio.create_task(cache.get(key(n))) for n in range(100)]
            if turn % 3 == 0:
                memcached.hang()
            await asyncio.sleep(0.0007 * turn)
            for call in calls[turn % 2 :: 2]:
                call.cancel()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            memcached.go_on()
            for number, answer in enumerate(answers):
                assert isinstance(answer, asyncio.CancelledError) or answer in (None, value(number, 20_000))
        assert cache.counts["hits"] > 100


@on_both_loops
async def test_nothing_is_logged_while_all_is_well(caplog):
    """Neither the client nor aiomcache has a word to say about hits, misses and sets."""
    async with Memcached() as memcached, opened(memcached) as cache:
        caplog.set_level(logging.INFO)
        await cache.set(key(), b"1", ttl=60)
        await asyncio.gather(*(cache.get(key(n)) for n in range(20)))
        assert caplog.records == []


# -- changes


@on_both_loops
async def test_what_one_worker_changed_no_other_finds():
    """The marker outlives the answers of before, under whatever server its key lives, and purging takes both."""
    shared = b'"outcome":"ok","document":1,"attempts":1,"fetched_at":"2027-01-15T08:00:00.000Z"'
    async with Memcached() as one, Memcached() as two:
        tiers = parse_tiers(f"memory:// memcached://{one.host}:{one.port},{two.host}:{two.port}?timeout={TIMEOUT}")
        names = [b"00000000-%016x-%040x" % (number, 7) for number in range(1, 9)]
        async with Cache(tiers, longest=60.0) as writer, Cache(tiers, longest=60.0) as changer, Cache(tiers) as reader:
            for name in names:
                writer.put(name, fresh_entry(shared, time.time(), Freshness(30.0, 0.0, 0.0)))
            await written(writer)
            for name in names[:4]:
                changer.change(target_of(name))
            await written(changer)
            assert [await reader.find(name) is None for name in names] == [True] * 4 + [False] * 4
            assert reader.counts == {"outdated": 4, "lower_misses": 4, "lower_hits": 4}
            await written(reader)
            assert await reader.purge(lambda _: True) == 4 + 4 + 4  # entries, markers, and what is in memory


async def written(cache):
    """Wait for what is written behind the answers' backs."""
    async with asyncio.timeout(PATIENCE):
        while cache._writes:
            await asyncio.wait(cache._writes)
