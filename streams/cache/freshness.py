"""How long an answer may be used: what the upstream says (RFC 9111, RFC 5861), within the source's limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from models.source import MAX_STALE, CachePolicy

# RFC 9111, section 4.2.4: these forbid to serve stale, s-maxage too.
_NEVER_STALE = frozenset({"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"})
_DIRECTIVE = re.compile(r'([A-Za-z-]+)(?:=(?:"([^"]*)"|([^\s,;"]+)))?')

_SPEAKING = ("Cache-Control", "Expires", "Vary")

Headers = Mapping[str, str]


class Freshness(NamedTuple):
    """Seconds from the fetch on: `fresh` an answer may be used, for `while_revalidate` more while it is fetched anew,
    and for `if_error` more instead of a failure.
    """

    fresh: float
    while_revalidate: float
    if_error: float


def freshness(headers: Headers, policy: CachePolicy, now: float) -> Freshness | None:
    """Read an answer's headers at `now` (epoch seconds); None if it must not be kept.

    An answer is shared by all who ask the same, so this is a shared cache: `private` is not kept, `s-maxage` goes
    before `max-age`, and that before `Expires`. What cannot be read counts as not said.
    """
    if not any(name in headers for name in _SPEAKING):
        return _silent(policy)
    if "*" in (name.strip() for name in all_of(headers, "Vary").split(",")):
        return None
    said = directives(all_of(headers, "Cache-Control"))
    if "no-store" in said or "private" in said:
        return None
    strict = not said.keys().isdisjoint(_NEVER_STALE)
    while_revalidate = _seconds(said.get("stale-while-revalidate"))
    if_error = _seconds(said.get("stale-if-error"))
    return Freshness(
        0.0 if "no-cache" in said else min(_lifetime(said, headers, now, policy.ttl), policy.ttl),
        0.0 if strict else _within(while_revalidate, policy.stale_while_revalidate, silent=0.0),
        0.0 if strict else _within(if_error, policy.stale_if_error, silent=MAX_STALE),
    )


def _silent(policy: CachePolicy) -> Freshness:
    """Return what holds for an answer that says nothing."""
    if_error = MAX_STALE if policy.stale_if_error is None else policy.stale_if_error
    return Freshness(policy.ttl, policy.stale_while_revalidate or 0.0, if_error)


def all_of(headers: Headers, name: str) -> str:
    """Return the values of all lines of a header as those of one (RFC 9110, section 5.3)."""
    lines = getattr(headers, "getall", None)
    return ", ".join(lines(name, ())) if lines is not None else headers.get(name, "")


def says_anything(headers: Headers) -> bool:
    """Whether an answer speaks of its own freshness; a 304 that does not leaves it as it was (RFC 9111, 4.3.4)."""
    return "Cache-Control" in headers or "Expires" in headers


def directives(cache_control: str) -> dict[str, str]:
    """Return what a Cache-Control says, by name in lower case; of a repeated directive the first (RFC 9111, 4.2.1)."""
    said: dict[str, str] = {}
    for name, quoted, plain in _DIRECTIVE.findall(cache_control):
        said.setdefault(name.lower(), quoted or plain)
    return said


def _lifetime(said: Mapping[str, str], headers: Headers, now: float, silent: float) -> float:
    """Return the seconds that are left of what the upstream gave its answer, less those it spent in other caches."""
    lifetime = _seconds(said.get("s-maxage"))
    if lifetime is None:
        lifetime = _seconds(said.get("max-age"))
    if lifetime is None and "Expires" in headers:
        expires, date = _date(headers["Expires"]), _date(headers.get("Date", ""))
        lifetime = 0.0 if expires is None else expires - (now if date is None else date)  # section 5.3: "0" is past
    if lifetime is None:
        return silent
    return max(0.0, lifetime - (_seconds(headers.get("Age")) or 0.0))


def _within(said: float | None, allowed: float | None, *, silent: float) -> float:
    """Return what the upstream said, as far as the source allows; what the source says, where it is silent."""
    if allowed is None:
        return silent if said is None else min(said, MAX_STALE)
    return allowed if said is None else min(said, allowed)


def _seconds(text: str | None) -> float | None:
    return float(text[:10]) if text and text.isdecimal() and text.isascii() else None


def _date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
