"""Where an answer ends on its connection: bytes that were not asked for neither answer nor fail a request."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import UpstreamError
from models.source import Retries
from streams.http.client import Client
from streams.http.protocol import _is_whole
from tests.turns import allowed, longest_turn
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


def headed(*fields, status=b"200 OK", body=b"ok"):
    """Return a response with these fields, and the bytes of its head."""
    head = b"\r\n".join((b"HTTP/1.1 " + status, *fields, b"", b""))
    return head + body, len(head)


LENGTH = b"Content-Length: 2"


@pytest.mark.parametrize("field", [LENGTH, b"CONTENT-LENGTH:2", b"content-length:  02 \t"])
def test_a_response_of_its_declared_length_is_whole(field):
    """It is parsed in one go."""
    assert _is_whole(*headed(b"Server: x", field, b"Content-Type: text/plain"))


@pytest.mark.parametrize(
    "response",
    [
        headed(LENGTH, body=b"o"),
        headed(LENGTH, body=b"ok!"),
        headed(b"Server: x"),
        headed(LENGTH, LENGTH),
        headed(LENGTH, b"Transfer-Encoding: chunked"),
        headed(b"transfer-encoding : chunked", LENGTH),
        headed(b"X-Content-Length: 2"),
        headed(b"Content-Length: +2"),
        headed(b"Content-Length: 2, 2"),
        headed(b"Content-Length: " + b"0" * 5_000 + b"2"),
        headed(LENGTH, status=b"204 No Content"),
        headed(LENGTH, status=b"304 Not Modified"),
        headed(LENGTH, status=b"103 Early Hints"),
    ],
)
def test_what_may_be_cut_or_followed_by_other_bytes_is_not_whole(response):
    """Its head is parsed first, and then what belongs to it."""
    assert not _is_whole(*response)


async def test_a_connection_serves_responses_of_every_kind_in_turn(client, raw):
    """What one response leaves in the parser, trailers too, is never part of the next."""
    trailed = CHUNKED[:-2] + b"X-End: 1\r\n\r\n"
    answers = GOOD, GOOD, trailed, GOOD, CHUNKED, GOOD
    server = await raw(*answers)
    for _ in answers:
        response = await ask(client, server.url)
        assert response.body.content == b'{"good":1}'
        assert "X-End" not in response.headers
    assert server.connections == 1


async def test_interim_responses_are_read_up_to_a_number(client, raw):
    """Some are passed over, as RFC 9110 wants it; who sends nothing but these is not listened to for ever."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    server = await raw(interim * 20 + GOOD, interim * 20_000 + GOOD, GOOD)
    assert (await ask(client, server.url)).body.content == b'{"good":1}'
    asking = asyncio.ensure_future(ask(client, server.url))
    found, longest = await longest_turn(asking)
    assert isinstance(found, UpstreamError)
    assert longest < allowed()
    assert (await ask(client, server.url)).body.content == b'{"good":1}'
    assert server.connections == 2
