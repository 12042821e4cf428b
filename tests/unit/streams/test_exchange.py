"""An exchange of our own has the outcome of aiohttp's session, whatever the bytes of a response: whole, cut at every
position, in two pieces, with a byte changed. And aiohttp's session serves where aiohttp does not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import random
import re
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count

import pytest
from aiohttp import ClientTimeout
from aiohttp.client_proto import ResponseHandler

from models.errors import AnswerError, TimedOut
from streams.http import client as module
from streams.http import fit
from streams.http.client import Client
from streams.http.exchange import Exchange
from streams.http.once import Pool
from streams.http.protocol import MAX_FIELD, MAX_FIELDS
from streams.http.session import Session
from tests.unit.streams.test_client import LIMIT, LOOPBACK, ONCE

pytestmark = pytest.mark.slow

PATIENCE = 5.0
"""Seconds after which a fetch that hangs has failed."""
OK_STATUS = 200
SEED = 20_261_129
_LENGTH = re.compile(rb"Content-Length: (\d+)")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PACKED = gzip.compress(b"a body " * 9, mtime=0)


def answer(head, body=b"", status=b"200 OK"):
    return b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n\r\n" + body


ANSWERS = {
    "a length": OK,
    "until the end": answer(b"Content-Type: text/plain", b"to the end"),
    "chunks": answer(b"Transfer-Encoding: chunked", b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n"),
    "trailers": answer(b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-End: 2\r\n\r\n"),
    "a content coding": answer(b"Content-Encoding: gzip\r\nContent-Length: %d" % len(PACKED), PACKED),
    "a coding in chunks": answer(b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked",
                                 b"%x\r\n%b\r\n0\r\n\r\n" % (len(PACKED), PACKED)),
    "closed": answer(b"Connection: close\r\nContent-Length: 2", b"ok"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0 kept alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + OK,
    "no content": answer(b"X: y", status=b"204 No Content"),
    "not modified": answer(b"ETag: x\r\nContent-Length: 9", status=b"304 Not Modified"),
    "switching": answer(b"Upgrade: x\r\nConnection: upgrade", b"\0\1", b"101 Switching Protocols"),
    "an error": answer(b"Content-Length: 5\r\nRetry-After: 1", b"sorry", b"503 Unavailable"),
    "a redirect": answer(b"Location: /next\r\nContent-Length: 2", b"ok", b"302 Found"),
    "bytes behind": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
}  # fmt: skip
MALFORMED = [
    b"", b"\r\n", b"\r\n\r\n", b"hello\r\n\r\n", b"<html>", b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 \r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 x\r\n\r\n", b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", b"http/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1  200 OK\r\n\r\n", b" HTTP/1.1 200 OK\r\n\r\n",
    OK.replace(b"\r\n", b"\n"), OK.replace(b"\r\n", b"\r"), OK.replace(b": 2", b":2"), OK.replace(b": 2", b" : 2"),
    *(OK.replace(b": 2", b": " + length) for length in (b"-2", b"+2", b"2, 2", b"2,3", b"0x2", b"2 2", b"", b"9" * 30)),
    *(answer(head, b"ok") for head in (
        b"Content-Length: 2\r\nContent-Length: 2", b"Content-Length: 2\r\nContent-Length: 3", b"no colon", b": no name",
        b"X: a\r\n folded: b\r\nContent-Length: 2", b"X: a\0b", b"X\0: a", b"X: \xff\xe9\r\nContent-Length: 2",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip", b"Transfer-Encoding: nonsense, chunked",
        b"Content-Encoding: nonsense\r\nContent-Length: 2", b"Content-Encoding: gzip\r\nContent-Length: 2",
        b"Content-Type: a/b; charset=nonsense\r\nContent-Length: 2", b"Location: \xff://\r\nContent-Length: 2",
        b"X: " + b"x" * (MAX_FIELD + 1), b"\r\n".join(b"X-%d: y" % n for n in range(MAX_FIELDS + 9)),
        b"Content-Length: %d" % (LIMIT + 1), b"Connection: close, keep-alive\r\nContent-Length: 2",
    )),
    *(answer(b"Transfer-Encoding: chunked", body) for body in (
        b"zz\r\nok\r\n0\r\n\r\n", b"-2\r\nok\r\n0\r\n\r\n", b"2\r\nokok\r\n0\r\n\r\n", b"2\nok\n0\n\n",
        b"2\r\nok\r\n0\r\nno colon\r\n\r\n", b"2;" + b"x" * 40_000 + b"\r\nok\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nok",
        b"2\r\nok\r\n0\r\n\r\n" + OK, b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 300 + b"\r\n", b"0\r\n\r\n", b"\r\n",
    )),
    b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + OK, b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok" + OK,
    answer(b"Content-Length: 2", b"ok", b"204 No Content"), answer(b"Location: ", b"", b"302 Found"),
    answer(b"Content-Length: 9", b"HTTP/1.1 ") * 2,
]  # fmt: skip


class Peers(Pool):
    """Connections to `pieces`, which are sent one after the other as the response to any request, and then closed if
    `closing`; a second request on a connection, or one on a second connection, is answered with OK.
    """

    pieces: tuple[bytes, ...] = ()
    closing = True
    made = 0
    tasks: set[asyncio.Task[None]]
    seen: list[bytes]

    async def _create_connection(self, *_) -> ResponseHandler:
        ours, theirs = socket.socketpair()
        self.made += 1
        task = asyncio.create_task(self._serve(theirs, first=self.made == 1))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        _, protocol = await asyncio.get_running_loop().create_connection(self._factory, sock=ours)
        return protocol

    async def _serve(self, theirs, *, first):
        reader, writer = await asyncio.open_connection(sock=theirs)
        try:
            await self._request(reader)
            for piece in self.pieces if first else (OK,):
                writer.write(piece)
                await asyncio.sleep(0.0005 if len(self.pieces) > 1 else 0)
            while not (first and self.closing):
                await self._request(reader)
                writer.write(OK)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _request(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        self.seen.append(head + (await reader.readexactly(int(length[1])) if length else b""))


async def outcome(client, host, method, headers, body):
    """Return what a fetch came to, in every word."""
    try:
        async with asyncio.timeout(PATIENCE):
            response = await client.fetch(method, f"http://{host}/a%2Fb;c?d=%7E&e=[]", headers, body)
    except AnswerError as error:
        told = type(error), str(error), error.attempts, error.retryable, error.unsent, getattr(error, "status", None)
        return (*told, error.body, getattr(error, "stale", None), [head.status for head in error.trail])
    return response.status, response.body, list(response.headers.items()), [head.status for head in response.trail()]


class Beside:
    """A client on each path. Each comparison is made with a host of its own, as hosts have a breaker."""

    def __init__(self, session, exchange):
        self._clients = session, exchange
        self._hosts = count(1)

    async def same(self, *pieces, method="GET", headers=(), body=None, closing=True):
        """Compare two fetches in a row: outcomes, connections, and the bytes that were sent."""
        number = next(self._hosts)
        host = f"127.0.{number >> 8}.{number & 255}"
        session, exchange = [
            await self._on(client, host, pieces, (method, dict(headers), body), closing) for client in self._clients
        ]
        assert exchange == session, pieces
        return session

    async def _on(self, client, host, pieces, request, closing):
        pool = client._direct.pool
        pool.pieces, pool.closing, pool.made, pool.tasks, pool.seen = pieces, closing, 0, set(), []
        first = await outcome(client, host, *request)
        second = await outcome(client, host, "GET", {}, None)
        assert not pool._acquired
        for task in pool.tasks:
            task.cancel()
        await asyncio.gather(*pool.tasks, return_exceptions=True)
        return first, second, pool.made, pool.seen


@pytest.fixture
async def beside(monkeypatch, caplog):
    monkeypatch.setattr(module, "Pool", Peers)
    async with AsyncExitStack() as stack:
        clients = []
        for kind, missing in ((Session, ["the.part"]), (Exchange, [])):
            monkeypatch.setattr(fit, "misfits", lambda missing=missing: missing)
            clients.append(await stack.enter_async_context(Client(LIMIT, LOOPBACK, retry=ONCE)))
            assert isinstance(clients[-1]._direct, kind)
        yield Beside(*clients)


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_response_cut_anywhere_ends_as_on_the_session(beside, name):
    """The connection is closed after each number of bytes."""
    for end in range(len(ANSWERS[name]) + 1):
        await beside.same(ANSWERS[name][:end])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "bytes behind"])
async def test_a_response_in_two_pieces_ends_as_on_the_session(beside, name, method):
    """The connection stays open, where the response has an end of its own, and serves the next request."""
    whole = ANSWERS[name]
    if method == "HEAD":  # a body would race with the next request
        whole = whole[: whole.index(b"\r\n\r\n", whole.rfind(b"HTTP/1.")) + 4]
    body = {"a": 1} if method == "POST" else None
    closing = name in ("until the end", "switching")
    for end in range(0, len(whole), 1 if method == "GET" and name in ("chunks", "continue") else 9):
        await beside.same(*filter(None, (whole[:end], whole[end:])), method=method, body=body, closing=closing)


@pytest.mark.parametrize("name", ["a length", "trailers", "early hints", "a content coding"])
async def test_a_response_with_a_byte_changed_ends_as_on_the_session(beside, name):
    """Each byte in turn becomes another, drawn from those that mean something to HTTP and all others."""
    draw = random.Random(SEED)
    for at in range(len(ANSWERS[name])):
        changed = bytearray(ANSWERS[name])
        changed[at] = draw.choice([*b"\r\n :;,0123456789af-\0\xff\t", draw.randrange(256)])
        await beside.same(bytes(changed))


async def test_a_malformed_response_ends_as_on_the_session(beside):
    """Also where the session takes it."""
    ended = [await beside.same(each) for each in MALFORMED]
    assert sum(isinstance(first[0], type) for first, *_ in ended) > len(MALFORMED) // 2


@pytest.mark.parametrize("headers", [{}, {"x-a": "1", "X-A": "2", "accept": "a/b", "Accept-Encoding": "gzip"},
                                     {"user-agent": "me", "Content-Type": "a/b", "X-Text": "\u00e4\t b"},
                                     {"X": "a\rb"}, {"X\n": "a"}, {"X": "\ud800"}, {"X": "a\0"}])  # fmt: skip
@pytest.mark.parametrize(
    ("method", "body"),
    [
        *(("GET", None), ("HEAD", None), ("OPTIONS", None), ("DELETE", None), ("POST", None)),
        *(("POST", ""), ("PUT", [1]), ("GET", "with a body")),
    ],
)
async def test_the_bytes_of_a_request_are_those_of_the_session(beside, headers, method, body):
    """Line, fields and body, in their order; what cannot be sent is refused with the same words."""
    first, _, _, sent = await beside.same(OK, method=method, headers=headers, body=body, closing=False)
    assert len(sent) == 1 + (first[0] == OK_STATUS)


async def test_aiohttp_s_session_serves_where_aiohttp_does_not_fit(monkeypatch, caplog):
    """What is missing, or has other parameters, is named in a warning."""
    with monkeypatch.context() as newer:
        newer.setattr(ResponseHandler, "set_response_params", lambda _, /, *, other: other)
        newer.delattr(ResponseHandler, "start_timeout")
        found = fit.misfits()
    expected = ["aiohttp.client_proto.ResponseHandler.set_response_params",
                "aiohttp.client_proto.ResponseHandler.start_timeout"]  # fmt: skip
    assert (found, fit.misfits()) == (expected, [])
    monkeypatch.setattr(fit, "misfits", lambda: expected)
    with caplog.at_level(logging.WARNING):
        async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
            assert isinstance(client._direct, Session)
    (warning,) = [record.message for record in caplog.records if record.name == fit.logger.name]
    assert all(name in warning for name in expected)


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize("answers", [True, False])
async def test_silence_counts_from_the_end_of_a_long_request(opened, answers):
    """An upstream that is slow to take a body has its read time-out from when all of it has left, not before."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    closed = asyncio.Event()

    async def talk(reader, writer):
        await asyncio.sleep(0.9)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(_LENGTH.search(head)[1]))
        if answers:
            writer.write(OK)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        closed.set()

    server = await asyncio.start_server(talk, sock=listener)
    opened.callback(server.close)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        policy = replace(client.policy, timeout=ClientTimeout(total=None, sock_connect=1.0, sock_read=0.6))
        if answers:
            assert (await client.fetch("POST", url, {}, "x" * 20_000_000, policy=policy)).body.content == b"ok"
        else:
            with pytest.raises(TimedOut):
                await client.fetch("POST", url, {}, "x" * 20_000_000, policy=policy)
    await closed.wait()
