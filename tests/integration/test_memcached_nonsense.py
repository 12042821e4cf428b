"""The memcached tier on servers that only look like one: nothing that they say is another call's answer."""

from __future__ import annotations

import asyncio

import pytest

from streams.cache.memcached_connection import CONNECTIONS, Client
from streams.config.cache_url import MIB
from tests.integration.memcached import (
    HANG_UP,
    PATIENCE,
    TIMEOUT,
    Clock,
    Fake,
    found,
    key,
    on_both_loops,
    opened,
    until,
    within,
)


@pytest.fixture
def clock():
    return Clock()


NONSENSE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an error": b"ERROR\r\n",
    "no words": b"\r\n",
    "zeros": b"\0" * 100 + b"\r\n",
    "no line end": b"x" * 200_000,
    "a long line": b"x" * 50_000 + b"\r\n",
    "another key": found(key(1), b"wrong"),
    "another key first": found(key(1), b"wrong")[: -len(b"END\r\n")] + found(key(), b"wrong"),
    "another key after": found(key(), b"wrong")[: -len(b"END\r\n")] + found(key(1), b"wrong"),
    "twice": found(key(), b"wrong")[: -len(b"END\r\n")] + found(key(), b"wrong"),
    "one more answer": found(key(), b"wrong") + b"END\r\n",
    "too short a length": found(key(), b"wrong", length=3),
    "a length that ends before an end": found(key(), b"wrong\r\nEND", length=5),
    "a length that ends early before an end": found(key(), b"wrongxxEND", length=5),
    "no line end after a value": b"VALUE mr:%b 0 5\r\nwrongxxEND\r\n" % key(),
    "too long a length": found(key(), b"wrong", length=400),
    "a length over the end": found(key(), b"wrong", length=10),
    "no length": b"VALUE mr:%b 0\r\nwrong\r\nEND\r\n" % key(),
    "no number": b"VALUE mr:%b 0 many\r\nwrong\r\nEND\r\n" % key(),
    "less than nothing": b"VALUE mr:%b 0 -2\r\nEND\r\n" % key(),
    "more than there can be": found(key(), b"wrong", length=10**12),
    "half a head": b"VALUE mr:" + HANG_UP,
    "half a value": found(key(), b"wrong")[:-10] + HANG_UP,
    "a value and no end": found(key(), b"wrong")[: -len(b"END\r\n")] + HANG_UP,
    "the end": HANG_UP,
    "silence": None,
}


@on_both_loops
@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_is_a_miss(said, clock, caplog):
    """Whatever comes instead of an answer is none, ends that connection, and lets the server rest; all in time."""
    async with Fake(lambda _: said) as fake, opened(fake, clock=clock, timeout=TIMEOUT) as cache:
        with within(TIMEOUT):
            assert await cache.get(key()) is None
        assert await cache.get(key()) is None
        assert cache.counts["failures"] + cache.counts["timeouts"] == 1
        assert cache.counts["resting"] == 1
        await until(lambda: fake.open == 0)
        for question in (lambda: cache.set(key(), b"1", ttl=60), lambda: cache.delete(key())):
            clock.now += 60
            with within(TIMEOUT):
                assert await question() in (False, 0)
        assert cache.counts["failures"] + cache.counts["timeouts"] == 3
    assert [len(record.message) < 300 for record in caplog.records] == [True]


@on_both_loops
async def test_a_length_beyond_all_limits_is_not_waited_for():
    """A value that cannot be one is refused by its head: nothing of it is read, and no time passes."""
    async with Fake(lambda _: found(key(), b"wrong", length=MIB + 1)) as fake, opened(fake, timeout=PATIENCE) as cache:
        with within(0):
            assert await cache.get(key()) is None
        assert cache.counts == {"failures": 1}


@on_both_loops
async def test_a_failure_ends_every_connection():
    """Those that lie idle go at once, those in use after their answers, which count: all may be as bad."""
    late = asyncio.Event()

    async def answer(line):
        name = line.split()[1].removeprefix(b"mr:")
        if name == key(1):
            await late.wait()
        return b"nonsense\r\n" if name == key(2) else found(name, name)

    async with Fake(answer) as fake, opened(fake, timeout=PATIENCE) as cache:
        await asyncio.gather(*(cache.get(key(3)) for _ in range(CONNECTIONS)))
        under_way = asyncio.create_task(cache.get(key(1)))
        await until(lambda: len(fake.asked) == CONNECTIONS + 1)
        assert await cache.get(key(2)) is None
        await until(lambda: fake.open == 1)
        late.set()
        assert await under_way == key(1)
        await until(lambda: fake.open == 0)


@on_both_loops
async def test_an_entry_of_another_program_is_a_miss():
    """A value with flags is well-formed and not ours: a miss, for which the server need not rest."""
    async with Fake(lambda _: found(key(), b"theirs", flags=1)) as fake, opened(fake) as cache:
        assert [await cache.get(key()), await cache.get(key())] == [None, None]
        assert (cache.counts, fake.connections) == ({"misses": 2}, 1)


@on_both_loops
@pytest.mark.parametrize("how", ["time-out", "cancellation"])
async def test_a_late_answer_goes_nowhere(how, clock):
    """An answer to a call that was cut off reaches no later call, and its connection is closed."""
    late = asyncio.Event()

    async def answer(line):
        name = line.split()[1].removeprefix(b"mr:")
        if name == key(1):
            await late.wait()
        return found(name, name)

    async with Fake(answer) as fake, opened(fake, clock=clock, timeout=TIMEOUT) as cache:
        assert await cache.get(key(0)) == key(0)
        call = asyncio.create_task(cache.get(key(1)))
        await until(lambda: len(fake.asked) == 2)
        if how == "cancellation":
            call.cancel()
        await asyncio.wait([call])
        assert call.cancelled() or call.result() is None
        late.set()
        await until(lambda: fake.open == 0)
        clock.now += 1
        assert [await cache.get(key(n)) for n in (2, 2, 3, 1)] == [key(n) for n in (2, 2, 3, 1)]
        assert fake.connections == 2


@on_both_loops
async def test_what_comes_unasked_ends_an_idle_connection():
    """Bytes that arrive between two calls are not taken for the answer to the second."""
    async with Fake(lambda _: b"END\r\n") as fake, opened(fake) as cache:
        assert await cache.get(key()) is None
        fake.say(found(key(), b"unasked"))
        await asyncio.sleep(0.05)
        assert await cache.get(key()) is None
        assert (cache.counts, fake.connections) == ({"misses": 2}, 2)


@on_both_loops
async def test_opening_asks_nobody():
    """A cache opens and closes at once and without a connection, though its server would not answer."""
    async with Fake(lambda _: None) as fake:
        with within(0):
            async with opened(fake):
                pass
        assert fake.connections == 0


@on_both_loops
async def test_connections_are_few_and_kept():
    """Many calls at once share the connections that there may be, and later calls open no others."""

    async def answer(line):
        await asyncio.sleep(0.001)
        return found(line.split()[1].removeprefix(b"mr:"), b"1")

    async with Fake(answer) as fake:
        async with opened(fake, timeout=5.0) as cache:
            for _ in range(3):
                assert await asyncio.gather(*(cache.get(key(n)) for n in range(64))) == [b"1"] * 64
            assert fake.connections == fake.most == fake.open == CONNECTIONS
        await until(lambda: fake.open == 0)


@on_both_loops
async def test_the_client_closes_as_aiomcache_does():
    """The client's own close, which its pool serves, leaves no connection open."""
    async with Fake(lambda _: b"END\r\n") as fake:
        client = Client(*fake.address)
        assert await client.get(b"mr:%b" % key()) is None
        await client.close()
        await until(lambda: fake.open == 0)


@on_both_loops
@pytest.mark.parametrize("said", [*NONSENSE.values(), found(key(), b"right")[: -len(b"END\r\n")] + b"ERROR\r\n"])
async def test_nonsense_among_several_is_a_miss_for_all(said, clock):
    """Nothing of a reply that is not whole and right is used, not even what stands before its fault."""
    async with Fake(lambda _: said) as fake, opened(fake, clock=clock, timeout=TIMEOUT) as cache:
        with within(TIMEOUT):
            assert await cache.multi_get([key(), key(2)]) == [None, None]
        assert cache.counts["failures"] + cache.counts["timeouts"] == 2
        await until(lambda: fake.open == 0)
