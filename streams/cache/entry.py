"""An answer as it is kept, and how it is written where others may write too: JSON and raw bytes, never pickle."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from models import strictjson
from models.errors import AnswerError, CheckError
from models.result import RESULT_DEPTH, is_shared, with_checks
from streams.cache.freshness import Freshness
from streams.cache.verdicts import Verdicts, read_verdicts

REVALIDATE_WITHIN = 3600.0
"""Seconds past its last use that an answer with an ETag or Last-Modified is kept: asking whether it still holds is
cheaper than fetching it."""
REFRESH_SHARE = 0.2
"""The last part of its freshness in which an answer that is asked for often is fetched anew."""
MAX_SKEW = 60.0
"""Seconds that the clock of another worker may be ahead of ours."""
LONGEST = 90 * 86_400.0
"""Seconds from now on that an entry can be of use at most: no source may say more."""
VERSION = 2
"""Of the form in which entries are written; one of another version is not read."""

_TIMES = ("fetched_at", "refresh_at", "fresh_until", "revalidate_until", "usable_until")
_VALIDATORS = ("etag", "last_modified")


class Entry(NamedTuple):
    """An encoded answer without checks, and until when it is what. Times are in seconds since the epoch.

    Before `refresh_at` it is a hit; before `fresh_until` as well, but may be fetched anew already; before
    `revalidate_until` it is served while it is fetched anew; before `usable_until` it stands in for a failure.
    `error`: it is a failure that is remembered. `ask_after`: fetching it anew has failed; not again before this.
    `verdicts` of checks on its document are added as they come; a failure has none.
    """

    shared: bytes
    fetched_at: float
    fresh_until: float
    error: AnswerError | None = None
    refresh_at: float = 0.0
    revalidate_until: float = 0.0
    usable_until: float = 0.0
    etag: str | None = None
    last_modified: str | None = None
    ask_after: float = 0.0
    verdicts: Verdicts | None = None

    @property
    def keep_until(self) -> float:
        """Return when it is of no use any more."""
        last = max(self.fresh_until, self.revalidate_until, self.usable_until)
        return last + REVALIDATE_WITHIN if self.etag or self.last_modified else last

    def judged(self, verdicts: bytes, error: CheckError | None) -> Entry:
        """Return it as a hit for who asked for checks: with what they said."""
        return Entry(with_checks(self.shared, verdicts, error), self.fetched_at, self.fresh_until, error)

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
    etag: str | None = None,
    last_modified: str | None = None,
    verdicts: Verdicts | None = None,
) -> Entry:
    """Return the entry of an answer that was fetched `now`, with what is known of its document by `verdicts`."""
    until = now + freshness.fresh
    return Entry(
        shared,
        now,
        until,
        refresh_at=until - freshness.fresh * REFRESH_SHARE if refresh_ahead else until,
        revalidate_until=until + freshness.while_revalidate,
        usable_until=until + freshness.if_error,
        etag=etag if _sendable(etag) else None,
        last_modified=last_modified if _sendable(last_modified) else None,
        verdicts=Verdicts() if verdicts is None else verdicts,
    )


def failed_entry(shared: bytes, now: float, seconds: float, error: AnswerError) -> Entry:
    """Return the entry of a failure that is remembered for so long."""
    return Entry(shared, now, now + seconds, error, refresh_at=now + seconds)


def encode_entry(key: bytes, entry: Entry) -> bytes:
    """Write an entry for a tier that others share: a line of JSON, and the answer's bytes."""
    head: dict[str, Any] = {"version": VERSION, "key": key.decode()}
    head |= {name: getattr(entry, name) for name in (*_TIMES, *_VALIDATORS)}
    verdicts = b"{}" if entry.verdicts is None else entry.verdicts.write()
    return b'%b,"verdicts":%b}\n%b' % (strictjson.dumps(head)[:-1], verdicts, entry.shared)


def decode_entry(key: bytes, written: bytes, now: float) -> Entry | None:
    """Read an entry; None for what is none, is another key's, claims times that cannot be, or holds no `ok` answer.

    Whoever can write to a shared tier can write answers; but not one that breaks a result or goes to another request.
    """
    line, _, shared = written.partition(b"\n")
    try:
        head = strictjson.loads(line, max_depth=RESULT_DEPTH)
        times = [float(head[name]) for name in _TIMES]
        validators = [head[name] for name in _VALIDATORS]
        valid = head["version"] == VERSION and head["key"] == key.decode()
        verdicts = read_verdicts(head["verdicts"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    if not valid or not _possible(times, now):
        return None
    if not all(each is None or _sendable(each) for each in validators) or not is_shared(shared):
        return None
    known = dict(zip((*_TIMES, *_VALIDATORS), (*times, *validators), strict=True))
    return Entry(shared, verdicts=verdicts, **known)


def _possible(times: list[float], now: float) -> bool:
    fetched_at, refresh_at, fresh_until, revalidate_until, usable_until = times
    return (
        all(map(math.isfinite, times))
        and fetched_at <= now + MAX_SKEW
        and max(revalidate_until, usable_until) <= now + LONGEST
        and fetched_at <= refresh_at <= fresh_until <= min(revalidate_until, usable_until)
    )


def _sendable(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()
