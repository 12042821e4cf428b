"""Decodes the content codings of a response (RFC 9110, section 8.4). aiohttp's own decoder accepts a truncated gzip
body, refuses padding, and supports neither `x-gzip` nor two codings on one body.

    wire ──readany──► last coding ──► … ──► first coding ──► content, at most `limit` bytes, in steps of STEP
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from typing import TypeAlias

from multidict import MultiMapping

from models.errors import InvalidDocument, TooLarge, Unreachable
from models.text import text_codec
from streams.http.response import IncomingResponse

Grow: TypeAlias = Callable[[int], Awaitable[None]]
"""Called with the bytes of a body so far; the rest is read when it returns."""
ACCEPT_ENCODING = "gzip, deflate"
"""The codings decoded here; sent unless a request has its own Accept-Encoding."""
STEP = 64 << 10
"""Bytes decoded at once: 0.3 ms."""
FED = 8 << 10
"""Bytes given to zlib at once: for each gzip member it copies the rest of them."""
TURN = 256 << 10
"""Bytes decoded in one turn of the event loop."""
MAX_CODINGS = 4
"""Codings of one body: each multiplies how much a few bytes can become."""
MAX_QUOTED = 40
"""Characters of a coding's name in a message."""

MAX_CODINGS_TEXT = 1_024
"""Characters of all Content-Encoding headers of an answer."""
MAX_MEMBERS = 65_536
"""Members of one gzip body (RFC 1952, section 2.2): each takes 2 µs, also an empty one, which has 20 bytes."""
MEMBER = 512
"""Bytes whose decoding takes as long as a member without any."""

_GZIP, _DEFLATE = "gzip", "deflate"
_NAMES = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _DEFLATE}
# The last three change nothing: servers send them by mistake, or pass them on from an upload.
_NOTHING = frozenset({"", "identity", "none", "binary", "aws-chunked"})
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15


class Cut(Exception):
    """The content ended before its coding did."""


class _Stage:
    """Decodes one coding. Gzip members may follow each other (RFC 1952, section 2.2), and zeros may follow them."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._size = self._members = 0
        self._inflate: zlib._Decompress | None = None
        self._head = b""
        self._done = self._padded = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield decoded pieces of STEP bytes at most, and an empty piece after each member.

        Raises zlib.error, and TooLarge past the limit or for too many members.
        """
        for start in range(0, len(data), FED):
            yield from self._feed(data[start : start + FED])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        full = False
        while data or full:
            if self._inflate is None and not (data := self._begin(data)):
                return
            assert self._inflate is not None
            piece = self._inflate.decompress(data, STEP)
            full = len(piece) == STEP  # there may be more in it
            data = self._inflate.unconsumed_tail
            if piece:
                self._size += len(piece)
                if self._size > self._limit:
                    raise too_large(self._limit)
                yield piece
            if self._inflate.eof:
                data, full = self._inflate.unused_data, False
                self._inflate, self._done = None, True
                self._members += 1
                if self._members > MAX_MEMBERS:
                    msg = f"the body has more than {MAX_MEMBERS} gzip members"
                    raise TooLarge(msg)
                yield b""

    def _begin(self, data: bytes) -> bytes:
        """Begin a member, or skip padding; returns what is left to decode."""
        if self._done:
            rest = data.lstrip(b"\0")
            self._padded = self._padded or len(rest) < len(data)
            if not rest:
                return b""
            if self._padded or self._name != _GZIP:
                msg = "more follows the content"
                raise zlib.error(msg)
        data = self._head + data
        if self._name == _DEFLATE and len(data) < 2:  # noqa: PLR2004  the two bytes of a zlib header
            self._head = data
            return b""
        self._head, self._done = b"", False
        self._inflate = zlib.decompressobj(_GZIP_BITS if self._name == _GZIP else _deflate_bits(data))
        return data

    def finish(self) -> None:
        """Raise Cut if the content is incomplete."""
        if self._inflate is not None or self._head:
            raise Cut


def _deflate_bits(data: bytes) -> int:
    """Return zlib's window bits for a deflate body: in zlib's format, or raw as some servers send it."""
    return _ZLIB_BITS if data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0 else _RAW_BITS


class Decoder:
    """Decodes all codings of one body; `limit`: maximum bytes after each coding."""

    def __init__(self, codings: Iterable[str], limit: int) -> None:
        self._stages = [_Stage(name, limit) for name in reversed(list(codings))]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield decoded pieces, some of them empty. Raises zlib.error, and TooLarge past the limit."""
        return _through(self._stages, data)

    def finish(self) -> None:
        """Raise Cut if the body is incomplete."""
        for stage in self._stages:
            stage.finish()


def _through(stages: list[_Stage], data: bytes) -> Iterator[bytes]:
    if not stages or not data:
        yield data
        return
    for piece in stages[0].feed(data):
        yield from _through(stages[1:], piece)


def codings_of(headers: MultiMapping[str]) -> list[str]:
    """Return the codings of a body in the order applied, transfer codings last (RFC 9112, section 7).

    Raises InvalidDocument for an unsupported coding.
    """
    codings: list[str] = []
    if "Transfer-Encoding" in headers:
        codings = _transfer_codings(headers.getall("Transfer-Encoding"))
    if "Content-Encoding" not in headers:
        return codings
    transferred, codings = codings, []
    text = ",".join(headers.getall("Content-Encoding"))
    if len(text) > MAX_CODINGS_TEXT:
        msg = f"the body's content codings take {len(text)} characters; at most {MAX_CODINGS_TEXT} are read"
        raise InvalidDocument(msg)
    for named in text.split(","):
        name = named.strip(" \t").lower()
        if name in _NAMES:
            codings.append(_NAMES[name])
        elif name not in _NOTHING and text_codec(name) is None:  # a charset in the wrong place is no coding
            raise _unknown(name, "content")
    codings += transferred
    if len(codings) > MAX_CODINGS:
        msg = f"the body has {len(codings)} content codings; at most {MAX_CODINGS} are undone"
        raise InvalidDocument(msg)
    return codings


def _transfer_codings(fields: list[str]) -> list[str]:
    names = [named.strip(" \t").lower() for named in ",".join(fields).split(",")]
    unknown = next((name for name in names if name not in _NAMES and name not in ("chunked", "identity", "")), None)
    if unknown is not None:
        raise _unknown(unknown, "transfer")
    return [_NAMES[name] for name in names if name in _NAMES]


def _unknown(name: str, kind: str) -> InvalidDocument:
    quoted = repr(name) if len(name) <= MAX_QUOTED else f"of {len(name)} characters"  # no part of a possible secret
    return InvalidDocument(f"the body's {kind} coding {quoted} is not supported; supported: {ACCEPT_ENCODING}")


def accepted(value: str) -> str:
    """Return an Accept-Encoding without unsupported codings; `identity` if nothing else is left."""
    members = [each.strip(" \t") for each in value.split(",")]
    kept = [each for each in members if _is_accepted(each)]
    return value if kept == members else ", ".join(kept) or "identity"


def _is_accepted(member: str) -> bool:
    name, _, weight = member.partition(";")
    known = name.strip(" \t").lower() in (*_NAMES, "identity")
    return known or weight.replace(" ", "").lower().rstrip("0.") == "q="  # refused anyway


async def _at_once(size: int) -> None:
    """Wait for nothing."""


def arrived(response: IncomingResponse, limit: int) -> bytes | None:
    """Return a body without codings, of at most `limit` bytes, that came with its head, as small ones do; else None."""
    headers = response.headers
    if not response.content.is_eof() or "Transfer-Encoding" in headers or "Content-Encoding" in headers:
        return None
    length = response.content_length
    return None if length is None or length > limit else response.content.read_nowait()


async def read_body(response: IncomingResponse, limit: int, grow: Grow = _at_once) -> bytes:
    """Read and decode a body of at most `limit` bytes, giving way to the event loop in between.

    `grow` is awaited with the bytes so far before more are read. Raises what it raises, TooLarge, InvalidDocument for
    an undecodable body, Unreachable for a truncated one, and aiohttp's errors.
    """
    declared = response.content_length
    if response.content.at_eof():  # no content, whatever the head says (RFC 9110, section 6.4.1)
        return b""
    if declared is not None and declared > limit:
        msg = f"the body has {declared} bytes; at most {limit} are taken"
        raise TooLarge(msg)
    try:
        codings = codings_of(response.headers)
    except InvalidDocument:
        if await response.content.readany():
            raise
        return b""  # the end of an empty body came in a later segment than its head
    chunks: list[bytes] = []
    if codings:
        await _decode(response, Decoder(codings, limit), chunks, grow)
    else:
        size = 0
        while chunk := await response.content.readany():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
            await grow(size)
            if response.content.at_eof():
                break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _decode(response: IncomingResponse, decoder: Decoder, chunks: list[bytes], grow: Grow) -> None:
    host, size = response.url.host, 0
    try:
        async for piece in decoded(response, decoder):
            chunks.append(piece)
            size += len(piece)
            await grow(size)
    except zlib.error:
        msg = f"{host} sent a body that its content coding does not decode"
        raise InvalidDocument(msg) from None
    except Cut:
        msg = f"{host} broke off in the middle of the body"
        raise Unreachable(msg) from None


async def decoded(response: IncomingResponse, decoder: Decoder) -> AsyncGenerator[bytes, None]:
    """Yield decoded pieces, giving way to the event loop. Raises Cut, zlib.error, TooLarge and aiohttp's errors."""
    turn = 0
    while chunk := await response.content.readany():
        for piece in decoder.feed(chunk):
            if piece:
                yield piece
            turn += len(piece) or MEMBER
            if turn >= TURN:
                turn = 0
                await asyncio.sleep(0)
    decoder.finish()


def too_large(limit: int) -> TooLarge:
    """Return the error for a body over its limit."""
    return TooLarge(f"the decoded body passes {limit} bytes")
