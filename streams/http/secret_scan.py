"""Whether a text contains a secret: as it is, or escaped as in JSON, a URL or HTML.

RE2 reads 100 MiB/s for all secrets at once, whatever the text; Python's own engine takes 100 to 500 ms for 3 MiB.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

MIN_SECRET = 6
"""Minimum characters of a secret to search for: shorter ones are in many texts by chance."""

TAIL = 32
"""Characters at a secret's end that are searched for. For five tokens of 1,200 characters a pattern took 39 MiB, 0.3 s
to make and 0.5 s for each MiB of text, as RE2 gives up its fast way; and tokens of one issuer begin alike."""

_HTML = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


WINDOW = 256 << 10
"""Bytes searched in one turn of the event loop."""
OVERLAP = 64 << 10
"""Bytes searched again with the next window: a secret, even with each character escaped, is within one of the two."""


def contains_secret(secrets: Iterable[str], text: bytes) -> bool:
    """Whether a text contains one of the secrets, which are visible ASCII, or the end of a long one."""
    looked_for = tuple(secret[-TAIL:] for secret in secrets if len(secret) >= MIN_SECRET)
    return bool(looked_for) and _spellings(looked_for).search(text) is not None


async def large_contains_secret(contains: Callable[[bytes], bool], content: bytes, codec: str | None) -> bool:
    """Whether content, also once decoded, contains a secret, giving way to the event loop in between."""
    decoder = None if codec in (None, "utf-8", "ascii") else codecs.getincrementaldecoder(codec)(errors="replace")
    before = decoded_before = b""
    for start in range(0, len(content), WINDOW):
        if start:
            await asyncio.sleep(0)
        window = content[start : start + WINDOW]
        if contains(before + window):
            return True
        if b"\0" in window and contains((before + window).replace(b"\0", b"")):  # undeclared UTF-16 or UTF-32
            return True
        before = window[-OVERLAP:]
        if decoder is not None:
            decoded = decoded_before + decoder.decode(window).encode()
            if contains(decoded):
                return True
            decoded_before = decoded[-OVERLAP:]
    return False


@lru_cache(maxsize=256)
def _spellings(secrets: tuple[str, ...]) -> Any:
    """Return a pattern of all spellings of the secrets. Repeats are bounded, as it runs on untrusted input."""
    import re2  # noqa: PLC0415  15 ms that only a worker with secrets should pay

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # of bytes, whatever they are
    return re2.compile("|".join("".join(map(_character, secret)) for secret in secrets).encode(), options)


def _character(character: str) -> str:
    number, digits = ord(character), f"(?i:{ord(character):02x})"
    ways = [
        r"\\{0,4}" + re.escape(character),
        r"\\{1,4}u00" + digits,
        "%(?:25){0,2}" + digits,
        f"&#0{{0,4}}{number};?",
        f"&#[xX]0{{0,4}}{digits};?",
    ]
    if character in _HTML:
        ways.append(f"&{_HTML[character]};?")
    if character == " ":
        ways.append(r"\+")
    return f"(?:{'|'.join(ways)})"
