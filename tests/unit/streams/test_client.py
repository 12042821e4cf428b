"""The HTTP client against real servers on loopback: what it sends, follows, refuses, and what it says of failures."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import json
import socket
import ssl
import time
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from agents.answer.parsed_requests import entry_key
from models.documents import Body
from models.errors import (
    AnswerError,
    Denied,
    InvalidDocument,
    InvalidRequest,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from models.request import parse
from models.source import Retries
from streams.config.settings import DEFAULT_MAX_REDIRECTS
from streams.config.validators import parse_networks, parse_ports
from streams.http import client as module
from streams.http.breaker import MIN_REQUESTS
from streams.http.client import Client
from streams.http.errors import is_host_fault, translate
from streams.http.guard import DENIED, DeniedAddress, Guard
from streams.http.limits import LATE
from streams.http.protocol import MAX_FIELD, MAX_FIELDS
from streams.http.request import OutgoingRequest, redirected

LIMIT = 100_000
LOOPBACK = Guard(parse_networks("127.0.0.0/8"), parse_ports("1-65535"))
ONCE = Retries(attempts=1)
TOO_MANY = "127.0.0.1: more than 5 redirects (see MILLRACE_MAX_REDIRECTS)"
SECRET = "/secret-path?token=hunter2"
"""The path of every request whose error is looked at: neither part of it may be told."""


class Seen(NamedTuple):
    """A request as a server got it."""

    method: str
    path: str
    headers: Any
    body: bytes


class Upstream:
    """A server of aiohttp's: keeps what it was sent, answers by path, and `200 null` where nothing is set."""

    def __init__(self, url):
        self.url = url
        self.seen: list[Seen] = []
        self.answers = {}

    async def __call__(self, request):
        self.seen.append(Seen(request.method, request.raw_path, request.headers, await request.read()))
        answer = self.answers.get(request.path)
        if answer is None:
            return web.json_response(None)
        return await answer(request) if callable(answer) else web.Response(**answer)

    def redirect(self, path, status, location):
        self.answers[path] = {"status": status, "headers": {"Location": str(location)}}


async def served(stack, tls=None):
    """Start an upstream on a port of its own, which ends with the stack."""
    upstream = Upstream(URL())
    runner = web.ServerRunner(web.Server(upstream, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    port = runner.addresses[0][1]
    upstream.url = URL.build(scheme="https" if tls else "http", host="127.0.0.1", port=port)
    return upstream


async def spoken(stack, answer):
    """Start a server that answers any request with bytes of one's own and hangs up; returns a URL of it."""

    async def talk(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    stack.push_async_callback(server.wait_closed)
    stack.callback(server.close)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{SECRET}"


@pytest.fixture
async def client(serve, speak):
    """Open a client that takes bodies of up to 100,000 bytes; closed before the servers are."""
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        yield client


def at(upstream, path="/"):
    return str(upstream.url.join(URL(path)))


async def failure(client, url, error, method="GET"):
    """Return the error that a fetch ends in; its message holds neither path nor query."""
    with pytest.raises(error) as caught:
        await client.fetch(method, str(url), {})
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_each_method_is_sent_and_its_body_read(client, upstream, method):
    """Any method reaches the upstream as it is, with path and query, and the whole answer comes back."""
    upstream.answers["/a/b"] = {"body": b"hello", "headers": {"Content-Type": "Text/Plain; charset=UTF-8"}}
    response = await client.fetch(method, at(upstream, "/a/b?c=d&e"), {})
    assert (response.status, response.body) == (200, Body(b"hello", "text/plain", "UTF-8"))
    assert (response.attempts, response.headers["content-length"]) == (1, "5")
    assert [(seen.method, seen.path, seen.body) for seen in upstream.seen] == [(method, "/a/b?c=d&e", b"")]
    assert client.calls == 1


async def test_head_has_no_body_whatever_length_it_declares(client, upstream):
    """The length that a HEAD answer declares, and its content coding, are not waited for and not held against it."""
    upstream.answers["/"] = {"headers": {"Content-Length": str(LIMIT * 10), "Content-Encoding": "gzip"}}
    response = await client.fetch("HEAD", at(upstream), {})
    assert (response.status, response.body.content) == (200, b"")
    assert (await client.fetch("GET", at(upstream, "/next"), {})).body.content == b"null"


@pytest.mark.parametrize("path", ["/a%2Fb?c=%26%2B", "/ä?ö=ü", "/a;b=c/d,e?f[]=g'h", "/a/../b"])
async def test_a_url_is_sent_as_it_was_asked_for(client, upstream, path):
    """Escapes are neither added nor taken away where the URL is ASCII; the rest is percent-encoded UTF-8."""
    await client.fetch("GET", f"{upstream.url.origin()}{path}", {})
    sent = upstream.seen[0].path
    assert sent == (path if path.isascii() else "/%C3%A4?%C3%B6=%C3%BC")


@pytest.mark.parametrize("headers", [{}, {"X-Own": "1"}])
async def test_the_service_names_itself(client, upstream, headers):
    """Without a User-Agent of its own a request is sent under the service's name."""
    await client.fetch("GET", at(upstream), headers)
    assert upstream.seen[0].headers.getall("User-Agent") == ["millrace"]
    assert upstream.seen[0].headers.get("X-Own") == headers.get("X-Own")


async def test_a_request_s_own_headers_are_sent(client, upstream):
    """Headers reach the upstream with their values, a User-Agent and Accept of one's own in place of the default."""
    own = {"user-agent": "me", "Accept": "text/csv", "X-Tab": "a\tb", "Authorization": "Bearer x"}
    await client.fetch("GET", at(upstream), own)
    headers = upstream.seen[0].headers
    assert {name: headers.getall(name) for name in own} == {name: [value] for name, value in own.items()}


@pytest.mark.parametrize(
    ("body", "sent", "media_type"),
    [
        ("täxt", "täxt".encode(), "text/plain; charset=utf-8"),
        ("", b"", "text/plain; charset=utf-8"),
        ({"ä": [1, None]}, '{"ä":[1,null]}'.encode(), "application/json"),
        ([], b"[]", "application/json"),
        (0, b"0", "application/json"),
        (False, b"false", "application/json"),
    ],
)
async def test_a_body_is_sent_as_text_or_json(client, upstream, body, sent, media_type):
    """A string goes as UTF-8 text, any other value as compact JSON, each with its content type and length."""
    await client.fetch("POST", at(upstream), {}, body)
    (seen,) = upstream.seen
    assert seen.body == sent
    assert seen.headers.getall("Content-Type") == [media_type]
    assert seen.headers["Content-Length"] == str(len(sent))


async def test_a_content_type_of_one_s_own_is_kept(client, upstream):
    """A request that says what its body is is believed, whatever the case of the header's name."""
    await client.fetch("PUT", at(upstream), {"content-type": "text/csv"}, "a,b")
    assert upstream.seen[0].headers.getall("Content-Type") == ["text/csv"]


@pytest.mark.parametrize(
    ("content_type", "media_type", "charset"),
    [
        ("text/html; charset=ISO-8859-1", "text/html", "ISO-8859-1"),
        ('text/html;charset="utf-8"; x=y', "text/html", "utf-8"),
        ("application/json", "application/json", None),
        ("garbage", "text/plain", None),
        ("", "application/octet-stream", None),
    ],
)
async def test_the_media_type_and_charset_are_read(client, upstream, content_type, media_type, charset):
    """What the upstream says of its body is taken apart; what it does not say is left open."""
    upstream.answers["/"] = {"body": b"x", "headers": {"Content-Type": content_type}}
    assert (await client.fetch("GET", at(upstream), {})).body == Body(b"x", media_type, charset)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_body_is_decoded(client, upstream, coding):
    """The codings that are asked for are undone."""
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](b"hello" * 1000)
    upstream.answers["/"] = {"body": packed, "headers": {"Content-Encoding": coding}}
    assert (await client.fetch("GET", at(upstream), {})).body.content == b"hello" * 1000
    assert coding in upstream.seen[0].headers["Accept-Encoding"]


async def test_no_content_is_a_success_without_a_body(client, upstream):
    """Any status of the class of success is one."""
    upstream.answers["/"] = {"status": 204}
    response = await client.fetch("DELETE", at(upstream), {})
    assert (response.status, response.body.content) == (204, b"")


# -- redirects


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "GET", "GET"),
        (302, "GET", "GET"),
        (303, "GET", "GET"),
        (307, "GET", "GET"),
        (308, "GET", "GET"),
        (301, "HEAD", "HEAD"),
        (302, "HEAD", "HEAD"),
        (303, "HEAD", "HEAD"),
        (307, "HEAD", "HEAD"),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
        (302, "PATCH", "PATCH"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (307, "PUT", "PUT"),
        (308, "DELETE", "DELETE"),
    ],
)
async def test_a_redirect_keeps_or_changes_the_method_by_its_status(client, upstream, status, method, then):
    """RFC 9110, section 15.4: 303 asks with GET, 301 and 302 turn POST into GET, 307 and 308 change nothing; a body
    goes along exactly if the method stays, and so do the headers that describe it.
    """
    upstream.redirect("/old", status, "/new?x=y")
    body = None if method in ("GET", "HEAD") else {"a": 1}
    described = {} if body is None else {"Content-Language": "en", "Content-Type": "application/json"}
    await client.fetch(method, at(upstream, "/old"), {"X-Own": "1", **described}, body)
    first, second = upstream.seen
    assert (first.method, second.method, second.path) == (method, then, "/new?x=y")
    assert second.headers["X-Own"] == "1"
    kept = then == method and body is not None
    assert second.body == (first.body if kept else b"")
    assert ("Content-Language" in second.headers) is kept
    assert (second.headers.get("Content-Type") == "application/json") is kept
    assert (first.body == b'{"a":1}') is (body is not None)


@pytest.mark.parametrize("status", [300, 304, 305, 306])
async def test_other_statuses_of_the_class_are_not_followed(client, upstream, status):
    """A 3xx that names no single place to go to is an answer that is no success."""
    upstream.redirect("/secret-path", status, "/new")
    error = await failure(client, at(upstream, SECRET), UpstreamError)
    assert (error.status, error.retryable) == (status, False)
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "location",
    ["http:/a/new", "new", "./new", "../a/new", "//127.0.0.1:{port}/a/new", "/a/new#fragment"],
)
async def test_a_location_is_taken_relative_to_the_request(client, upstream, location):
    """A Location may be a relative reference (RFC 9110, section 10.2.2); its fragment is not sent."""
    upstream.redirect("/a/old", 302, location.format(port=upstream.url.port))
    await client.fetch("GET", at(upstream, "/a/old"), {})
    assert upstream.seen[1].path == "/a/new"


CREDENTIALS = {"Authorization": "Bearer x", "cookie": "a=b", "PROXY-AUTHORIZATION": "y", "X-Api-Key": "z"}
HARMLESS = {"accept": "text/csv", "Accept-Language": "en", "User-Agent": "me", "Content-Type": "text/csv"}


async def test_credentials_stay_with_the_origin_they_were_given_for(client, serve):
    """Another port is another origin: what may be a credential is not sent there, and what describes the request is."""
    here, there = await serve(), await serve()
    here.redirect("/", 307, at(there, "/new"))
    await client.fetch("POST", at(here), {**CREDENTIALS, **HARMLESS}, "text")
    assert all(here.seen[0].headers[name] == value for name, value in (CREDENTIALS | HARMLESS).items())
    (seen,) = there.seen
    assert [name for name in CREDENTIALS if name in seen.headers] == []
    assert {name: seen.headers[name] for name in HARMLESS} == HARMLESS
    assert (seen.method, seen.body) == ("POST", b"text")


async def test_credentials_do_not_come_back_after_a_detour(client, serve):
    """What was left out at another origin is still left out when that one redirects back."""
    here, there = await serve(), await serve()
    here.redirect("/", 302, at(there, "/detour"))
    there.redirect("/detour", 302, at(here, "/back"))
    await client.fetch("GET", at(here), CREDENTIALS)
    assert here.seen[1].path == "/back"
    assert [name for name in CREDENTIALS if name in here.seen[1].headers] == []


async def test_credentials_go_along_within_an_origin(client, upstream):
    """A redirect to the same scheme, host and port is sent what the request was."""
    upstream.redirect("/", 302, at(upstream, "/new"))
    await client.fetch("GET", at(upstream), CREDENTIALS)
    assert all(upstream.seen[1].headers[name] == value for name, value in CREDENTIALS.items())


async def test_five_redirects_are_followed_and_a_sixth_is_not(client, upstream):
    """The fifth hop's answer is taken; where it redirects again the request ends without asking there."""
    for hop in range(6):
        upstream.redirect(f"/{hop}", 302, f"/{hop + 1}")
    assert (await client.fetch("GET", at(upstream, "/1"), {})).body.content == b"null"
    assert [seen.path for seen in upstream.seen] == ["/1", "/2", "/3", "/4", "/5", "/6"]
    error = await failure(client, at(upstream, "/0"), UpstreamError)
    assert str(error) == TOO_MANY
    assert len(upstream.seen) == 2 * (1 + DEFAULT_MAX_REDIRECTS)


async def test_a_redirect_to_itself_ends(client, upstream):
    """A loop is cut by the number of hops."""
    upstream.redirect("/secret-path", 302, SECRET)
    error = await failure(client, at(upstream, SECRET), UpstreamError)
    assert (str(error), error.retryable, error.attempts) == (TOO_MANY, False, 1)
    assert client.calls == 1 + DEFAULT_MAX_REDIRECTS


@pytest.mark.parametrize(
    ("location", "kind"), [("ftp://h/", Denied), ("http://[::1/", UpstreamError), ("/", UpstreamError)]
)
async def test_a_redirect_that_is_refused_is_the_end_of_a_request_that_was_sent(client, upstream, location, kind):
    """Also after attempts that failed, of which some were never sent: its own error, and no word of theirs."""
    answers = [{"status": 503}, {"status": 503}]

    async def answer(request):
        if answers:
            return web.Response(**answers.pop())
        return web.Response(status=302, headers={"Location": location})

    upstream.answers["/"] = answer
    policy = replace(client.policy, retry=Retries(attempts=4, first_pause=0.0), repeatable=True)
    with pytest.raises(kind) as caught:
        await client.fetch("POST", at(upstream), {}, "x", policy=policy)
    assert type(caught.value) is kind
    assert (caught.value.attempts, caught.value.unsent, caught.value.retryable) == (3, False, False)
    assert [head.status for head in caught.value.trail][:1] == [302]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_nowhere_is_the_upstream_s_error(client, upstream, status):
    """Without a Location there is nothing to follow."""
    upstream.answers["/secret-path"] = {"status": status}
    error = await failure(client, at(upstream, SECRET), UpstreamError)
    assert str(error) == f"127.0.0.1 answered {status} without a Location"
    assert error.status == status


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1/secret-path",
        "http://127.0.0.1:99999/secret-path",
        "http://127.0.0.1:port/secret-path",
        "//127.0.0.1:-1/secret-path",
    ],
)
async def test_a_redirect_to_garbage_is_the_upstream_s_error(client, upstream, location):
    """A Location that is no URL is not followed, and not quoted."""
    upstream.redirect("/secret-path", 302, location)
    error = await failure(client, at(upstream, SECRET), UpstreamError)
    assert str(error) == "127.0.0.1 redirected to an invalid URL"
    assert (error.status, client.calls) == (302, 1)


@pytest.mark.parametrize(
    ("location", "scheme"),
    [
        ("file:///etc/secret-path", "file"),
        ("FILE:/etc/secret-path", "file"),
        ("file://127.0.0.1/etc/secret-path", "file"),
        ("ftp://127.0.0.1/secret-path", "ftp"),
        ("javascript:secret", "another scheme"),
        ("data:,secret", "data"),
        ("gopher://127.0.0.1:70/secret", "another scheme"),
    ],
)
async def test_a_redirect_to_another_scheme_is_denied(client, upstream, location, scheme):
    """Neither files nor anything else that is not HTTP is asked for, and the target is not quoted."""
    upstream.redirect("/secret-path", 302, location)
    error = await failure(client, at(upstream, SECRET), Denied)
    assert str(error) == f"127.0.0.1 redirected from http to {scheme}"
    assert client.calls == 1


@pytest.mark.parametrize("location", ["https:///secret-path", "https:secret-path", "https://", "https:"])
async def test_a_redirect_to_no_host_is_the_upstream_s_error(client, upstream, location):
    """A URL of the right kind without a host leads nowhere, and is nothing to crash on."""
    upstream.redirect("/secret-path", 302, location)
    error = await failure(client, at(upstream, SECRET), UpstreamError)
    assert str(error) == "127.0.0.1 redirected to a URL without a host"
    assert (error.status, client.calls) == (302, 1)


def test_a_redirect_from_https_to_http_is_denied():
    """What was asked for in private is not asked for in the open; the other way round is fine."""
    private, public = (
        OutgoingRequest("GET", URL(f"{scheme}://example.org/"), CREDENTIALS, None) for scheme in ("https", "http")
    )
    with pytest.raises(Denied, match=r"^example.org redirected from https to http$"):
        redirected(private, 302, "http://example.org/secret-path")
    there = URL("https://example.org/a")
    assert redirected(private, 302, "/a") == OutgoingRequest("GET", there, CREDENTIALS, None, own=True)
    assert redirected(public, 302, "https://example.org/a") == OutgoingRequest("GET", there, {}, None, own=False)


# -- bounds


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("way", ["declared", "chunked", "gzip"])
async def test_the_cap_on_a_body_is_exact(client, upstream, way, size):
    """As many bytes as the cap are taken and one more is not, declared, in chunks or compressed."""

    async def answer(request):
        response = web.StreamResponse()
        if way == "declared":
            response.content_length = size
        elif way == "chunked":
            response.enable_chunked_encoding()
        else:
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        await response.write(b"x" * size)
        await response.write_eof()
        return response

    upstream.answers["/secret-path"] = answer
    if size <= LIMIT:
        assert (await client.fetch("GET", at(upstream, SECRET), {})).body.content == b"x" * size
    else:
        error = await failure(client, at(upstream, SECRET), TooLarge)
        passes = "the decoded body passes 100000 bytes"
        assert str(error) == ("the body has 100001 bytes; at most 100000 are taken" if way == "declared" else passes)
    assert (await client.fetch("GET", at(upstream, "/next"), {})).body.content == b"null"


async def test_a_declared_length_is_judged_before_a_byte_is_read(client, speak):
    """A body that says it is too long is not waited for."""
    url = await speak(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    assert "99999999999" in str(await failure(client, url, TooLarge))


async def test_endless_chunks_are_cut_off(client, upstream):
    """A body that never ends is ended by the cap, and the upstream is hung up on."""
    hung_up = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 10_000)
        finally:
            hung_up.set()

    upstream.answers["/secret-path"] = answer
    await failure(client, at(upstream, SECRET), TooLarge)
    await asyncio.wait_for(hung_up.wait(), 5)


def bomb(size):
    """Compress that many zero bytes without ever holding them."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return packed.getvalue()


@pytest.mark.slow
async def test_a_gzip_bomb_does_not_go_off(client, upstream):
    """Of 64 MiB behind a few bytes only as much is inflated as it takes to see that they are too many."""
    upstream.answers["/secret-path"] = {"body": bomb(64 << 20), "headers": {"Content-Encoding": "gzip"}}
    tracemalloc.start()
    try:
        await failure(client, at(upstream, SECRET), TooLarge)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(b"x" * 1000, mtime=0)[:10] + b"\xff" * 100])
async def test_a_body_that_its_coding_does_not_decode_is_an_invalid_document(client, upstream, content):
    """Bytes that are no gzip, from the first or from the middle on, are told as such and not retried."""
    upstream.answers["/secret-path"] = {"body": content, "headers": {"Content-Encoding": "gzip"}}
    error = await failure(client, at(upstream, SECRET), InvalidDocument)
    assert str(error) == "127.0.0.1 sent a body that its content coding does not decode"


# -- upstreams that do not answer as they should


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken off",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello",
    ],
)
async def test_a_truncated_body_is_unreachable(client, speak, answer):
    """A body that breaks off is never taken for a whole one, and may be whole the next time."""
    error = await failure(client, await speak(answer), Unreachable)
    assert str(error) == "127.0.0.1 broke off in the middle of the body"
    assert error.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_the_upstream_s_error(client, speak, answer):
    """Another protocol and broken heads are told as such, and are no success."""
    error = await failure(client, await speak(answer), UpstreamError)
    assert str(error) == "127.0.0.1 did not answer with valid HTTP"
    assert error.status is None


async def test_a_chunk_size_that_is_none_is_no_document(client, speak):
    """Garbage between the chunks ends in an error that says whose fault it is."""
    url = await speak(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n")
    with pytest.raises((UpstreamError, Unreachable), match=r"^127.0.0.1 ") as caught:
        await client.fetch("GET", url, {})
    assert "hunter2" not in str(caught.value)


async def test_an_upstream_that_hangs_up_without_a_word_is_unreachable(client, speak):
    """No answer at all is worth another try."""
    error = await failure(client, await speak(b""), Unreachable)
    assert str(error) == "the connection to 127.0.0.1 broke: ServerDisconnectedError"


async def test_a_refused_connection_is_unreachable(client):
    """Nobody at the port is told in the system's words."""
    with socket.socket() as bound:  # bound and not listening: nobody else gets the port meanwhile
        bound.bind(("127.0.0.1", 0))
        error = await failure(client, f"http://127.0.0.1:{bound.getsockname()[1]}{SECRET}", Unreachable)
    assert str(error).startswith("127.0.0.1 cannot be connected to: ")
    assert "refused" in str(error) or "Connect call failed" in str(error)
    assert error.retryable


async def test_a_name_that_does_not_resolve_is_unreachable(client, monkeypatch):
    """A name without an address may have one later (the look-up is answered here, so nothing is sent)."""

    async def getaddrinfo(host, *_, **__):
        raise socket.gaierror(socket.EAI_NONAME, f"{host}: Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    error = await failure(client, "http://no.such.host.invalid" + SECRET, Unreachable)
    assert str(error) == "no.such.host.invalid cannot be resolved: no such name, or no address for it"
    assert error.retryable


async def test_tls_to_who_does_not_speak_it_is_unreachable(client, upstream):
    """Https to a plain port fails in the handshake."""
    error = await failure(client, str(upstream.url.with_scheme("https").join(URL(SECRET))), Unreachable)
    assert str(error).startswith("127.0.0.1 cannot be connected to: ")
    assert upstream.seen == []


async def test_a_deadline_of_the_caller_ends_the_wait(client, upstream):
    """Nothing in the client waits longer than its task: it can be cancelled, and the client goes on."""
    asked = asyncio.Event()

    async def answer(_):
        asked.set()
        await asyncio.Event().wait()

    upstream.answers["/slow"] = answer
    fetching = asyncio.create_task(client.fetch("GET", at(upstream, "/slow"), {}))
    await asyncio.wait_for(asked.wait(), 5)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert (await client.fetch("GET", at(upstream, "/next"), {})).body.content == b"null"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (408, True),
        (410, False),
        (418, False),
        (425, True),
        (429, True),
        (500, True),
        (501, False),
        (502, True),
        (503, True),
        (504, True),
        (599, False),
    ],
)
async def test_a_status_that_is_no_success_is_an_upstream_error(client, upstream, status, retryable):
    """The error has the status, its reason and whether a retry may help, and the body is no document."""
    upstream.answers["/secret-path"] = {"status": status, "reason": "Why Not", "body": b"hunter2 secret"}
    error = await failure(client, at(upstream, SECRET), UpstreamError)
    assert str(error) == f"127.0.0.1 answered {status} Why Not"
    assert (error.status, error.retryable) == (status, retryable)


async def test_a_status_without_a_reason_is_told_bare(client, speak):
    """An upstream need not give a reason (RFC 9112, section 4)."""
    url = await speak(b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n")
    assert str(await failure(client, url, UpstreamError)) == "127.0.0.1 answered 500"


async def test_a_long_head_is_taken(client, speak):
    """A header of 32 KB, and 256 of them, are an answer like any other."""
    lines = b"".join(b"X-%d: y\r\n" % n for n in range(MAX_FIELDS - 2))
    long = b"X: " + b"x" * MAX_FIELD + b"\r\n"
    url = await speak(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + long + lines + b"\r\nok")
    assert (await client.fetch("GET", url, {})).body.content == b"ok"


@pytest.mark.parametrize(
    "fields",
    [
        b"X: " + b"x" * (MAX_FIELD + 1) + b"\r\n",
        b"X: " + b"x" * 1_000_000,
        b"x" * (MAX_FIELD + 1) + b": x\r\n",
        b"".join(b"X-%d: y\r\n" % n for n in range(MAX_FIELDS + 1)),
        b"X: y\r\n" * 10_000,
    ],
)
async def test_a_head_past_its_limits_is_too_large_and_no_fault_of_the_host(client, speak, fields):
    """The error names both limits, no retry helps, and the breaker does not count it as a failure."""
    error = await failure(client, await speak(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"), TooLarge)
    assert str(error) == "127.0.0.1 answered with more than 256 headers, or one of over 32768 bytes"
    assert (error.retryable, is_host_fault(error)) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
async def test_deadlines_that_a_worker_notices_late_are_no_failures_of_the_host(client, upstream, monkeypatch, late):
    """A loop that was blocked has looked at no response; one that turns has, and then the breaker opens."""
    monkeypatch.setattr(module, "SLOW", 0.0)
    deadline = time.monotonic() + 1.0  # long enough for all to be sent on a busy machine

    async def answer(_):
        await asyncio.sleep(5.0)
        return web.Response()

    async def fetch():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await client.fetch("GET", at(upstream), {}, deadline=deadline)

    upstream.answers["/"] = answer

    fetches = [asyncio.ensure_future(fetch()) for _ in range(MIN_REQUESTS)]
    await asyncio.sleep(0.1)
    if late:
        time.sleep(deadline - time.monotonic() + 2 * LATE)  # noqa: ASYNC251  that is the fault
    await asyncio.gather(*fetches)
    [host] = client.hosts
    assert host.breaker.is_closed is late


async def test_cookies_live_in_one_request_s_redirects(client, upstream):
    """What an answer sets goes along its redirect, and with no other request."""
    upstream.answers["/set"] = {
        "status": 302,
        "headers": {"Location": "/next", "Set-Cookie": "session=hunter2; Path=/"},
    }
    await client.fetch("GET", at(upstream, "/set"), {})
    await client.fetch("GET", at(upstream, "/other"), {"Cookie": "own=1"})
    await client.fetch("GET", at(upstream, "/last"), {})
    assert [seen.headers.get("Cookie") for seen in upstream.seen] == [None, "session=hunter2", "own=1", None]


async def test_a_loop_that_only_a_cookie_ends_ends(client, upstream):
    """An upstream that redirects until its cookie comes back is answered; one's own cookies stay beside it."""

    async def answer(request):
        if request.headers.get("Cookie") == "own=1; seen=yes":
            return web.Response(text="in")
        return web.Response(status=302, headers={"Location": "/", "Set-Cookie": "seen=yes; Path=/; HttpOnly"})

    upstream.answers["/"] = answer
    response = await client.fetch("GET", at(upstream), {"cookie": "own=1; seen=no"})
    assert (response.body.content, len(upstream.seen), response.attempts) == (b"in", 2, 1)


@pytest.mark.parametrize(
    ("path", "fields", "then"),
    [
        ("/next", ["a=1; Path=/", "b=2; Path=/"], "a=1; b=2"),
        ("/next", ["a=1; Path=/elsewhere"], None),
        ("/next", ["a=1; Path=/; Max-Age=0"], None),
        ("/next", ["a=1; Path=/; Secure"], None),
        ("/next", ["a=1; Path=/; Domain=example.org"], None),
        ("/next", ['a="1 2"; Path=/'], 'a="1 2"'),
        ("/next", ["a=" + "x" * 5_000 + "; Path=/"], None),
        ("/next", ["garbage", ""], None),
        ("http://localhost:{port}/next", ["a=1; Path=/"], None),
    ],
)
async def test_a_cookie_goes_where_its_upstream_would_have_it(upstream, path, fields, then):
    """Path, domain, age and scheme decide (RFC 6265); another host gets none."""

    async def answer(_):
        response = web.Response(status=302, headers={"Location": path.format(port=upstream.url.port)})
        for field in fields:
            response.headers.add("Set-Cookie", field)
        return response

    upstream.answers["/set"] = answer
    guard = Guard(parse_networks("127.0.0.0/8,::1/128"), LOOPBACK.ports)
    async with Client(LIMIT, guard, retry=ONCE) as client:
        await client.fetch("GET", at(upstream, "/set"), {})
    assert [seen.headers.get("Cookie") for seen in upstream.seen] == [None, then]


async def test_a_connection_is_used_again(client, upstream):
    """Requests one after the other share a connection, also after an error status."""
    peers = []

    async def answer(request):
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response(status=200 if len(peers) != 2 else 404)

    upstream.answers["/"] = answer
    await client.fetch("GET", at(upstream), {})
    await failure(client, at(upstream), UpstreamError)
    await client.fetch("GET", at(upstream), {})
    assert len(peers) == 3
    assert len(set(peers)) == 1


async def test_no_proxy_of_the_environment_is_used(monkeypatch, serve):
    """A proxy that the environment names sees nothing."""
    proxy, upstream = await serve(), await serve()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, str(proxy.url))
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        await client.fetch("GET", at(upstream), {})
    assert (len(upstream.seen), proxy.seen) == (1, [])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http:///x",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "//127.0.0.1/",
    ],
)
async def test_what_is_no_url_is_refused_here_too(client, url):
    """The client trusts nobody to have judged the URL before."""
    with pytest.raises(InvalidRequest, match=r"^url: is not an http\(s\) URL$"):
        await client.fetch("GET", url, {})
    assert client.calls == 0


@pytest.mark.parametrize("headers", [{"X": "a\r\nHost: evil"}, {"X\r\nHost": "evil"}, {"X": "a\0b"}])
async def test_a_header_that_would_inject_another_is_not_sent(client, upstream, headers):
    """Line breaks in headers end in an error before anything is sent, should validation ever let them through."""
    with pytest.raises(InvalidRequest, match=r"^the request to 127.0.0.1 cannot be sent: "):
        await client.fetch("GET", at(upstream), headers)
    assert upstream.seen == []


@pytest.mark.usefixtures("way")
async def test_closing_twice_is_no_error_and_closes_the_pools():
    """Leaving the context closes what was opened in it, with and without a proxy; doing so again does nothing."""
    client = Client(LIMIT, LOOPBACK, retry=ONCE)
    async with client:
        pools = client._direct.pool, client._proxied.pool
    assert [pool.closed for pool in pools] == [True, True]
    await client.__aexit__(None, None, None)


WHERE = URL("https://example.org:8443" + SECRET)
KEY: Any = aiohttp.client_reqrep.ConnectionKey("example.org", 8443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("exc", "error", "message"),
    [
        (TimeoutError(), TimedOut, "example.org did not answer in time"),
        (aiohttp.ConnectionTimeoutError("x"), TimedOut, "example.org did not answer in time"),
        (aiohttp.InvalidURL(str(WHERE)), InvalidRequest, "url: cannot be requested"),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("self-signed")),
            Unreachable,
            "example.org: TLS failed: ('self-signed',)",
        ),
        (
            aiohttp.ClientConnectorError(KEY, OSError(113, "No route to host")),
            Unreachable,
            "example.org cannot be connected to: No route to host",
        ),
        (
            aiohttp.ClientConnectorError(KEY, OSError("odd")),
            Unreachable,
            "example.org cannot be connected to: odd",
        ),
        (
            aiohttp.ClientConnectorError(KEY, DeniedAddress(DENIED[1])),
            Denied,
            "the host is in 10.0.0.0/8, which is not public; to allow it, add it to MILLRACE_ALLOW_NETWORKS",
        ),
        (ConnectionResetError("x"), Unreachable, "the connection to example.org broke: ConnectionResetError"),
        (aiohttp.ClientOSError(104, "x"), Unreachable, "the connection to example.org broke: ClientOSError"),
        (ValueError("why"), InvalidRequest, "the request to example.org cannot be sent: why"),
    ],
)
def test_each_way_to_fail_has_one_error(exc, error, message):
    """What cannot be had from a server on loopback is translated by the same table."""
    said = translate(exc, WHERE)
    assert type(said) is error
    assert str(said) == message


def test_no_error_quotes_the_url_it_is_about():
    """Neither path nor query shows in what is said of an URL that aiohttp itself would quote."""
    quoting = [
        aiohttp.NonHttpUrlClientError(str(WHERE)),
        aiohttp.InvalidUrlClientError(str(WHERE)),
        aiohttp.InvalidURL(str(WHERE)),
    ]
    said = [json.dumps(translate(exc, WHERE).describe()) for exc in quoting]
    assert [text for text in said if "secret" in text or "hunter2" in text] == []


async def test_a_body_is_sent_with_the_digits_it_was_asked_with(client, upstream):
    """From a request's JSON to the wire, no number is rounded; requests that differ in digits are kept apart."""
    text = b'{"id":9007199254740993,"price":10.10,"exact":0.29999999999999998,"zero":-0,"big":1E+30}'
    url = str(upstream.url)
    _, request = parse(b'{"url":"%b","method":"POST","body":%b}' % (url.encode(), text))
    await client.fetch("POST", url, {}, request.body)
    assert upstream.seen[-1].body == text
    _, other = parse(b'{"url":"%b","method":"POST","body":%b}' % (url.encode(), text.replace(b"10.10", b"10.1")))
    assert entry_key(request) != entry_key(other)


async def test_a_large_body_takes_room_from_when_it_is_large(upstream):
    """What is read of a body that hangs has its room, beside which small answers pass; given up, it is free again."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hang(request):
        response = web.StreamResponse(headers={"Content-Length": str(LIMIT)})
        await response.prepare(request)
        await response.write(b"x" * 90_000)
        begun.set()
        await go_on.wait()
        return response

    upstream.answers["/large"] = hang
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        large = asyncio.ensure_future(client.fetch("GET", at(upstream, "/large"), {}))
        await asyncio.wait_for(begun.wait(), 5)
        async with asyncio.timeout(5):
            while not client.bodies.taken:
                await client.fetch("GET", at(upstream), {})
        assert client.bodies.taken == LIMIT
        large.cancel()
        await asyncio.wait({large})
        assert client.bodies.taken == 0
        go_on.set()


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["status", "connection"])
async def test_an_error_that_is_settled_holds_no_request(upstream, fails):
    """Kept as an answer, an error holds neither the body that was sent nor anything else of where it was raised, and
    what it held is free without the garbage collector.
    """
    upstream.answers["/"] = {"status": 405}
    where = at(upstream) if fails == "status" else "http://127.0.0.1:1/"
    kept = []

    async def fail(client):
        try:
            await client.fetch("POST", where, {}, "x" * 1_000_000)
        except AnswerError as error:
            error.settle()
            kept.append(error)

    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        await fail(client)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(10):
                await fail(client)
            upstream.seen.clear()
            async with asyncio.timeout(5):  # connections let go of what they have sent in a turn of their own
                while tracemalloc.get_traced_memory()[0] > 3_000_000:
                    await asyncio.sleep(0)
        finally:
            tracemalloc.stop()
            gc.enable()
    assert len(kept) == 11
