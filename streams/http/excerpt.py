"""What an upstream said in place of a document: the beginning of its body, and the headers that a source asks for."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import aiohttp
from multidict import MultiMapping

from models.documents import Body
from models.errors import AnswerError
from streams.http.content import STEP, Cut, Decoder, codings_of, decoded
from streams.http.response import media
from streams.http.secret_scan import told_in_large

if TYPE_CHECKING:
    from streams.http.auth import Credentials

MAX_EXCERPT = 4_096
"""Bytes (of UTF-8) of a body that an error carries."""
MAX_READ = 16_384
"""Decoded bytes that are read: also what follows the excerpt, where a secret might go on that begins in it."""
PATIENCE = 1.0
"""Seconds from its head that an error's body may take."""
HASTE = 0.05
"""The same where another try may follow, which is not to wait."""
_JSON = ("application/json", "+json")


def excerpt(body: Body, *, whole: bool = True) -> tuple[str | None, bool]:
    """Return the beginning of a body as text, None if it is none, and whether the body goes on."""
    start = body.content[: 4 * MAX_EXCERPT]
    whole = whole and len(start) == len(body.content)
    # JSON is UTF-8 (RFC 8259, section 8.1), or what it begins as.
    codec = Body(start, body.media_type, None if body.media_type.endswith(_JSON) else body.charset).codec()
    decoder = codecs.getincrementaldecoder(codec or "utf-8")(errors="replace")
    text = decoder.decode(start, final=whole)  # without the first bytes of a character that is cut
    if "\0" in text or not text.strip():
        return None, False
    encoded = text.encode()
    return encoded[:MAX_EXCERPT].decode(errors="ignore"), not whole or len(encoded) > MAX_EXCERPT


async def add_excerpt(
    error: AnswerError, response: aiohttp.ClientResponse, credentials: Credentials | None, deadline: float | None
) -> None:
    """Put the beginning of an answer's body into its error, unless it tells the `credentials` or takes too long.

    A body that does not come in time is told as far as it came, if there are no credentials that might be cut in it.
    """
    seconds = HASTE if error.retryable else PATIENCE
    if deadline is not None:
        seconds = min(seconds, (deadline - time.monotonic()) / 2)
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            await _read(response, content)
        whole = True
    except (AnswerError, Cut, zlib.error, aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
        whole = False
    if credentials is not None and not whole:
        return
    body = Body(bytes(content[:MAX_READ]), *media(response.headers.get("Content-Type")))
    if credentials is None or not await told_in_large(credentials.contained_in, body.content, body.codec()):
        error.body, error.body_truncated = excerpt(body, whole=whole and len(content) <= MAX_READ)


async def _read(response: aiohttp.ClientResponse, content: bytearray) -> None:
    """Decode a body until it ends, or there are more than MAX_READ bytes of it."""
    decoder = Decoder(codings_of(response.headers), 2 * STEP)
    async with contextlib.aclosing(decoded(response, decoder)) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > MAX_READ:
                return


def chosen(
    headers: Mapping[str, str], names: tuple[str, ...], credentials: Credentials | None
) -> dict[str, str] | None:
    """Return the headers of an answer that a source asks for, in lower case, without those that tell its credentials.

    None if it asks for none. One that came several times is joined with commas (RFC 9110, section 5.3).
    """
    if not names:
        return None
    assert isinstance(headers, MultiMapping)
    found = {name: ", ".join(headers.getall(name)) for name in names if name in headers}
    return {
        name: value.encode(errors="replace").decode()
        for name, value in found.items()
        if credentials is None or not credentials.contained_in(value.encode(errors="replace"))
    }


async def tells(body: Body, headers: Mapping[str, str], credentials: Credentials) -> bool:
    """Whether what becomes a document, or words about one, has the credentials in it."""
    quoted = " ".join(headers.get(name, "") for name in ("Content-Type", "ETag", "Last-Modified"))
    if credentials.contained_in(quoted.encode(errors="replace")):
        return True
    return await told_in_large(credentials.contained_in, body.content, body.codec())
