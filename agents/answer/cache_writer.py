"""What is put into the cache, and for how long it may be used: answers, failures, and what checks said of documents.

What was asked for before its upstream's answer changed is not kept (RFC 9111, section 4.4): `began` says how many
changes were known when it was asked for.
"""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.fetch import FetchResult
from agents.answer.parsed_requests import ParsedRequest, target_tag
from models.errors import AnswerError, InvalidDocument, TooLarge, Unreachable, UpstreamError
from models.result import Answer, encode_answer, restamp
from models.source import NEGATIVE_TTL, CachePolicy
from streams.cache.check_results import CheckResults
from streams.cache.entry import Entry, failed_entry, fresh_entry, updated
from streams.cache.freshness import Freshness, Head, Headers, age_of, failure_lifetime, freshness
from streams.cache.front import Cache
from streams.http.url import parse, resolve

_REPEATABLE_FAILURES = (Unreachable, UpstreamError, TooLarge, InvalidDocument)
"""Failures that the same request would meet again in a moment, whoever asks."""
_GONE = (404, 410)
GATEWAY_TIMEOUT = 504
_PRIVATE = frozenset({"authorization", "cookie"})
"""Headers of a request whose answer stays in this process: it is for who has these credentials."""
_NAMING = ("Location", "Content-Location")
"""Headers by which the answer to a change names what else has changed."""


class Began(NamedTuple):
    """When something was asked for: epoch seconds, and how many changes were known."""

    at: float
    changes: int


class CacheWriter:
    """`policy` says how long answers are kept that have no source; `negative_ttl` for how many seconds failures are
    remembered that say nothing of it, where their source does not either.
    """

    def __init__(self, cache: Cache, policy: CachePolicy, negative_ttl: float = NEGATIVE_TTL) -> None:
        self._cache = cache
        self._policy = policy
        self._negative_ttl = negative_ttl

    def policy_of(self, known: ParsedRequest) -> CachePolicy:
        """Return the policy for a request's answers."""
        return self._policy if known.source is None else known.source.cache

    def begin(self) -> Began:
        """Return when something is asked for that is now."""
        return Began(time.time(), self._cache.changes.count)

    def store(
        self, known: ParsedRequest, shared: bytes, asked: FetchResult, cache: bytes, began: Began
    ) -> EncodedAnswer:
        """Put a new answer into the cache for as long as it may be used, and return it."""
        assert asked.answer is not None
        policy = self.policy_of(known)
        fresh = freshness(asked.trail, policy, asked.fetched_at)
        found = EncodedAnswer(
            shared, cache, _as_of(asked, fresh), None, CheckResults(), may_share=_may_share(fresh, policy)
        )
        if asked.answer.has_document:
            found = found._replace(loaded=asked.answer.document)
        self._put(known, found, asked, fresh, began)
        return found

    def store_failure(self, known: ParsedRequest, error: AnswerError, cache: bytes, began: Began) -> EncodedAnswer:
        """Remember a failure that others would meet, unless an answer is kept that may stand in for it; return it."""
        policy = self.policy_of(known)
        now = time.time()
        said = failure_lifetime(error.trail, now, self._negative_ttl)
        shared = encode_answer(known.request, Answer.failed(error))
        if known.key is not None and not self._is_outdated(known.key, began):
            self._keep_failure(known, shared, error, now, negative_ttl(error, policy, self._negative_ttl, said))
        may_share = policy.coalesce or said is None or said > 0
        return EncodedAnswer(shared, cache, None, error, may_share=may_share)

    def _keep_failure(
        self, known: ParsedRequest, shared: bytes, error: AnswerError, now: float, seconds: float
    ) -> None:
        assert known.key is not None
        held = self._cache.peek(known.key)
        if error.retryable:
            last = 0.0 if held is None else max(held.fresh_until, held.revalidate_until, held.usable_until)
            if (held is not None and held.error is None and now < last) or known.max_age == 0:
                return  # who wanted it new has not looked what else there is
        elif not error.deadline_bound:
            self._cache.drop(known.key)  # what was kept is not what the upstream has any more
        if isinstance(error, _REPEATABLE_FAILURES) and not error.deadline_bound and seconds > 0:
            self._cache.put(known.key, failed_entry(shared, now, seconds, error))

    def store_revalidated(
        self, known: ParsedRequest, held: Entry, asked: FetchResult, began: Began
    ) -> EncodedAnswer | None:
        """The upstream says that what is at hand still holds (RFC 9111, section 4.3.4); so does what checks said.

        None if it speaks of another version.
        """
        headers = updated(held, asked.trail[-1].headers)
        if headers is None:
            return None
        # A 304 updates what is kept, which was an answer of a status that may be kept.
        asked = asked._replace(trail=(Head(None, headers, asked.trail[-1].delay),))
        policy = self.policy_of(known)
        fresh = freshness(asked.trail, policy, asked.fetched_at)
        shared = restamp(held.shared, asked.attempts, asked.fetched_at, asked.told)
        found = EncodedAnswer(shared, b"revalidated", _as_of(asked, fresh), None, held.check_results,
                         may_share=_may_share(fresh, policy))  # fmt: skip
        self._put(known, found, asked, fresh, began)
        return found

    def store_check_results(self, known: ParsedRequest, verdicts: CheckResults) -> None:
        """Something new is known of a document: keep it with that, unless another has taken its place."""
        entry = None if known.key is None else self._cache.peek(known.key)
        if entry is not None and entry.check_results is verdicts:
            self._store(known, entry)

    def forget(self, url: str, headers: Headers) -> None:
        """Forget what is kept of a URL that an upstream has changed, and of those of its origin that it names."""
        changed, here = {target_tag(url)}, parse(url)
        for name in _NAMING:
            with contextlib.suppress(ValueError):  # it names no URL
                named = resolve(here, headers.get(name, ""))
                if named.origin() == here.origin():
                    changed.add(target_tag(str(named)))
        for target in changed:
            self._cache.change(target.encode())

    def _put(
        self, known: ParsedRequest, found: EncodedAnswer, asked: FetchResult, fresh: Freshness | None, began: Began
    ) -> None:
        if known.key is None or self._is_outdated(known.key, began):
            return
        entry = fresh_entry(
            found.shared,
            asked.fetched_at,
            fresh or Freshness(0.0, 0.0, 0.0),
            refresh_ahead=self.policy_of(known).refresh_ahead,
            headers=asked.trail[-1].headers,
            asked_at=began.at,
            verdicts=found.verdicts,
        )
        if fresh is None or entry.keep_until <= asked.fetched_at:
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


def _as_of(asked: FetchResult, fresh: Freshness | None) -> float:
    return asked.fetched_at - (age_of(asked.trail, asked.fetched_at) if fresh is None else fresh.age)


def _may_share(fresh: Freshness | None, policy: CachePolicy) -> bool:
    """Whether an answer is also that of those who asked at the same time (RFC 9111, section 4)."""
    return policy.coalesce or (fresh is not None and fresh.shared)


def absent(known: ParsedRequest, cache: bytes) -> EncodedAnswer:
    """Return the failure of a request that is only to be answered from the cache (RFC 9111, section 5.2.1.7)."""
    error = UpstreamError("nothing is kept that answers it, and the upstream is not to be asked", GATEWAY_TIMEOUT)
    return EncodedAnswer(encode_answer(known.request, Answer.failed(error)), cache, None, error, may_share=False)


def negative_ttl(error: AnswerError, policy: CachePolicy, default: float, said: float | None) -> float:
    """Return the seconds that a failure is remembered.

    What the source says of its kind holds where the upstream `said` nothing, and is the most that it can say; without
    a source's word, `default` holds, and the most is what answers may be fresh.
    """
    kind = "not_found" if isinstance(error, UpstreamError) and error.status in _GONE else error.outcome
    own = policy.negative_ttl.get(kind)
    if said is None:
        return default if own is None else own
    return min(said, policy.ttl if own is None else own)
