"""How long an answer may be used: what the upstream says by Cache-Control (RFC 9111, RFC 5861), within our limits."""

from __future__ import annotations

import re
from typing import NamedTuple

NEGATIVE_TTL = 5.0
"""Seconds that a failure is an answer too: that long the upstream is not asked the same again."""
STALE_IF_ERROR = 300.0
"""Seconds past its freshness that an answer may stand in for a failure, unless the upstream says otherwise."""

# RFC 9111, section 4.2.4: these forbid to serve stale, s-maxage too.
_NEVER_STALE = frozenset({"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"})
_DIRECTIVE = re.compile(r'([A-Za-z-]+)(?:=(?:"([^"]*)"|([^\s,;"]+)))?')


class Freshness(NamedTuple):
    """Seconds from the fetch on: `fresh` it may be used, and for `stale_if_error` more instead of a failure."""

    fresh: float
    stale_if_error: float


def freshness(cache_control: str | None, longest: float) -> Freshness | None:
    """Read a Cache-Control; None if the answer must not be kept. Nothing is fresh for more than `longest` seconds.

    An answer is shared by all who ask the same, so this is a shared cache: `private` is not kept, `s-maxage` goes
    before `max-age`. What cannot be read counts as not said.
    """
    if cache_control is None:
        return Freshness(longest, STALE_IF_ERROR)
    said = {name.lower(): quoted or plain for name, quoted, plain in _DIRECTIVE.findall(cache_control)}
    if "no-store" in said or "private" in said:
        return None
    age = _seconds(said.get("s-maxage"))
    if age is None:
        age = _seconds(said.get("max-age"))
    fresh = longest if age is None else min(age, longest)
    stale = _seconds(said.get("stale-if-error"))
    strict = not said.keys().isdisjoint(_NEVER_STALE)
    return Freshness(
        0.0 if "no-cache" in said else fresh,
        0.0 if strict else STALE_IF_ERROR if stale is None else min(stale, STALE_IF_ERROR),
    )


def _seconds(text: str | None) -> float | None:
    return float(text[:10]) if text and text.isdecimal() and text.isascii() else None
