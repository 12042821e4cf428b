"""How long an answer may be used: what the upstream says (RFC 9111, RFC 5861), within the source's limits.

docs/cache.md has it as a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from models.source import MAX_STALE, NEGATIVE_TTL, CachePolicy

HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses whose answers may be kept though they say nothing of it (RFC 9110, section 15.1). Of 206, the partial one,
nothing is ever kept."""
UNDERSTOOD = HEURISTIC | {302, 303, 307}
"""Statuses that `must-understand` may be about (RFC 9111, section 5.2.2.3)."""
PARTIAL = 206
UNKEYED = frozenset({"cache-control", "pragma", "traceparent", "tracestate"})
"""Headers of a request that are not in its key: an answer that varies with one is not kept."""
MAX_SECONDS = 2**31
"""Seconds that a longer time is taken for (RFC 9111, section 1.2.2)."""
MAX_LIST = 8_192
"""Characters of a Cache-Control or Vary that are looked at: an answer with a longer one is not kept."""

# RFC 9111, section 4.2.4: these forbid to serve stale, s-maxage too.
_NEVER_STALE = frozenset({"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"})
_UNUSABLE = UNKEYED | {"*", "idempotency-key"}
# Quoted strings may have quoted pairs in them (RFC 9110, section 5.6.4).
_CLOSED = re.compile(r'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_MEMBER = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+")++', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)

_SPEAKING = ("Cache-Control", "Expires", "Vary")

Headers = Mapping[str, str]


class Head(NamedTuple):
    """A response's status (None: a function has none) and headers, and the seconds until they came."""

    status: int | None
    headers: Headers
    delay: float = 0.0


class Freshness(NamedTuple):
    """Seconds from the fetch on: `fresh` an answer may be used, for `while_revalidate` more while it is fetched anew,
    and for `if_error` more instead of a failure. `age` is how old it was already (RFC 9111, section 4.2.3).

    `shared`: the upstream lets others use it who ask at the same time.
    """

    fresh: float
    while_revalidate: float
    if_error: float
    age: float = 0.0
    shared: bool = True


def freshness(trail: Sequence[Head], policy: CachePolicy, now: float) -> Freshness | None:
    """Read what came at `now` (epoch seconds), redirects and then an answer; None if it must not be kept.

    An answer is shared by all who ask the same, so this is a shared cache: `private` is not kept, `s-maxage` goes
    before `max-age`, and that before `Expires`. What came by redirects lives as long as the shortest of them.
    """
    found: Freshness | None = None
    for head in trail:
        each = _freshness(head, policy, now)
        if each is None:
            return None
        found = each if found is None else _shortest(found, each)
    return found


def failure_lifetime(trail: Sequence[Head], now: float, silent: float = NEGATIVE_TTL) -> float | None:
    """Return the seconds that upstreams let a failure be remembered, None if they say nothing of that.

    A redirect that says nothing, and is not kept by its status, lets what it led to be remembered `silent` seconds.
    """
    told: list[float] = []
    for place, (status, headers, delay) in enumerate(trail, 1):
        said = directives(all_of(headers, "Cache-Control"))
        if _forbidden(said, headers, status) or "no-cache" in said:
            return 0.0
        lifetime = _lifetime(said, headers, now)
        if lifetime is not None:
            told.append(max(0.0, lifetime - initial_age(headers, now, delay)))
        elif place < len(trail) and status not in HEURISTIC:
            told.append(silent)
    return min(told) if told else None


def _freshness(head: Head, policy: CachePolicy, now: float) -> Freshness | None:
    status, headers, delay = head
    if status == PARTIAL:
        return None
    by_default = status is None or status in HEURISTIC
    age = initial_age(headers, now, delay)
    if not any(name in headers for name in _SPEAKING):
        return _silent(policy, age) if by_default else None
    said = directives(all_of(headers, "Cache-Control"))
    if _forbidden(said, headers, status):
        return None
    lifetime = _lifetime(said, headers, now)
    if lifetime is None and not (by_default or "public" in said):
        return None
    fresh = policy.ttl if lifetime is None else max(0.0, min(lifetime - age, policy.ttl))
    strict = not said.keys().isdisjoint(_NEVER_STALE)
    while_revalidate = seconds(said.get("stale-while-revalidate"))
    if_error = seconds(said.get("stale-if-error"))
    windows = (
        0.0 if strict else _within(while_revalidate, policy.stale_while_revalidate, silent=0.0),
        0.0 if strict else _within(if_error, policy.stale_if_error, silent=MAX_STALE),
    )
    if "no-cache" in said:
        return Freshness(0.0, *windows, age, shared=False)
    return Freshness(fresh, *windows, age, shared=lifetime is None or lifetime > age or windows[0] > 0)


def _silent(policy: CachePolicy, age: float) -> Freshness:
    """Return what holds for an answer that says nothing: it is fresh for the policy's time from its fetch on."""
    if_error = MAX_STALE if policy.stale_if_error is None else policy.stale_if_error
    return Freshness(policy.ttl, policy.stale_while_revalidate or 0.0, if_error, age)


def _shortest(one: Freshness, other: Freshness) -> Freshness:
    """Return what holds for an answer that came by way of another: neither is used longer than it may be."""
    fresh = min(one.fresh, other.fresh)
    return Freshness(
        fresh,
        max(0.0, min(one.fresh + one.while_revalidate, other.fresh + other.while_revalidate) - fresh),
        max(0.0, min(one.fresh + one.if_error, other.fresh + other.if_error) - fresh),
        max(one.age, other.age),
        one.shared and other.shared,
    )


def _forbidden(said: Mapping[str, str], headers: Headers, status: int | None) -> bool:
    """Whether an answer must not be kept (RFC 9111, sections 3, 4.1 and 5.2.2)."""
    if "must-understand" in said:
        if status is not None and status not in UNDERSTOOD:
            return True
    elif "no-store" in said:
        return True
    if "private" in said:
        return True
    if "Vary" not in headers:
        return False
    vary = all_of(headers, "Vary")
    return len(vary) > MAX_LIST or not _UNUSABLE.isdisjoint(name.strip().lower() for name in vary.split(","))


def all_of(headers: Headers, name: str) -> str:
    """Return the values of all lines of a header as those of one (RFC 9110, section 5.3)."""
    lines = getattr(headers, "getall", None)
    return ", ".join(lines(name, ())) if lines is not None else headers.get(name, "")


def directives(cache_control: str) -> dict[str, str]:
    """Return what a Cache-Control says, by name in lower case; "" for what has no value, or no valid one.

    Two values that differ are not valid either: RFC 9111, section 4.2.1, has such an answer taken for stale. One of
    more than MAX_LIST characters is taken for `no-store`.
    """
    if len(cache_control) > MAX_LIST:
        return {"no-store": ""}
    said: dict[str, str] = {}
    closed = _CLOSED.match(cache_control)
    assert closed is not None  # it takes any text
    if closed.end() < len(cache_control):  # a quote that is not closed hides nothing
        cache_control = closed[0] + cache_control[closed.end() :].replace('"', "'")
    for member in _MEMBER.findall(cache_control):
        name, _, value = member.strip().partition("=")
        if value[:1] == value[-1:] == '"' and len(value) > 1:
            value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
        if name != (name := name.rstrip()):
            value = ""  # no space stands before the sign
        name = name.lower()
        said[name] = value if said.get(name, value) == value else ""
        if ";" in member:  # who takes that for a comma is to be understood where it forbids something
            said |= dict.fromkeys((each.strip().lower() for each in member.split(";")), "")
    said.pop("", None)
    return said


def _lifetime(said: Mapping[str, str], headers: Headers, now: float) -> float | None:
    """Return the seconds that the upstream gave its answer, 0 for what is invalid, None for nothing said."""
    for name in ("s-maxage", "max-age"):
        if name in said:
            return seconds(said[name]) or 0.0
    if "Expires" not in headers:
        return None
    expires, date = http_date(all_of(headers, "Expires")), http_date(headers.get("Date", ""))
    return 0.0 if expires is None else expires - (now if date is None else date)  # section 5.3: "0" is past


def age_of(trail: Sequence[Head], now: float) -> float:
    """Return how many seconds old what came at `now` was: as old as the oldest on the way."""
    return max(initial_age(headers, now, delay) for _, headers, delay in trail)


def initial_age(headers: Headers, now: float, delay: float) -> float:
    """Return how many seconds old what came at `now` was (RFC 9111, section 4.2.3), `delay` seconds after its request.

    Of an Age that is a list the first member counts, one that is no number is ignored (section 5.1). A Date counts
    whole seconds, so that what it names was made up to one later.
    """
    said = headers.get("Age")
    age = 0.0 if said is None else seconds(said.partition(",")[0].strip()) or 0.0
    date = http_date(headers["Date"]) if "Date" in headers else None
    return max(age + delay, 0.0 if date is None else now - date - 1.0)


def _within(said: float | None, allowed: float | None, *, silent: float) -> float:
    """Return what the upstream said, as far as the source allows; what the source says, where it is silent."""
    if allowed is None:
        return silent if said is None else min(said, MAX_STALE)
    return allowed if said is None else min(said, allowed)


def seconds(text: str | None) -> float | None:
    """Return what a directive or Age says, None for what is no number of seconds."""
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
"""Years: a date of two digits that seems further ahead is of the past (RFC 9110, section 5.6.7)."""


@lru_cache(maxsize=256)
def http_date(text: str) -> float | None:
    """Return a date in epoch seconds, None for what none of the forms of RFC 9110, section 5.6.7, has.

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
