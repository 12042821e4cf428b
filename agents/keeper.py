"""What is put into the cache, and for how long it may be used: answers, failures, and what checks said of documents."""

from __future__ import annotations

import time

from multidict import CIMultiDict

from agents.ask import Asked
from agents.enriched import Enriched
from agents.known import Known
from models.errors import AnswerError, InvalidDocument, TooLarge, Unreachable, UpstreamError
from models.result import restamp
from models.source import NEGATIVE_TTL, CachePolicy
from streams.cache.entry import Entry, failed_entry, fresh_entry
from streams.cache.freshness import Freshness, freshness, says_anything
from streams.cache.front import Cache
from streams.cache.verdicts import Verdicts

_REPEATED = (Unreachable, UpstreamError, TooLarge, InvalidDocument)
"""Failures that the same request would meet again in a moment, whoever asks."""
_GONE = (404, 410)
_PRIVATE = frozenset({"authorization", "cookie"})
"""Headers of a request whose answer stays in this process: it is for who has these credentials."""


class Keeper:
    """`policy` says how long answers are kept that have no source."""

    def __init__(self, cache: Cache, policy: CachePolicy) -> None:
        self._cache = cache
        self._policy = policy

    def policy_of(self, known: Known) -> CachePolicy:
        """Return the policy for a request's answers."""
        return self._policy if known.source is None else known.source.cache

    def keep(self, known: Known, shared: bytes, asked: Asked, verdicts: Verdicts) -> None:
        """Put a new answer into the cache for as long as it may be used; `verdicts` will be of its document."""
        if known.key is not None:
            fresh = freshness(asked.headers, self.policy_of(known), asked.fetched_at)
            self._put(known, shared, asked, fresh, verdicts)

    def keep_failure(self, known: Known, shared: bytes, error: AnswerError) -> None:
        """Remember a failure that others would meet, unless an answer is kept that may stand in for it."""
        if known.key is None:
            return
        now, held = time.time(), self._cache.peek(known.key)
        if error.retryable:
            last = 0.0 if held is None else max(held.fresh_until, held.revalidate_until, held.usable_until)
            if (held is not None and held.error is None and now < last) or known.max_age == 0:
                return  # who wanted it new has not looked what else there is
        elif not error.hurried:
            self._cache.drop(known.key)  # what was kept is not what the upstream has any more
        seconds = negative_ttl(error, self.policy_of(known))
        if isinstance(error, _REPEATED) and not error.hurried and seconds > 0:
            self._cache.put(known.key, failed_entry(shared, now, seconds, error))

    def keep_on(self, known: Known, held: Entry, asked: Asked) -> Enriched:
        """The upstream says that what is at hand still holds (RFC 9111, section 4.3.4); so does what checks said."""
        if says_anything(asked.headers):
            fresh = freshness(asked.headers, self.policy_of(known), asked.fetched_at)
        else:
            fresh = Freshness(held.fresh_until - held.fetched_at, held.revalidate_until - held.fresh_until,
                              held.usable_until - held.fresh_until)  # fmt: skip
        shared = restamp(held.shared, asked.attempts, asked.fetched_at, asked.told)
        headers = CIMultiDict({"ETag": held.etag or "", "Last-Modified": held.last_modified or ""})
        headers.update(asked.headers)
        self._put(known, shared, asked._replace(headers=headers), fresh, held.verdicts)
        return Enriched(shared, b"revalidated", asked.fetched_at, None, held.verdicts)

    def keep_verdicts(self, known: Known, verdicts: Verdicts) -> None:
        """Something new is known of a document: keep it with that, unless another has taken its place."""
        entry = None if known.key is None else self._cache.peek(known.key)
        if entry is not None and entry.verdicts is verdicts:
            self._store(known, entry)

    def _put(
        self, known: Known, shared: bytes, asked: Asked, fresh: Freshness | None, verdicts: Verdicts | None
    ) -> None:
        assert known.key is not None
        entry = fresh_entry(
            shared,
            asked.fetched_at,
            fresh or Freshness(0.0, 0.0, 0.0),
            refresh_ahead=self.policy_of(known).refresh_ahead,
            etag=asked.headers.get("ETag") or None,
            last_modified=asked.headers.get("Last-Modified") or None,
            verdicts=verdicts,
        )
        if fresh is None or entry.keep_until <= asked.fetched_at:
            self._cache.drop(known.key)
        else:
            self._store(known, entry)

    def _store(self, known: Known, entry: Entry) -> None:
        assert known.key is not None
        if self._cache.lower and not _PRIVATE.isdisjoint(name.lower() for name in known.request.headers):
            self._cache.put_in_memory(known.key, entry)  # RFC 9111, section 3.5
        else:
            self._cache.put(known.key, entry)


def negative_ttl(error: AnswerError, policy: CachePolicy) -> float:
    """Return the seconds that a failure is remembered: by its kind, as the source says."""
    kind = "not_found" if isinstance(error, UpstreamError) and error.status in _GONE else error.outcome
    return policy.negative_ttl.get(kind, NEGATIVE_TTL)
