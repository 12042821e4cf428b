"""What is cached, and for how long it may be used: answers, failures and check results.

An answer requested before its URL changed at the upstream is not cached (RFC 9111, section 4.4): `began` has the number
of changes known at the time of the request.
"""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.fetch import FetchResult
from agents.answer.parsed_requests import ParsedRequest, target_tag
from models.documents import UNREAD
from models.errors import AnswerError, InvalidDocument, TooLarge, Unreachable, UpstreamError
from models.result import Answer, encode_answer, restamp
from models.source import NEGATIVE_TTL, CachePolicy
from streams.cache.check_results import CheckResults
from streams.cache.entry import Entry, failed_entry, fresh_entry, updated
from streams.cache.freshness import Freshness, Head, Headers, age_of, failure_lifetime, freshness
from streams.cache.front import Cache
from streams.http.url import parse, resolve

_REPEATABLE_FAILURES = (Unreachable, UpstreamError, TooLarge, InvalidDocument)
"""Failures that the same request would meet again in a moment."""
GATEWAY_TIMEOUT = 504
_PRIVATE = frozenset({"authorization", "cookie"})
"""Headers of a request whose answer stays in this process: it belongs to the owner of these credentials."""
_NAMING = ("Location", "Content-Location")
"""Headers in which the response to a change names other URLs that changed."""


class Began(NamedTuple):
    """The time of a request in epoch seconds, and how many changes were known."""

    at: float
    changes: int


class CacheWriter:
    """`policy` is the cache policy of plain URLs; `negative_ttl`: seconds that a failure is cached if neither its
    headers nor its source say otherwise.
    """

    def __init__(self, cache: Cache, policy: CachePolicy, negative_ttl: float = NEGATIVE_TTL) -> None:
        self._cache = cache
        self._policy = policy
        self._negative_ttl = negative_ttl

    def policy_of(self, known: ParsedRequest) -> CachePolicy:
        """Return the policy for a request's answers."""
        return self._policy if known.source is None else known.source.cache

    def begin(self) -> Began:
        """Return the state at the start of a fetch."""
        return Began(time.time(), self._cache.changes.count)

    def store(
        self, known: ParsedRequest, shared: bytes, fetched: FetchResult, cache: bytes, began: Began
    ) -> EncodedAnswer:
        """Cache a new answer for as long as it may be used, and return it."""
        assert fetched.answer is not None
        policy = self.policy_of(known)
        fresh = freshness(fetched.trail, policy, fetched.fetched_at)
        loaded = fetched.answer.document if fetched.answer.has_document else UNREAD
        found = EncodedAnswer(
            shared, cache, _as_of(fetched, fresh), None, CheckResults(), loaded, _may_share(fresh, policy)
        )
        self._put(known, found, fetched, fresh, began)
        return found

    def store_failure(self, known: ParsedRequest, error: AnswerError, cache: bytes, began: Began) -> EncodedAnswer:
        """Cache a failure unless a stale answer may be used instead, and return it."""
        policy = self.policy_of(known)
        now = time.time()
        lifetime = failure_lifetime(error.trail, now, self._negative_ttl)
        error.trail = ()  # the heads of whole answers, which no bound of the cache counts
        shared = encode_answer(known.request, Answer.failed(error))
        if known.key is not None and not self._is_outdated(known.key, began):
            self._keep_failure(known, shared, error, now, negative_ttl(error, policy, self._negative_ttl, lifetime))
        may_share = policy.coalesce or lifetime is None or lifetime > 0
        return EncodedAnswer(shared, cache, None, error, may_share=may_share)

    def _keep_failure(
        self, known: ParsedRequest, shared: bytes, error: AnswerError, now: float, seconds: float
    ) -> None:
        assert known.key is not None
        held = self._cache.peek(known.key)
        if error.retryable:
            last = 0.0 if held is None else max(held.fresh_until, held.revalidate_until, held.usable_until)
            if (held is not None and held.error is None and now < last) or known.max_age == 0:
                return  # a request for a new answer has not looked for others
        elif not error.deadline_bound:
            self._cache.drop(known.key)  # the upstream no longer has the cached document
        if isinstance(error, _REPEATABLE_FAILURES) and not error.deadline_bound and seconds > 0:
            self._cache.put(known.key, failed_entry(shared, now, seconds, error))

    def store_revalidated(
        self, known: ParsedRequest, held: Entry, fetched: FetchResult, began: Began
    ) -> EncodedAnswer | None:
        """Refresh a cached answer, and its check results, after a 304 (RFC 9111, section 4.3.4).

        Returns None if the 304 is about another version.
        """
        headers = updated(held, fetched.trail[-1].headers)
        if headers is None:
            return None
        # The status of the cached answer was cacheable, whatever that of the 304 is.
        fetched = fetched._replace(trail=(Head(None, headers, fetched.trail[-1].delay),))
        policy = self.policy_of(known)
        fresh = freshness(fetched.trail, policy, fetched.fetched_at)
        shared = restamp(held.shared, fetched.attempts, fetched.fetched_at, fetched.headers)
        found = EncodedAnswer(shared, b"revalidated", _as_of(fetched, fresh), None, held.check_results,
                         may_share=_may_share(fresh, policy))  # fmt: skip
        self._put(known, found, fetched, fresh, began)
        return found

    def store_check_results(self, known: ParsedRequest, verdicts: CheckResults) -> None:
        """Store new check results with their document, unless another has replaced it."""
        entry = None if known.key is None else self._cache.peek(known.key)
        if entry is not None and entry.check_results is verdicts:
            self._store(known, entry)

    def forget(self, url: str, headers: Headers) -> None:
        """Drop what is cached of a URL that changed, and of URLs of its origin that the response names."""
        changed, here = {target_tag(url)}, parse(url)
        for name in _NAMING:
            with contextlib.suppress(ValueError):  # not a URL
                named = resolve(here, headers.get(name, ""))
                if named.origin() == here.origin():
                    changed.add(target_tag(str(named)))
        for target in changed:
            self._cache.change(target.encode())

    def _put(
        self, known: ParsedRequest, found: EncodedAnswer, fetched: FetchResult, fresh: Freshness | None, began: Began
    ) -> None:
        if known.key is None or self._is_outdated(known.key, began):
            return
        entry = fresh_entry(
            found.shared,
            fetched.fetched_at,
            fresh or Freshness(0.0, 0.0, 0.0),
            refresh_ahead=self.policy_of(known).refresh_ahead,
            headers=fetched.trail[-1].headers,
            asked_at=began.at,
            verdicts=found.check_results,
        )
        if fresh is None or entry.keep_until <= fetched.fetched_at:
            self._cache.drop(known.key)
        else:
            self._store(known, entry)

    def _is_outdated(self, key: bytes, began: Began) -> bool:
        return self._cache.changes.last(key) > began.changes

    def _store(self, known: ParsedRequest, entry: Entry) -> None:
        assert known.key is not None
        if self._cache.lower and not _PRIVATE.isdisjoint(name.lower() for name in known.request.headers):
            self._cache.put_in_memory(known.key, entry)  # RFC 9111, section 3.5
        else:
            self._cache.put(known.key, entry)


def _as_of(fetched: FetchResult, fresh: Freshness | None) -> float:
    return fetched.fetched_at - (age_of(fetched.trail, fetched.fetched_at) if fresh is None else fresh.age)


def _may_share(fresh: Freshness | None, policy: CachePolicy) -> bool:
    """Whether concurrent requests may use the answer (RFC 9111, section 4)."""
    return policy.coalesce or (fresh is not None and fresh.shared)


def absent(known: ParsedRequest, cache: bytes) -> EncodedAnswer:
    """Return the error of an only-if-cached request that is a miss (RFC 9111, section 5.2.1.7)."""
    error = UpstreamError("nothing in the cache answers it, and the request is only-if-cached", GATEWAY_TIMEOUT)
    return EncodedAnswer(encode_answer(known.request, Answer.failed(error)), cache, None, error, may_share=False)


def negative_ttl(error: AnswerError, policy: CachePolicy, default: float, lifetime: float | None) -> float:
    """Return for how many seconds a failure is cached.

    `lifetime` is what the response's headers allow, None if they say nothing: then the source's value for this kind of
    failure holds, or else `default`. The source's value, or else its `ttl`, is the maximum.
    """
    own = policy.negative_ttl.get(error.kind or error.outcome)
    if lifetime is None:
        return default if own is None else own
    return min(lifetime, policy.ttl if own is None else own)
