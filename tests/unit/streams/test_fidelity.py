"""What raw servers on loopback answer and see: codings without content, transfer codings, cookies, headers, queries."""

from __future__ import annotations

import gzip

import pytest
from multidict import CIMultiDict
from yarl import URL

from models.errors import InvalidDocument
from models.source import Retries
from streams.http.auth import Fixed
from streams.http.client import Client
from streams.http.content import codings_of
from streams.http.cookies import Cookies
from streams.oauth import DEFAULT_TOKEN_LIFE, read_token
from tests.unit.streams.test_client import LIMIT, LOOPBACK
from tests.unit.streams.test_sent_once import Half, Raw, ask, refused

HERE = URL("http://127.0.0.1/")


@pytest.fixture
async def client(opened):
    return await opened.enter_async_context(Client(LIMIT, LOOPBACK, retry=Retries(attempts=1)))


@pytest.fixture
def raw(opened, client):
    """Start raw servers, which end after the client."""

    async def start(*answers):
        return await Raw(*answers).start(opened)

    return start


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("DELETE", b"204 No Content\r\nContent-Encoding: br"),
        ("HEAD", b"200 OK\r\nContent-Encoding: br\r\nContent-Length: 99999999"),
        ("PUT", b"200 OK\r\nContent-Encoding: br\r\nContent-Length: 0"),
        ("GET", b"304 Not Modified\r\nContent-Encoding: br\r\nContent-Length: 99999999"),
    ],
)
async def test_no_content_is_not_decoded(client, raw, method, head):
    """An answer without content is whole whatever its head says of a coding or a length (RFC 9110, section 8.6)."""
    server = await raw(b"HTTP/1.1 " + head + b"\r\n\r\n")
    answer = await ask(client, server.url, method, validators={"If-None-Match": '"a"'})
    assert answer.body.content == b""


async def test_a_transfer_coding_is_undone(client, raw):
    """A body that is compressed for its transfer arrives as it was (RFC 9112, section 7.2), with chunks and without."""
    packed = gzip.compress(b'{"a":1}')
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    server = await raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunks)
    assert (await ask(client, server.url)).body.content == b'{"a":1}'
    server = await raw(Half(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + packed))
    assert (await ask(client, server.url)).body.content == b'{"a":1}'


async def test_an_unknown_transfer_coding_is_refused_by_name(client, raw):
    """What is not decoded here is no document."""
    server = await raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: compress, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
    error = await refused(client, server.url, error=InvalidDocument)
    assert "transfer coding 'compress'" in str(error)


def test_transfer_codings_are_undone_first():
    """They were applied last."""
    headers = CIMultiDict({"Content-Encoding": "deflate", "Transfer-Encoding": "gzip, chunked"})
    assert codings_of(headers) == ["deflate", "gzip"]


@pytest.mark.parametrize("value", ["YWJj==", "a:b,c", "1,2", '{"a":1}', "", '"q"', '"a\\"b"', "a b", "%22", "a=b"])
async def test_a_cookie_comes_back_as_it_was_set(value):
    """A value is opaque: it is sent back byte for byte (RFC 6265, section 5.4)."""
    cookies = Cookies(None)
    cookies.take(HERE, [f"s={value}; Path=/"])
    assert cookies.added_to({}, HERE, own=True) == {"Cookie": f"s={value}"}


@pytest.mark.parametrize(
    ("attribute", "kept"),
    [
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", False),
        ("expires=Thu, 01-Jan-1970 00:00:00 GMT", False),
        ("Expires=Thu, 01-Jan-70 00:00:01 GMT", False),
        ("Max-Age=0", False),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=100", True),
    ],
)
async def test_a_cookie_that_has_ended_is_not_sent(attribute, kept):
    """A date in the past deletes, the epoch too; Max-Age goes before it (RFC 6265, section 5.3)."""
    cookies = Cookies(None)
    cookies.take(HERE, ["s=1; Path=/"])
    cookies.take(HERE, [f"s=2; Path=/; {attribute}"])
    assert cookies.added_to({}, HERE, own=True) == ({"Cookie": "s=2"} if kept else {})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_a_request_without_a_body_names_no_type_of_one(client, raw, method):
    """No Content-Type is sent that nobody asked for; one that the request has is."""
    server = await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await ask(client, server.url, method)
    await ask(client, server.url, method, {"content-type": "a/b"})
    assert [b"content-type" in head.lower() for head in server.seen] == [False, True]


@pytest.mark.parametrize("life", ["", ',"expires_in":null'])
def test_a_token_without_a_life_has_the_default(life):
    """`null` says no more than nothing."""
    assert read_token(b'{"access_token":"abc"%b}' % life.encode()) == ("abc", DEFAULT_TOKEN_LIFE)


@pytest.mark.parametrize(("given", "sent"), [("?a=1&&b=2", "?a=1&&b=2&key=v"), ("?a&", "?a&&key=v"), ("", "?key=v")])
async def test_a_key_leaves_the_query_as_it_is(given, sent):
    """Every byte of a query before the key stays."""
    signed = await Fixed({}, {"key": "v"}, ()).sign(URL(f"http://a/{given}", encoded=True), {}, None)
    assert str(signed.url) == f"http://a/{sent}"
