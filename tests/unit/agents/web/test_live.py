"""`/events`: encoded once, fanned out, bounded for each client, ended in time."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from agents.web import live
from agents.web.live import Events
from agents.web.sample import Sampler
from streams.web.problems import not_ready
from streams.web.server import Server
from tests.browser.fake import FakeTail, row_of

PATIENCE = 10.0


class Told:
    """An overview that counts how often it was asked for."""

    def __init__(self):
        self.asked = 0
        self.problem = None

    async def __call__(self):
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return {"at": "2026-11-27T06:00:00Z", "asked": self.asked, "minutes": [{"minute": n} for n in range(60)]}


class Stand:
    def __init__(self, url, events, told, tail):
        self.url, self.events, self.told, self.tail = url, events, told, tail

    @asynccontextmanager
    async def stream(self, query="", **options):
        async with aiohttp.ClientSession() as session, session.get(self.url + query, **options) as response:
            yield response


@pytest.fixture
async def stand(monkeypatch):
    """A server with events of an overview and of a tail, ticking fast."""
    monkeypatch.setattr(live, "TICK", 0.05)
    told, tail = Told(), FakeTail()
    events = Events(told, Sampler(tail.watching, row_of))
    async with Server("127.0.0.1", 0, dict, events.routes()) as server, events:
        yield Stand(f"http://127.0.0.1:{server.port}/events", events, told, tail)


async def read(response, count=1, name=None):
    """Return the next events (of a name) as pairs of name and data."""
    found, event = [], ""
    async with asyncio.timeout(PATIENCE):
        async for line in response.content:
            if line.startswith(b"event: "):
                event = line[7:].decode().strip()
            if line.startswith(b"data: ") and name in (None, event):
                found.append((event, json.loads(line[6:])))
                if len(found) == count:
                    return found
    raise AssertionError("the stream ended")


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_hundred_clients_get_what_was_asked_for_once(stand):
    """Each client has every event, and the overview is asked for once a tick, however many there are."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stand.stream()) for _ in range(100)]
        seen = await asyncio.gather(*(read(each, 5) for each in streams))
        asked = stand.told.asked
        last = [events[-1][1]["asked"] for events in seen]
        assert asked <= max(last) + 20
        assert all(name == "overview" for events in seen for name, _ in events)
        numbers = [[value["asked"] for _, value in events] for events in seen]
        assert all(each == list(range(each[0], each[0] + 5)) for each in numbers)


async def test_the_first_overview_is_whole_and_the_next_are_short(stand):
    """A client begins with an hour of minutes, and then gets the last two."""
    async with stand.stream() as response:
        assert [len(value["minutes"]) for _, value in await read(response, 3)] == [60, 2, 2]
        async with stand.stream(headers={"Last-Event-ID": "nonsense"}) as other:
            assert len((await read(other))[0][1]["minutes"]) == 60


async def test_without_an_overview_the_stream_is_alive_and_says_why(stand, caplog):
    """A problem is told each tick in the overview's place; a fault too, without its text; then the overview is back."""
    stand.told.problem = not_ready("the tables are recovering")
    async with stand.stream() as response:
        assert await read(response) == [("alive", {"problem": "the tables are recovering"})]
        stand.told.problem = RuntimeError("s3cret")
        [(_, told)] = await read(response, 1, "alive")
        while "recovering" in told["problem"]:
            [(_, told)] = await read(response, 1, "alive")
        assert "s3cret" not in json.dumps(told)
        stand.told.problem = None
        assert (await read(response, 1, "overview"))[0][1]["asked"] > 0
    assert "cannot make the overview" in caplog.text


@pytest.mark.slow
async def test_nobody_listening_costs_nothing(stand):
    """When the last client has gone, the overview is asked for no more, and the tail is left."""
    async with stand.stream("?tail=1") as response:
        await read(response)
        assert len(stand.tail.watchers) == 1
    await until(lambda: not stand.events._clients)
    await until(stand.events._ticking.done)
    asked = stand.told.asked
    assert stand.tail.watchers == []
    await asyncio.sleep(0.2)
    assert stand.told.asked == asked


async def test_a_client_that_does_not_keep_up_loses_the_oldest_and_is_told():
    """What waits for one client is bounded; he is told how many events he has missed, once."""
    client = live._Client(None)
    for number in range(live.MAX_WAITING + 5):
        client.put(b"%d," % number)
    taken = await client.take()
    assert taken.startswith(b"5,6,")
    assert taken.endswith(b'event: dropped\ndata: {"events":5}\n\n')
    client.put(b"next")
    assert await client.take() == b"next"


@pytest.mark.slow
async def test_a_client_that_takes_nothing_is_cut_off(stand, monkeypatch):
    """One who never reads costs a bounded queue and his socket's buffers, and goes after a while; others go on."""
    monkeypatch.setattr(live, "TAKING", 0.3)
    big = {"key": "x" * 400, "outcome": "ok", "at": "now", "url": "u" * 2000}
    port = int(stand.url.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET /events?tail=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: stand.tail.watchers)
    reader._transport.pause_reading()
    async with stand.stream() as other:
        async with asyncio.timeout(PATIENCE * 2):
            while stand.tail.watchers:
                stand.tail.push(*[big] * 20)
                await asyncio.sleep(0)
        assert len(await read(other, 3)) == 3
    writer.close()


async def test_only_so_many_clients_and_choices_are_taken(stand, monkeypatch):
    """Beyond the bounds the answer is 503 with Retry-After; those who are there keep their streams."""
    monkeypatch.setattr(live, "MAX_CLIENTS", 1)
    async with stand.stream() as response:
        async with stand.stream() as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert await read(response, 2)
    monkeypatch.setattr(live, "MAX_CLIENTS", 100)
    monkeypatch.setattr("agents.web.sample.MAX_FILTERS", 1)
    async with stand.stream("?tail=1&key=a") as response:
        await read(response)
        async with stand.stream("?tail=1&key=b") as refused:
            assert refused.status == 503
    for query in ("?tail=1&outcome=nonsense", "?tail=1&key=" + "x" * 600):
        async with stand.stream(query) as refused:
            assert refused.status == 400


async def test_closing_ends_the_streams_at_once():
    """When the worker stops, its streams end before the server waits for them."""
    told, tail = Told(), FakeTail()
    events = Events(told, Sampler(tail.watching, row_of))
    async with Server("127.0.0.1", 0, dict, events.routes()) as server, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/events") as early:
            assert early.status == 503
        async with events:
            response = await session.get(f"http://127.0.0.1:{server.port}/events?tail=1")
            await read(response)
        async with asyncio.timeout(1):
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    assert tail.watchers == []
