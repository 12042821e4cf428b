"""An answer as it is cached, and its encoding in shared tiers: JSON and raw bytes, never pickle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from multidict import CIMultiDict

from models import strictjson
from models.errors import AnswerError, CheckError
from models.result import RESULT_DEPTH, is_shared, with_check_results
from streams.cache.check_results import CheckResults, read_check_results
from streams.cache.freshness import Freshness, all_of

REVALIDATE_WITHIN = 3600.0
"""Seconds that an answer with an ETag or Last-Modified outlives its use: revalidation is cheaper than a fetch."""
REFRESH_SHARE = 0.2
"""The last part of its freshness in which an answer that is hit often is fetched again."""
MAX_SKEW = 60.0
"""Seconds that another worker's clock may be ahead of ours."""
LONGEST = 90 * 86_400.0
"""Most seconds from now on that an entry may be used: no source may set more."""
VERSION = 3
"""Version of the encoding; entries of another one are ignored."""

_TIMES = ("as_of", "refresh_at", "fresh_until", "revalidate_until", "usable_until", "asked_at")
_FIELDS = {"etag": "ETag", "last_modified": "Last-Modified", "cache_control": "Cache-Control", "expires": "Expires"}
"""Headers that are cached with an answer: validators, and what stays valid with them after a 304."""


class Entry(NamedTuple):
    """An encoded answer without check results, and the times at which it stops being fresh, revalidatable and usable on
    error, in seconds since the epoch.

    `as_of`: when its origin made or confirmed it, from which its age counts (RFC 9111, section 4.2.3); `asked_at`: when
    it was requested, so it has no later change. Before `refresh_at` it is a hit; before `fresh_until` too, but it may
    be fetched again already; before `revalidate_until` it is served while it is fetched again; before `usable_until` it
    is used instead of a failure. `error`: a cached failure. `ask_after`: a fetch has failed; none before this time.
    `check_results` of its document are added as they come; a failure has none.
    """

    shared: bytes
    as_of: float
    fresh_until: float
    error: AnswerError | None = None
    refresh_at: float = 0.0
    revalidate_until: float = 0.0
    usable_until: float = 0.0
    etag: str | None = None
    last_modified: str | None = None
    ask_after: float = 0.0
    check_results: CheckResults | None = None
    asked_at: float = 0.0
    cache_control: str | None = None
    expires: str | None = None

    @property
    def keep_until(self) -> float:
        """Return the time after which it is of no use."""
        last = max(self.fresh_until, self.revalidate_until, self.usable_until)
        return last + REVALIDATE_WITHIN if self.etag or self.last_modified else last

    def with_check_results(self, results: bytes, error: CheckError | None) -> Entry:
        """Return it as a hit for a request with checks, with their results."""
        return Entry(with_check_results(self.shared, results, error), self.as_of, self.fresh_until, error)

    def validators(self) -> dict[str, str]:
        """Return the headers for its revalidation (RFC 9110, section 13.1); none if it has no validator."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


def fresh_entry(
    shared: bytes,
    now: float,
    freshness: Freshness,
    *,
    refresh_ahead: bool = True,
    headers: Mapping[str, str] | None = None,
    asked_at: float | None = None,
    verdicts: CheckResults | None = None,
) -> Entry:
    """Return the entry of an answer that arrived `now`, with the check results of its document."""
    fresh, while_revalidate, if_error, age, _ = freshness
    until, as_of = now + fresh, now - age
    etag = last_modified = cache_control = expires = None
    if headers is not None and ("ETag" in headers or "Last-Modified" in headers):
        etag, last_modified, cache_control, expires = map(_cached_headers(headers).get, _FIELDS)
    return _entry(
        (
            shared,
            as_of,
            until,
            None,
            max(until - fresh * REFRESH_SHARE, as_of) if refresh_ahead else until,
            until + while_revalidate,
            until + if_error,
            etag,
            last_modified,
            0.0,
            CheckResults() if verdicts is None else verdicts,
            now if asked_at is None else asked_at,
            cache_control,
            expires,
        )
    )


_entry: Callable[[tuple[Any, ...]], Entry] = partial(tuple.__new__, Entry)
"""Makes one of all its fields, at half the cost: each miss makes one."""


def _cached_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to cache: none without a validator that can be sent."""
    found = {field: all_of(headers, name) for field, name in _FIELDS.items() if name in headers}
    found = {field: value for field, value in found.items() if value and _sendable(value)}
    return found if found.keys() & {"etag", "last_modified"} else {}


def updated(entry: Entry, headers: Mapping[str, str]) -> CIMultiDict[str] | None:
    """Return an entry's headers as a 304 with these updates them (RFC 9111, sections 3.2 and 4.3.4).

    None for a 304 about another version: one with another validator, or with a strong tag and nothing that the entry
    has as well. Tags are compared weakly:
    servers that compress weaken the tag of a 200 and not that of its 304.
    """
    for cached, name in ((entry.etag, "ETag"), (entry.last_modified, "Last-Modified")):
        received = headers.get(name)
        if cached is not None and received:
            if _opaque(received) != _opaque(cached):
                return None
            break
    else:
        if entry.etag is None and not headers.get("ETag", "W/").strip().startswith("W/"):
            return None
    both = CIMultiDict({name: value for field, name in _FIELDS.items() if (value := getattr(entry, field)) is not None})
    for name in headers:
        both.popall(name, None)
    both.extend(headers)
    return both


def _opaque(tag: str) -> str:
    return tag.strip().removeprefix("W/")


def failed_entry(shared: bytes, now: float, seconds: float, error: AnswerError) -> Entry:
    """Return the entry of a failure that is cached for so many seconds."""
    return Entry(shared, now, now + seconds, error, refresh_at=now + seconds, asked_at=now)


def encode_entry(key: bytes, entry: Entry) -> bytes:
    """Encode an entry for a shared tier: a line of JSON, and the answer's bytes."""
    head: dict[str, Any] = {"version": VERSION, "key": key.decode()}
    head |= {name: getattr(entry, name) for name in (*_TIMES, *_FIELDS)}
    results = b"{}" if entry.check_results is None else entry.check_results.write()
    return b'%b,"verdicts":%b}\n%b' % (strictjson.dumps(head)[:-1], results, entry.shared)


def decode_entry(
    key: bytes, written: bytes, now: float, *, is_whole: Callable[[bytes], bool] = is_shared
) -> Entry | None:
    """Decode an entry; None if it is invalid, belongs to another key, has impossible times, or has no `ok` answer
    (`is_whole`).

    Anyone who can write to a shared tier can forge an answer, but none that breaks a result or goes to another request.
    """
    line, _, shared = written.partition(b"\n")
    try:
        head = strictjson.loads(line, max_depth=RESULT_DEPTH)
        times = [float(head[name]) for name in _TIMES]
        fields = [head[name] for name in _FIELDS]
        valid = head["version"] == VERSION and head["key"] == key.decode()
        results = read_check_results(head["verdicts"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    if not valid or not _possible(times, now):
        return None
    if not all(each is None or _sendable(each) for each in fields) or not is_whole(shared):
        return None
    members = dict(zip((*_TIMES, *_FIELDS), (*times, *fields), strict=True))
    return Entry(shared, check_results=results, **members)


def _possible(times: list[float], now: float) -> bool:
    as_of, refresh_at, fresh_until, revalidate_until, usable_until, asked_at = times
    return (
        all(map(math.isfinite, times))
        and max(as_of, asked_at) <= now + MAX_SKEW
        and max(revalidate_until, usable_until) <= now + LONGEST
        and as_of <= refresh_at <= fresh_until <= min(revalidate_until, usable_until)
    )


def _sendable(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()
