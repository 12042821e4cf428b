"""Content codings: what is undone, what is asked for, and that no body cut short passes for a whole one."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from contextlib import AsyncExitStack

import pytest
from multidict import CIMultiDict

from models.errors import InvalidDocument, TooLarge, Unreachable
from models.source import Retries
from streams.config.validators import parse_networks, parse_ports
from streams.http.client import Client
from streams.http.content import Cut, Decoder, accepted, codings_of
from streams.http.guard import Guard

LIMIT = 1 << 20
TEXT = json.dumps([f"line {number}" for number in range(5_000)]).encode()


def raw_deflate(data):
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


def decode(codings, data, step=7):
    decoder = Decoder(codings, LIMIT)
    content = b"".join(piece for at in range(0, len(data), step) for piece in decoder.feed(data[at : at + step]))
    decoder.finish()
    return content


CODED = {
    "gzip": (["gzip"], gzip.compress(TEXT, mtime=0)),
    "deflate": (["deflate"], zlib.compress(TEXT)),
    "bare deflate": (["deflate"], raw_deflate(TEXT)),
    "two members": (["gzip"], gzip.compress(TEXT[:999], mtime=0) + gzip.compress(TEXT[999:], mtime=0)),
    "an empty member": (["gzip"], gzip.compress(b"", mtime=0) + gzip.compress(TEXT, mtime=0)),
    "padding": (["gzip"], gzip.compress(TEXT, mtime=0) + bytes(8)),
    "padded deflate": (["deflate"], zlib.compress(TEXT) + bytes(3)),
    "two codings": (["deflate", "gzip"], gzip.compress(zlib.compress(TEXT), mtime=0)),
    "gzip twice": (["gzip", "gzip"], gzip.compress(gzip.compress(TEXT, mtime=0), mtime=0)),
}


@pytest.mark.parametrize("case", CODED)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_codings_are_undone_in_reverse_order_however_the_bytes_arrive(case, step):
    """Each coding gives the content back, byte by byte or at once, with members and padding as gzip has them."""
    assert decode(*CODED[case], step) == TEXT


@pytest.mark.parametrize("case", CODED)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
def test_no_part_of_a_coded_body_is_taken_for_the_whole(case, share):
    """Cut anywhere, a body either ends too early or is no coding at all: it never is a shorter document."""
    codings, data = CODED[case]
    if case == "padding":
        data = data[:-8]
    if case == "padded deflate":
        data = data[:-3]
    with pytest.raises((Cut, zlib.error)):
        decode(codings, data[: max(1, int(len(data) * share))])


@pytest.mark.parametrize(
    ("codings", "data"),
    [
        (["gzip"], gzip.compress(TEXT, mtime=0) + b"junk"),
        (["gzip"], gzip.compress(TEXT, mtime=0) + bytes(8) + gzip.compress(TEXT, mtime=0)),
        (["deflate"], zlib.compress(TEXT) + zlib.compress(TEXT)),
        (["gzip"], TEXT),
        (["deflate", "gzip"], zlib.compress(gzip.compress(TEXT, mtime=0))),
    ],
)
def test_what_is_no_coding_is_refused(codings, data):
    """Junk behind the content, content that was never coded, and codings in another order than named are errors."""
    with pytest.raises((Cut, zlib.error)):
        decode(codings, data)


def test_nothing_at_all_is_an_empty_body_in_any_coding():
    """A body of no bytes is whole: servers name the coding with a 204 or for HEAD, too."""
    assert decode(["gzip"], b"") == b""


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_each_coding_may_give_so_much_and_no_more(depth):
    """A bomb inside a bomb stops at the limit, whichever layer passes it."""
    data = bytes(LIMIT * 64)
    for _ in range(depth):
        data = gzip.compress(data, mtime=0)
    with pytest.raises(TooLarge):
        decode(["gzip"] * depth, data, 1 << 16)


def test_a_layer_that_gives_nothing_is_bounded_as_well():
    """A middle layer of empty blocks makes no content, but is counted: it cannot keep the worker busy for ever."""
    empty = b"\x00\x00\x00\xff\xff" * (LIMIT // 2)
    with pytest.raises(TooLarge):
        decode(["deflate", "gzip"], gzip.compress(raw_deflate(b"")[:0] + empty, mtime=0), 1 << 16)


@pytest.mark.parametrize(
    ("lines", "codings"),
    [
        (["x-gzip"], ["gzip"]),
        (["GZIP"], ["gzip"]),
        (["deflate, gzip"], ["deflate", "gzip"]),
        (["deflate", "x-gzip"], ["deflate", "gzip"]),
        (["identity"], []),
        ([""], []),
        (["aws-chunked,gzip"], ["gzip"]),
        (["utf-8"], []),
        (["none"], []),
    ],
)
def test_codings_are_read_from_the_header(lines, codings):
    """Names are compared without case, x-gzip is gzip, lines make one list, and what codes nothing is left out."""
    assert codings_of(CIMultiDict([("Content-Encoding", line) for line in lines])) == codings


@pytest.mark.parametrize("line", ["br", "zstd", "gzip, br", "compress", "gzip," * 5])
def test_a_coding_that_is_not_decoded_is_named(line):
    """An unknown coding is an error of the document that says which are read, not undecoded text."""
    with pytest.raises(InvalidDocument, match="content coding"):
        codings_of(CIMultiDict({"Content-Encoding": line}))


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ("br", "identity"),
        ("br, gzip;q=0.5, zstd", "gzip;q=0.5"),
        ("gzip, deflate", "gzip, deflate"),
        ("identity", "identity"),
        ("*", "identity"),
        ("gzip, *;q=0", "gzip, *;q=0"),
        ("X-GZIP", "X-GZIP"),
        ("br;q=0.001", "identity"),
    ],
)
def test_only_what_can_be_decoded_is_asked_for(wanted, sent):
    """A sender's Accept-Encoding goes out without the codings that nobody here could undo."""
    assert accepted(wanted) == sent


@pytest.fixture
async def wire(way):
    """Return a function that has one raw answer served, and returns what the client makes of it."""
    async with AsyncExitStack() as stack:
        guard = Guard(parse_networks("127.0.0.0/8"), parse_ports("1-65535"))
        client = await stack.enter_async_context(Client(LIMIT, guard, retry=Retries(attempts=1)))

        async def fetch(head, body, headers=None, *, late=False):
            asked = []

            async def talk(reader, writer):
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
                if late:
                    await writer.drain()
                    await asyncio.sleep(0.05)
                writer.write(body)
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(talk, "127.0.0.1", 0)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            response = await client.fetch("GET", f"http://127.0.0.1:{port}/", headers or {})
            return response.body.content, asked

        yield fetch


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("deflate, gzip", gzip.compress(zlib.compress(TEXT), mtime=0)),
        ("gzip", gzip.compress(TEXT, mtime=0) + bytes(8)),
        ("identity", TEXT),
    ],
)
async def test_a_coded_answer_arrives_as_it_was(wire, coding, body):
    """Over the wire, what the coding names is undone, also where aiohttp would not know how."""
    head = f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}".encode()
    assert (await wire(head, body))[0] == TEXT


@pytest.mark.parametrize("share", [0.5, 0.9])
async def test_a_gzip_body_cut_in_half_is_no_answer(wire, share):
    """A gzip body with a fitting Content-Length that ends too early is broken off, not a shorter document."""
    body = gzip.compress(TEXT, mtime=0)
    body = body[: int(len(body) * share)]
    head = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}".encode()
    with pytest.raises(Unreachable, match="broke off"):
        await wire(head, body)


async def test_a_number_cut_short_is_no_smaller_number(wire):
    """`123456789012` that is cut within its coding is never `123456789`, whole as that looks."""
    coder = zlib.compressobj(0, wbits=31)
    body = coder.compress(b"123456789") + coder.flush(zlib.Z_SYNC_FLUSH)
    head = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}".encode()
    with pytest.raises(Unreachable, match="broke off"):
        await wire(head, body)


async def test_an_unknown_coding_blames_nobody(wire):
    """A coding that is not read is told as that; the host did its part."""
    with pytest.raises(InvalidDocument, match="'br' is not supported"):
        await wire(b"Content-Encoding: br\r\nContent-Length: 3", b"abc")


@pytest.mark.parametrize("late", [False, True])
async def test_an_empty_body_needs_no_decoding(wire, late):
    """Whatever its coding is, also where the end of its chunks comes in a segment of its own."""
    assert (await wire(b"Content-Encoding: br\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", late=late))[0] == b""


async def test_an_unknown_coding_is_told_however_late_the_body_comes(wire):
    """A body behind its head, in a coding that is not read, is an invalid document as ever."""
    with pytest.raises(InvalidDocument, match="'br' is not supported"):
        await wire(b"Content-Encoding: br\r\nTransfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", late=True)


async def test_a_request_asks_for_what_it_can_read(wire):
    """Without a wish of its sender's, gzip and deflate are asked for; with one, what is left of it."""
    usual = (await wire(b"Content-Length: 1", b"1"))[1][0]
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in usual
    wished = (await wire(b"Content-Length: 1", b"1", {"accept-encoding": "br, gzip"}))[1][0]
    assert b"\r\naccept-encoding: gzip\r\n" in wished
    assert wished.lower().count(b"accept-encoding") == 1
