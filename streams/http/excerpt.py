"""Excerpts of responses: the beginning of an error's body, and the headers that a source adds to results."""

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
from streams.http.response import IncomingResponse, media
from streams.http.secret_scan import large_contains_secret

if TYPE_CHECKING:
    from streams.http.auth import Credentials

MAX_EXCERPT = 4_096
"""Bytes (of UTF-8) of a body that an error carries."""
MAX_READ = 16_384
"""Decoded bytes that are read: a secret may begin in the excerpt and end after it."""
PATIENCE = 1.0
"""Seconds from the head to the end of an error's body."""
HASTE = 0.05
"""The same if a retry may follow, which should not wait."""
_JSON = ("application/json", "+json")


def excerpt(body: Body, *, whole: bool = True) -> tuple[str | None, bool]:
    """Return the beginning of a body as text, None if it is not text, and whether the body is longer."""
    start = body.content[: 4 * MAX_EXCERPT]
    whole = whole and len(start) == len(body.content)
    # JSON is UTF-8 (RFC 8259, section 8.1), UTF-16 or UTF-32; the given charset counts only for other bodies.
    codec = Body(start, body.media_type, None if body.media_type.endswith(_JSON) else body.charset).codec()
    try:
        text = _decoded(start, codec, "strict", whole=whole)
    except UnicodeDecodeError:
        text = _decoded(start, Body(start, body.media_type, body.charset).codec(), "replace", whole=whole)
    if "\0" in text or not text.strip():
        return None, False
    encoded = text.encode()
    return encoded[:MAX_EXCERPT].decode(errors="ignore"), not whole or len(encoded) > MAX_EXCERPT


def _decoded(start: bytes, codec: str | None, errors: str, *, whole: bool) -> str:
    """Decode without the first bytes of an incomplete character."""
    return codecs.getincrementaldecoder(codec or "utf-8")(errors=errors).decode(start, final=whole)


async def add_excerpt(
    error: AnswerError, response: IncomingResponse, credentials: Credentials | None, deadline: float | None
) -> None:
    """Add the beginning of a response's body to its error, unless it contains the `credentials`.

    Of a body that takes too long, the part that arrived is used, unless there are credentials, which may be cut in it.
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
    if credentials is None or not await large_contains_secret(credentials.contained_in, body.content, body.codec()):
        error.body, error.body_truncated = excerpt(body, whole=whole and len(content) <= MAX_READ)


async def _read(response: IncomingResponse, content: bytearray) -> None:
    """Decode a body until its end or MAX_READ bytes."""
    decoder = Decoder(codings_of(response.headers), 2 * STEP)
    async with contextlib.aclosing(decoded(response, decoder)) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > MAX_READ:
                return


MAX_CHOSEN = 65_536
"""Characters of a header that goes into results: each is searched for credentials in one turn."""


def chosen(
    headers: Mapping[str, str], names: tuple[str, ...], credentials: Credentials | None
) -> dict[str, str] | None:
    """Return the named headers of a response, in lower case, without those that contain the credentials, or have more
    than MAX_CHOSEN characters.

    None without names. Repeated headers are joined with commas (RFC 9110, section 5.3).
    """
    if not names:
        return None
    assert isinstance(headers, MultiMapping)
    found = {name: ", ".join(headers.getall(name)) for name in names if name in headers}
    found = {name: value for name, value in found.items() if len(value) <= MAX_CHOSEN}
    return {
        name: value.encode(errors="replace").decode()
        for name, value in found.items()
        if credentials is None or not credentials.contained_in(value.encode(errors="replace"))
    }


async def repeats_credentials(body: Body, headers: Mapping[str, str], credentials: Credentials) -> bool:
    """Whether a body, or a header that is quoted or cached with it, contains the credentials."""
    quoted = " ".join(headers.get(name, "") for name in ("Content-Type", "ETag", "Last-Modified"))
    if credentials.contained_in(quoted.encode(errors="replace")):
        return True
    return await large_contains_secret(credentials.contained_in, body.content, body.codec())
