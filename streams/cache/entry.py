"""An answer as it is kept, and how it is written where others may write too: JSON and raw bytes, never pickle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from multidict import CIMultiDict

from models import strictjson
from models.errors import AnswerError, CheckError
from models.result import RESULT_DEPTH, is_shared, with_check_results
from streams.cache.check_results import CheckResults, read_check_results
from streams.cache.freshness import Freshness, all_of

REVALIDATE_WITHIN = 3600.0
"""Seconds past its last use that an answer with an ETag or Last-Modified is kept: asking whether it still holds is
cheaper than fetching it."""
REFRESH_SHARE = 0.2
"""The last part of its freshness in which an answer that is asked for often is fetched anew."""
MAX_SKEW = 60.0
"""Seconds that the clock of another worker may be ahead of ours."""
LONGEST = 90 * 86_400.0
"""Seconds from now on that an entry can be of use at most: no source may say more."""
VERSION = 3
"""Of the form in which entries are written; one of another version is not read."""

_TIMES = ("as_of", "refresh_at", "fresh_until", "revalidate_until", "usable_until", "asked_at")
_FIELDS = {"etag": "ETag", "last_modified": "Last-Modified", "cache_control": "Cache-Control", "expires": "Expires"}
"""Headers that are kept of an answer: with a validator it may be said to hold still, and what it said holds with it."""


class Entry(NamedTuple):
    """An encoded answer without checks, and until when it is what. Times are in seconds since the epoch.

    `as_of` is when its origin made it or said that it still holds, by which its age counts (RFC 9111, section 4.2.3);
    `asked_at` when it was asked for: what changed later is not in it. Before `refresh_at` it is a hit; before
    `fresh_until` as well, but may be fetched anew already; before `revalidate_until` it is served while it is fetched
    anew; before `usable_until` it stands in for a failure. `error`: it is a failure that is remembered. `ask_after`:
    fetching it anew has failed; not again before this. `verdicts` of checks on its document are added as they come; a
    failure has none.
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
        """Return when it is of no use any more."""
        last = max(self.fresh_until, self.revalidate_until, self.usable_until)
        return last + REVALIDATE_WITHIN if self.etag or self.last_modified else last

    def with_check_results(self, verdicts: bytes, error: CheckError | None) -> Entry:
        """Return it as a hit for who asked for checks: with what they said."""
        return Entry(with_check_results(self.shared, verdicts, error), self.as_of, self.fresh_until, error)

    def validators(self) -> dict[str, str]:
        """Return the headers that ask whether it still holds (RFC 9110, section 13.1); none if it has no validator."""
        asked = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in asked.items() if value}


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
    """Return the entry of an answer that came `now`, with what is known of its document by `verdicts`."""
    until = now + freshness.fresh
    kept = _kept_of(headers or {})
    return Entry(
        shared,
        now - freshness.age,
        until,
        refresh_at=max(until - freshness.fresh * REFRESH_SHARE, now - freshness.age) if refresh_ahead else until,
        revalidate_until=until + freshness.while_revalidate,
        usable_until=until + freshness.if_error,
        check_results=CheckResults() if verdicts is None else verdicts,
        etag=kept.get("etag"),
        last_modified=kept.get("last_modified"),
        cache_control=kept.get("cache_control"),
        expires=kept.get("expires"),
        asked_at=now if asked_at is None else asked_at,
    )


def _kept_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what is kept of the headers: nothing of an answer that cannot be asked about."""
    kept = {field: all_of(headers, name) for field, name in _FIELDS.items() if name in headers}
    kept = {field: value for field, value in kept.items() if value and _sendable(value)}
    return kept if kept.keys() & {"etag", "last_modified"} else {}


def updated(entry: Entry, headers: Mapping[str, str]) -> CIMultiDict[str] | None:
    """Return an entry's headers as a 304 with these updates them (RFC 9111, sections 3.2 and 4.3.4).

    None for a 304 about another version, as one with a strong tag is if the entry has none. Tags are compared weakly:
    servers that compress weaken the tag of a 200 and not that of its 304.
    """
    tag = headers.get("ETag", "").strip()
    if tag and entry.etag is None and not tag.startswith("W/"):
        return None
    for held, name in ((entry.etag, "ETag"), (entry.last_modified, "Last-Modified")):
        said = headers.get(name)
        if held is not None and said:
            if _opaque(said) != _opaque(held):
                return None
            break
    kept = CIMultiDict({name: value for field, name in _FIELDS.items() if (value := getattr(entry, field)) is not None})
    for name in headers:
        kept.popall(name, None)
    kept.extend(headers)
    return kept


def _opaque(tag: str) -> str:
    return tag.strip().removeprefix("W/")


def failed_entry(shared: bytes, now: float, seconds: float, error: AnswerError) -> Entry:
    """Return the entry of a failure that is remembered for so long."""
    return Entry(shared, now, now + seconds, error, refresh_at=now + seconds, asked_at=now)


def encode_entry(key: bytes, entry: Entry) -> bytes:
    """Write an entry for a tier that others share: a line of JSON, and the answer's bytes."""
    head: dict[str, Any] = {"version": VERSION, "key": key.decode()}
    head |= {name: getattr(entry, name) for name in (*_TIMES, *_FIELDS)}
    verdicts = b"{}" if entry.check_results is None else entry.check_results.write()
    return b'%b,"verdicts":%b}\n%b' % (strictjson.dumps(head)[:-1], verdicts, entry.shared)


def decode_entry(
    key: bytes, written: bytes, now: float, *, is_whole: Callable[[bytes], bool] = is_shared
) -> Entry | None:
    """Read an entry; None for what is none, is another key's, claims times that cannot be, or holds no `ok` answer,
    which `is_whole` looks at.

    Whoever can write to a shared tier can write answers; but not one that breaks a result or goes to another request.
    """
    line, _, shared = written.partition(b"\n")
    try:
        head = strictjson.loads(line, max_depth=RESULT_DEPTH)
        times = [float(head[name]) for name in _TIMES]
        fields = [head[name] for name in _FIELDS]
        valid = head["version"] == VERSION and head["key"] == key.decode()
        verdicts = read_check_results(head["verdicts"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    if not valid or not _possible(times, now):
        return None
    if not all(each is None or _sendable(each) for each in fields) or not is_whole(shared):
        return None
    known = dict(zip((*_TIMES, *_FIELDS), (*times, *fields), strict=True))
    return Entry(shared, check_results=verdicts, **known)


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
