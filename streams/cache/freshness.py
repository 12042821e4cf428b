"""How long an answer may be used: by the upstream's headers (RFC 9111, RFC 5861) within the source's limits, and by the
request's own. docs/cache.md has it as a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from models.source import MAX_STALE, NEGATIVE_TTL, CachePolicy

HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses that may be cached without directives (RFC 9110, section 15.1). 206 is never cached."""
UNDERSTOOD = HEURISTIC | {302, 303, 307}
"""Statuses that `must-understand` allows to cache (RFC 9111, section 5.2.2.3)."""
PARTIAL = 206
UNKEYED = frozenset({"cache-control", "pragma", "traceparent", "tracestate"})
"""Headers of a request that are not in its key: a response that varies with one is not cached."""
MAX_SECONDS = 2**31
"""Longest time in seconds; a longer one counts as this (RFC 9111, section 1.2.2)."""
MAX_LIST = 8_192
"""Longest Cache-Control or Vary in characters: a response with a longer one is not cached."""

# RFC 9111, section 4.2.4: these forbid to serve stale, s-maxage too.
_NEVER_STALE = frozenset({"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"})
_UNUSABLE = UNKEYED | {"*", "idempotency-key"}
# Quoted strings may have quoted pairs in them (RFC 9110, section 5.6.4).
_CLOSED = re.compile(r'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
LIST_MEMBER = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+")++', re.DOTALL)
"""A member of a list in a header (RFC 9110, section 5.6.1): commas within quotes do not end it."""
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)

Headers = Mapping[str, str]


class Head(NamedTuple):
    """A response's status (None: a function has none) and headers, and the seconds until they arrived."""

    status: int | None
    headers: Headers
    delay: float = 0.0


class Freshness(NamedTuple):
    """Seconds from the fetch on: an answer may be used for `fresh`, for `while_revalidate` more during a new fetch, and
    for `if_error` more instead of a failure. `age`: its age on arrival (RFC 9111, section 4.2.3).

    `shared`: the upstream allows other requests at the same time to use it.
    """

    fresh: float
    while_revalidate: float
    if_error: float
    age: float = 0.0
    shared: bool = True


def freshness(trail: Sequence[Head], policy: CachePolicy, now: float) -> Freshness | None:
    """Return the freshness of redirects and a final response that arrived at `now` (epoch seconds); None if it must not
    be cached.

    This is a shared cache: `private` is not cached, `s-maxage` takes precedence over `max-age`, and that over
    `Expires`. After redirects the shortest lifetime counts.
    """
    found: Freshness | None = None
    for head in trail:
        each = _freshness(head, policy, now)
        if each is None:
            return None
        found = each if found is None else _shortest(found, each)
    return found


def failure_lifetime(trail: Sequence[Head], now: float, silent: float = NEGATIVE_TTL) -> float | None:
    """Return the seconds for which the headers let a failure be cached, None if they do not say.

    After a redirect without directives, and not cacheable by its status, a failure is cached for `silent` seconds.
    """
    lifetimes: list[float] = []
    for place, (status, headers, delay) in enumerate(trail, 1):
        directives = parse_directives(all_of(headers, "Cache-Control"))
        if _forbidden(directives, headers, status) or "no-cache" in directives:
            return 0.0
        lifetime = _lifetime(directives, headers, now)
        if lifetime is not None:
            lifetimes.append(max(0.0, lifetime - initial_age(headers, now, delay)))
        elif place < len(trail) and status not in HEURISTIC:
            lifetimes.append(silent)
    return min(lifetimes) if lifetimes else None


def _freshness(head: Head, policy: CachePolicy, now: float) -> Freshness | None:
    status, headers, delay = head
    if status == PARTIAL:
        return None
    by_default = status is None or status in HEURISTIC
    age = initial_age(headers, now, delay)
    if "Cache-Control" not in headers and "Expires" not in headers and "Vary" not in headers:
        return _silent(policy, age) if by_default else None
    directives = parse_directives(all_of(headers, "Cache-Control"))
    if _forbidden(directives, headers, status):
        return None
    lifetime = _lifetime(directives, headers, now)
    if lifetime is None and not (by_default or "public" in directives):
        return None
    fresh = policy.ttl if lifetime is None else max(0.0, min(lifetime - age, policy.ttl))
    strict = not directives.keys().isdisjoint(_NEVER_STALE)
    # Both count from when the response became stale, which may be before it arrived (RFC 5861, sections 3 and 4).
    stale = 0.0 if lifetime is None else max(0.0, age - lifetime)
    while_revalidate = _left(seconds(directives.get("stale-while-revalidate")), stale)
    if_error = _left(seconds(directives.get("stale-if-error")), stale)
    windows = (
        0.0 if strict else _within(while_revalidate, policy.stale_while_revalidate, silent=0.0),
        0.0 if strict else _within(if_error, policy.stale_if_error, silent=MAX_STALE),
    )
    if "no-cache" in directives:
        return Freshness(0.0, *windows, age, shared=False)
    return Freshness(fresh, *windows, age, shared=lifetime is None or lifetime > age or windows[0] > 0)


def _silent(policy: CachePolicy, age: float) -> Freshness:
    """Return the freshness of a response without directives: the policy's time from its fetch on."""
    if_error = MAX_STALE if policy.stale_if_error is None else policy.stale_if_error
    return Freshness(policy.ttl, policy.stale_while_revalidate or 0.0, if_error, age)


def _shortest(one: Freshness, other: Freshness) -> Freshness:
    """Return the freshness of a response after a redirect: neither is used longer than allowed."""
    fresh = min(one.fresh, other.fresh)
    return Freshness(
        fresh,
        max(0.0, min(one.fresh + one.while_revalidate, other.fresh + other.while_revalidate) - fresh),
        max(0.0, min(one.fresh + one.if_error, other.fresh + other.if_error) - fresh),
        max(one.age, other.age),
        one.shared and other.shared,
    )


def _forbidden(directives: Mapping[str, str], headers: Headers, status: int | None) -> bool:
    """Whether a response must not be cached (RFC 9111, sections 3, 4.1 and 5.2.2)."""
    if "must-understand" in directives:
        if status is not None and status not in UNDERSTOOD:
            return True
    elif "no-store" in directives:
        return True
    if "private" in directives:
        return True
    if "Vary" not in headers:
        return False
    vary = all_of(headers, "Vary")
    return len(vary) > MAX_LIST or not _UNUSABLE.isdisjoint(name.strip().lower() for name in vary.split(","))


def all_of(headers: Headers, name: str) -> str:
    """Return the values of all lines of a header, joined (RFC 9110, section 5.3)."""
    lines = getattr(headers, "getall", None)
    return ", ".join(lines(name, ())) if lines is not None else headers.get(name, "")


def parse_directives(cache_control: str) -> dict[str, str]:
    """Return the directives of a Cache-Control by name in lower case; "" for one without a valid value.

    Two different values are invalid, too: by RFC 9111, section 4.2.1, such a response is stale. More than MAX_LIST
    characters count as `no-store`.
    """
    if len(cache_control) > MAX_LIST:
        return {"no-store": ""}
    found: dict[str, str] = {}
    closed = _CLOSED.match(cache_control)
    assert closed is not None  # it matches any text
    if closed.end() < len(cache_control):  # an unclosed quote hides nothing
        cache_control = closed[0] + cache_control[closed.end() :].replace('"', "'")
    for member in LIST_MEMBER.findall(cache_control):
        name, _, value = member.strip().partition("=")
        if value[:1] == value[-1:] == '"' and len(value) > 1:
            value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
        if name != (name := name.rstrip()):
            value = ""  # no space may precede the sign
        name = name.lower()
        found[name] = value if found.get(name, value) == value else ""
        if ";" in member:  # where it was meant as a comma, what it forbids counts
            found |= dict.fromkeys((each.strip().lower() for each in member.split(";")), "")
    found.pop("", None)
    return found


def _lifetime(directives: Mapping[str, str], headers: Headers, now: float) -> float | None:
    """Return the lifetime in seconds by the headers, 0 for an invalid one, None without any."""
    for name in ("s-maxage", "max-age"):
        if name in directives:
            return seconds(directives[name]) or 0.0
    if "Expires" not in headers:
        return None
    expires, date = http_date(all_of(headers, "Expires")), http_date(headers.get("Date", ""))
    return 0.0 if expires is None else expires - (now if date is None else date)  # section 5.3: "0" is past


def age_of(trail: Sequence[Head], now: float) -> float:
    """Return the age in seconds of what arrived at `now`: that of the oldest response on the way."""
    return max(initial_age(headers, now, delay) for _, headers, delay in trail)


def initial_age(headers: Headers, now: float, delay: float) -> float:
    """Return the age in seconds of a response that came at `now`, `delay` seconds after its request (RFC 9111, 4.2.3).

    The first member of an Age that is a list counts, an invalid one is ignored (section 5.1). A Date has whole seconds:
    the response may be up to one second younger.
    """
    written = headers.get("Age")
    age = 0.0 if written is None else seconds(written.partition(",")[0].strip()) or 0.0
    date = http_date(headers["Date"]) if "Date" in headers else None
    return max(age + delay, 0.0 if date is None else now - date - 1.0)


def _left(given: float | None, passed: float) -> float | None:
    return None if given is None else max(0.0, given - passed)


def _within(given: float | None, allowed: float | None, *, silent: float) -> float:
    """Return the upstream's seconds as far as the source allows; the source's, or `silent`, if it gives none."""
    if allowed is None:
        return silent if given is None else min(given, MAX_STALE)
    return allowed if given is None else min(given, allowed)


def seconds(text: str | None) -> float | None:
    """Return the seconds of a directive or Age, None if they are invalid."""
    return float(min(int(text[:20]), MAX_SECONDS)) if text and text.isdecimal() and text.isascii() else None


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        rf"(?:mon|tue|wed|thu|fri|sat|sun), (?P<day>\d\d) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (?P<day>\d\d)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {_TIME} GMT",
        rf"(?:mon|tue|wed|thu|fri|sat|sun) (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_CENTURY = 100
_MAX_AHEAD = 50
"""Years: a date of two digits that seems further ahead is in the past (RFC 9110, section 5.6.7)."""


@lru_cache(maxsize=256)
def http_date(text: str) -> float | None:
    """Return a date in epoch seconds, None if it has none of the forms of RFC 9110, section 5.6.7.

    Letters may be of any case (RFC 9111, section 4.2).
    """
    found = next((match for form in _DATES if (match := form.fullmatch(text.strip())) is not None), None)
    if found is None or found["month"].lower() not in _MONTHS:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:  # noqa: PLR2004  the obsolete form of RFC 850
        this = datetime.now(UTC).year
        year += this - this % _CENTURY
        year -= _CENTURY if year > this + _MAX_AHEAD else 0
    month = _MONTHS.index(found["month"].lower()) + 1
    second = min(int(found["second"]), 59)  # a leap second is 60
    try:
        return datetime(year, month, int(found["day"]), int(found["hour"]), int(found["minute"]), second,
                        tzinfo=UTC).timestamp()  # fmt: skip
    except ValueError:
        return None


class RequestDirectives(NamedTuple):
    """A request's own directives (RFC 9111, 5.2.1). Seconds: the greatest age of an answer (None: any), and how
    long it must stay fresh.
    """

    max_age: float | None = None
    min_fresh: float = 0.0
    no_store: bool = False
    only_if_cached: bool = False


def read_request_directives(headers: Headers) -> RequestDirectives:
    """Read a request's Cache-Control, or without one its Pragma. Invalid directives are ignored.

    So is `max-stale`: the upstream and its source decide how stale an answer may be.
    """
    given = {name.lower(): value for name, value in headers.items() if name.lower() in ("cache-control", "pragma")}
    if not given:
        return _NO_DIRECTIVES
    directives = parse_directives(given.get("cache-control", given.get("pragma", "")))
    if "cache-control" not in given:
        return RequestDirectives(max_age=0.0) if "no-cache" in directives else _NO_DIRECTIVES
    min_fresh = seconds(directives.get("min-fresh")) or 0.0
    max_age = 0.0 if "no-cache" in directives else seconds(directives.get("max-age"))
    if max_age is None and min_fresh:
        max_age = float("inf")
    return RequestDirectives(max_age, min_fresh, "no-store" in directives, "only-if-cached" in directives)


_NO_DIRECTIVES = RequestDirectives()
