"""Whether a text tells a secret, however it is written there: as it is, or escaped as in JSON, a URL or HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MIN_TELLING = 6
"""Characters from which on a secret is looked for: a shorter one stands in many texts by chance."""

_HTML = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


def told(secrets: Iterable[str], text: bytes) -> bool:
    """Whether one of the secrets, of visible ASCII, stands in a text."""
    return any(_spellings(secret).search(text) is not None for secret in secrets if len(secret) >= MIN_TELLING)


@lru_cache(maxsize=256)
def _spellings(secret: str) -> re.Pattern[bytes]:
    """Return a pattern of every way to write a secret. The repeats are bounded: it runs on what strangers send."""
    return re.compile("".join(map(_character, secret)).encode())


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
