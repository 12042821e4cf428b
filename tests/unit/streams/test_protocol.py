"""Where an answer ends on its connection: bytes that were not asked for neither answer nor fail a request."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import UpstreamError
from models.source import Retries
from streams.http.client import Client
from tests.unit.streams.test_client import LIMIT, LOOPBACK
from tests.unit.streams.test_sent_once import Raw, ask

GOOD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"good":1}'
EVIL = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"evil":1}'
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n" + GOOD[-10:] + b"\r\n0\r\n\r\n"
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def client(opened):
    return await opened.enter_async_context(Client(LIMIT, LOOPBACK, retry=Retries(attempts=1)))


@pytest.fixture
def raw(opened, client):
    """Start raw servers, which end after the client."""

    async def start(*answers):
        return await Raw(*answers).start(opened)

    return start


async def closed(server):
    """Wait until the client has closed the one connection that a server has."""
    (writer,) = server.writers
    async with asyncio.timeout(5.0):
        await writer.wait_closed()


@pytest.mark.parametrize("unasked", [EVIL, EVIL[:20], TIMED_OUT, b"\r\n", b"junk"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_comes_while_a_connection_is_idle_answers_nothing(client, raw, method, unasked):
    """A connection is closed for any byte that comes while it is idle: the next request has a new one."""
    server = await raw(GOOD)
    await ask(client, server.url)
    (writer,) = server.writers
    writer.write(unasked)
    await writer.drain()
    await closed(server)
    answer = await ask(client, server.url, method)
    assert (answer.body.content, answer.attempts, server.connections) == (b'{"good":1}', 1, 2)


SURPLUS = {
    "204": ("DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", b""),
    "204 to PUT": ("PUT", EMPTY + b"{}", b""),
    "HEAD": ("HEAD", GOOD, b""),
    "length": ("POST", GOOD + b"junk", b'{"good":1}'),
    "no length": ("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{}", b""),
    "chunks": ("POST", CHUNKED + b"junk", b'{"good":1}'),
    "closing": ("POST", GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") + b"junk", b'{"good":1}'),
    "another": ("POST", GOOD + EVIL, b'{"good":1}'),
    "half of another": ("POST", GOOD + EVIL[:30], b'{"good":1}'),
    "half of another behind chunks": ("POST", CHUNKED + EVIL[:30], b'{"good":1}'),
    "after an interim": ("POST", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + GOOD + b"junk", b'{"good":1}'),
    "bare line feeds": ("DELETE", b"HTTP/1.1 204 No Content\nContent-Length: 2\n\n{}", b""),
}
"""Method, what is sent in one segment, and the body of the answer in it."""


@pytest.mark.parametrize("case", SURPLUS)
async def test_what_stands_behind_an_answer_does_not_fail_it(client, raw, case):
    """A change that was answered is no failure for what follows the answer, on a connection that is used no more."""
    method, sent, body = SURPLUS[case]
    server = await raw(sent, GOOD)
    assert (await ask(client, server.url, method)).body.content == body
    await closed(server)
    assert (await ask(client, server.url)).body.content == b'{"good":1}'
    assert server.connections == 2


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("answer", [GOOD, CHUNKED, GOOD.replace(b"\r\n", b"\n")])
async def test_an_answer_may_come_in_any_pieces(opened, answer, step):
    """An answer is read however its bytes are cut, and its connection is used again."""
    connections = 0

    async def drip(reader, writer):
        nonlocal connections
        connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for start in range(0, len(answer), step):
                    writer.write(answer[start : start + step])
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    opened.callback(server.close)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with Client(LIMIT, LOOPBACK) as client:
        for _ in range(3):
            assert (await ask(client, url)).body.content == b'{"good":1}'
    assert connections == 1


async def test_what_is_wrong_in_an_answer_still_fails_it(client, raw):
    """A head that is no HTTP is an error, whatever follows it."""
    server = await raw(b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n" + GOOD)
    with pytest.raises(UpstreamError, match="did not answer with valid HTTP"):
        await ask(client, server.url)
