from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter

import aiomcache
import pytest

from streams.cache.memcached_connection import Server, ServerUnavailable
from tests.fakes import Clock

NOWHERE = ("127.0.0.1", 1)
TIMEOUT = 0.05


class Question:
    """What a server is asked: it counts how often, and fails, waits or answers as told."""

    def __init__(self):
        self.asked = 0
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.asked += 1
        await self.gate.wait()
        if self.fails:
            raise ConnectionResetError
        return b"answer"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def question():
    return Question()


@pytest.fixture
def counts():
    return Counter()


@pytest.fixture
def server(clock, counts):
    return Server(NOWHERE, timeout=TIMEOUT, counts=counts, clock=clock)


async def fail(server, question):
    """Ask once and see it fail."""
    question.fails = True
    with pytest.raises(ServerUnavailable):
        await server.run(question)
    question.fails = False


async def is_away(server, question):
    """Whether the server is not even asked."""
    before = question.asked
    with pytest.raises(ServerUnavailable):
        await server.run(question)
    return question.asked == before


async def test_a_failure_is_followed_by_a_rest(server, question, clock, counts):
    """After a failure nothing is asked for a second; then it is, and an answer ends the rest."""
    assert await server.run(question) == b"answer"
    await fail(server, question)
    assert await is_away(server, question)
    clock.now += 0.999
    assert await is_away(server, question)
    clock.now += 0.001
    assert await server.run(question) == b"answer"
    assert await server.run(question) == b"answer"
    assert counts == {"failures": 1, "resting": 2}


async def test_rests_double_up_to_their_limit(server, question, clock):
    """1, 2, 4, 8, 16 and then 30 seconds, and 1 again after a success."""
    for rest in (1, 2, 4, 8, 16, 30, 30):
        await fail(server, question)
        clock.now += rest - 0.001
        assert await is_away(server, question)
        clock.now += 0.001
    assert await server.run(question) == b"answer"
    await fail(server, question)
    clock.now += 1
    assert await server.run(question) == b"answer"


async def test_one_call_tries_and_the_others_miss(server, question, clock):
    """When a rest is over one call goes through; until it has its answer the others are away at once."""
    await fail(server, question)
    clock.now += 1
    question.gate.clear()
    trial = asyncio.create_task(server.run(question))
    while question.asked < 2:
        await asyncio.sleep(0)
    assert await is_away(server, question)
    question.gate.set()
    assert await trial == b"answer"
    assert await server.run(question) == b"answer"


async def test_failures_of_one_moment_are_one(server, question, clock, counts, caplog):
    """Many calls that fail together make the server rest once, for one second, with one line in the log."""
    question.fails = True
    question.gate.clear()
    calls = [asyncio.create_task(server.run(question)) for _ in range(20)]
    while question.asked < 20:
        await asyncio.sleep(0)
    question.gate.set()
    assert all(isinstance(end, ServerUnavailable) for end in await asyncio.gather(*calls, return_exceptions=True))
    question.fails = False
    clock.now += 1
    assert await server.run(question) == b"answer"
    assert counts == {"failures": 20}
    assert len([record for record in caplog.records if "pauses after failures" in record.message]) == 1


async def test_what_began_before_a_rest_does_not_make_another(server, clock, question):
    """A call from before the rest that fails after it tells nothing new about a server that is back."""
    slow = Question()
    slow.fails = True
    slow.gate.clear()
    late = asyncio.create_task(server.run(slow))
    while not slow.asked:
        await asyncio.sleep(0)
    await fail(server, question)
    clock.now += 1
    await server.run(question)
    slow.gate.set()
    with pytest.raises(ServerUnavailable):
        await late
    assert await server.run(question) == b"answer"


async def test_no_call_takes_longer_than_the_timeout(server, question, counts):
    """A call without an answer ends at the tier's timeout and is counted as that."""
    question.gate.clear()
    begun = asyncio.get_running_loop().time()
    with pytest.raises(ServerUnavailable):
        await server.run(question)
    assert TIMEOUT * 0.9 < asyncio.get_running_loop().time() - begun < TIMEOUT + 0.2
    assert await is_away(server, question)
    assert counts == {"timeouts": 1, "resting": 1}


async def test_a_cancelled_call_is_no_failure(server, question, counts):
    """Who stops waiting says nothing about the server: the next call goes through."""
    question.gate.clear()
    call = asyncio.create_task(server.run(question))
    while not question.asked:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    question.gate.set()
    assert await server.run(question) == b"answer"
    assert counts == {}


async def test_a_cancelled_try_leaves_the_next_call_to_try(server, question, clock):
    """If the one call that tries is cancelled the server is neither back nor lost: another call tries."""
    await fail(server, question)
    clock.now += 1
    question.gate.clear()
    trial = asyncio.create_task(server.run(question))
    while question.asked < 2:
        await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    question.gate.set()
    assert server.resting
    assert await server.run(question) == b"answer"
    assert not server.resting


async def test_each_change_is_one_line(server, question, clock, caplog):
    """Failed tries say nothing; the first failure and the return say one line each, with the server's name."""
    caplog.set_level(logging.DEBUG)
    for rest in (1, 2, 4):
        await fail(server, question)
        clock.now += rest
    await server.run(question)
    await server.run(question)
    assert [record.message for record in caplog.records if record.name.startswith("streams")] == [
        "memcached 127.0.0.1:1 pauses after failures, its keys are misses: ConnectionResetError",
        "memcached 127.0.0.1:1 is back",
    ]


async def test_a_closed_server_is_away(server, question):
    """After close nothing is asked any more."""
    server.close()
    assert await is_away(server, question)


@pytest.mark.parametrize(
    ("address", "name"), [(("::1", 11211), "[::1]:11211"), (("cache.example", 7), "cache.example:7")]
)
def test_a_server_is_named_as_it_is_written(address, name):
    """An IPv6 address stands in brackets."""
    assert Server(address, timeout=1, counts=Counter(), clock=Clock()).name == name


def test_the_parts_of_aiomcache_that_are_replaced_are_there():
    """What is overridden is private: another release of aiomcache must be read before it is taken."""
    assert aiomcache.__version__ == "0.8.2"
    assert list(inspect.signature(aiomcache.FlagClient._multi_get).parameters) == ["self", "conn", "keys", "with_cas"]
    command = inspect.signature(aiomcache.FlagClient._execute_simple_command)
    assert list(command.parameters) == ["self", "conn", "raw_command"]
