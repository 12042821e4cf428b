"""One request → one answer: from the cache, from a fetch under way, or from the upstream.

What may be used when (RFC 9111, RFC 5861): a fresh answer is a hit; one that is asked for often is fetched anew before
it ends; one past its freshness is served while it is fetched anew if its upstream or source allows that, else asked
about (revalidated) or fetched; and if that fails, it stands in for the failure as long as it may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple, Self

from multidict import CIMultiDict

from agents.ask import Asked, Asker
from agents.known import Known
from models.errors import AnswerError, InvalidDocument, TimedOut, TooLarge, Unreachable, UpstreamError
from models.result import Answer, encode_answer, restamp
from models.source import NEGATIVE_TTL, CachePolicy
from streams.cache.entry import Entry, failed_entry, fresh_entry
from streams.cache.flights import Flights
from streams.cache.freshness import Freshness, freshness, says_anything
from streams.cache.front import Cache

HOT = 3
"""Hits in the last part of an answer's freshness that make it worth fetching anew before it ends."""
MAX_REFRESHES = 64
"""Answers fetched anew in the background at once; others wait until somebody asks for them."""
MAX_COUNTED = 4_096
"""Answers near their end whose hits are counted."""

_REPEATED = (Unreachable, UpstreamError, TooLarge, InvalidDocument)
"""Failures that the same request would meet again in a moment, whoever asks."""
_GONE = (404, 410)
_PRIVATE = frozenset({"authorization", "cookie"})
"""Headers of a request whose answer stays in this process: it is for who has these credentials."""


class Enriched(NamedTuple):
    """An answer encoded for `splice`: how the cache was involved, and when it was fetched (None: it was not)."""

    shared: bytes
    cache: bytes
    fetched_at: float | None
    error: AnswerError | None


class Enricher:
    """Knows how to answer; `timeout` is the deadline, in seconds, of a request that names none; `policy` how long
    answers are kept that have no source. Opened with `async with`, so that what runs behind an answer's back ends.
    """

    def __init__(self, asker: Asker, cache: Cache, timeout: float, policy: CachePolicy | None = None) -> None:
        self._asker = asker
        self._cache = cache
        self._timeout = timeout
        self._policy = policy or CachePolicy()
        self._flights: Flights[Enriched] = Flights()
        self._refreshes: dict[bytes, asyncio.Task[None]] = {}
        self._late_hits: dict[bytes, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        refreshes = list(self._refreshes.values())
        for task in refreshes:
            task.cancel()
        await asyncio.gather(*refreshes, return_exceptions=True)

    def peek(self, known: Known, now: float) -> Entry | None:
        """Return the cached answer that will do for this request at `now` (epoch seconds), without waiting."""
        if known.key is None or known.max_age == 0:
            return None
        return self._that_will_do(self._cache.peek(known.key), known, now)

    def _that_will_do(self, entry: Entry | None, known: Known, now: float) -> Entry | None:
        if entry is None or (known.max_age is not None and now - entry.fetched_at > known.max_age):
            return None
        if now < entry.refresh_at:
            return entry
        return self._ending(known, entry, now) if now < entry.fresh_until else None

    async def answer(self, known: Known, extra: Mapping[str, str]) -> Enriched:
        """Answer a request that `peek` cannot, with `extra` headers if it is sent. Never raises: every end is one."""
        seconds = known.request.timeout or self._timeout
        deadline = time.monotonic() + seconds
        key = None if known.max_age == 0 else known.key
        try:
            async with asyncio.timeout(seconds):
                if key is None:
                    return await self._fetch(known, extra, b"bypass", deadline, None)
                return await self._answer_once(key, known, extra, deadline)
        except TimeoutError:
            answer = Answer.failed(TimedOut(f"no answer within {seconds:g} s"))
            failed = Enriched(encode_answer(known.request, answer), b"bypass" if key is None else b"miss", None,
                              answer.error)  # fmt: skip
            return self._stand_in(known, rest=False) or failed

    # -- once for all who ask the same

    async def _answer_once(self, key: bytes, known: Known, extra: Mapping[str, str], deadline: float) -> Enriched:
        """Find or fetch, or wait for who does; if that one gives up, take its place."""
        while (found := self._serve(entry := self._cache.peek(key), known)) is None:
            if self._flights.lead(key):
                break
            landed = await self._flights.join(key)
            if landed is not None and (taken := self._from(landed, known)) is not None:
                return taken
        if found is not None:
            return found
        try:
            if self._cache.lower:
                entry = await self._cache.find(key)
                found = self._serve(entry, known)
            if found is None:
                found = await self._fetch(known, extra, b"miss", deadline, entry)
        finally:
            self._flights.land(key, _for_all(found))
        return found

    def _from(self, landed: Enriched, known: Known) -> Enriched | None:
        """Return what a flight brought for who waited for it, None if that will not do."""
        if landed.error is not None and landed.error.retryable and (stale := self._stand_in(known, rest=False)):
            return stale  # who fetched would have no answer as old as this one may be
        if landed.cache in _FETCHED:
            return landed._replace(cache=b"coalesced")
        return None if _too_old(landed.fetched_at, known, time.time()) else landed

    def _serve(self, entry: Entry | None, known: Known) -> Enriched | None:
        """Return an answer at hand if it will do: fresh, or one to serve while it is fetched anew."""
        if entry is None:
            return None
        now = time.time()
        if self._that_will_do(entry, known, now) is not None:
            return Enriched(entry.shared, b"hit", entry.fetched_at, entry.error)
        if entry.error is not None or now < entry.fresh_until or _too_old(entry.fetched_at, known, now):
            return None
        resting = now < entry.ask_after
        if now >= max(entry.revalidate_until, entry.usable_until if resting else 0.0):
            return None
        if not resting:
            self._refresh(known)
        return Enriched(entry.shared, b"stale", entry.fetched_at, None)

    # -- to the upstream

    async def _fetch(
        self, known: Known, extra: Mapping[str, str], cache: bytes, deadline: float, held: Entry | None
    ) -> Enriched:
        """Ask the upstream, whether `held` still holds if there is something to hold."""
        held = None if held is None or held.error is not None else held
        try:
            asked = await self._asker.ask(known, extra, deadline, held.validators() if held else {})
            if asked.answer is None and held is not None:
                return self._still_holds(known, held, asked)
            assert asked.answer is not None
            answer = asked.answer
            shared = encode_answer(known.request, answer)
        except AnswerError as error:
            answer, asked = Answer.failed(error), None
            if error.retryable and (stale := self._stand_in(known, rest=not error.hurried)) is not None:
                return stale
            shared = encode_answer(known.request, answer)
        self._keep(known, shared, answer, asked)
        return Enriched(shared, cache, answer.fetched_at, answer.error)

    def _keep(self, known: Known, shared: bytes, answer: Answer, asked: Asked | None) -> None:
        """Put an answer into the cache for as long as it may be used; a failure for a moment."""
        policy, error = self._policy_of(known), answer.error
        if known.key is None:
            return
        if error is None and asked is not None:
            self._put(known, shared, asked, freshness(asked.headers, policy, asked.fetched_at))
        elif error is not None:
            self._keep_failure(known.key, known, shared, error)

    def _keep_failure(self, key: bytes, known: Known, shared: bytes, error: AnswerError) -> None:
        """Remember a failure that others would meet, unless an answer is kept that may stand in for it."""
        now, held = time.time(), self._cache.peek(key)
        if error.retryable:
            last = 0.0 if held is None else max(held.fresh_until, held.revalidate_until, held.usable_until)
            if (held is not None and held.error is None and now < last) or known.max_age == 0:
                return  # who wanted it new has not looked what else there is
        elif not error.hurried:
            self._cache.drop(key)  # what was kept is not what the upstream has any more
        seconds = negative_ttl(error, self._policy_of(known))
        if isinstance(error, _REPEATED) and not error.hurried and seconds > 0:
            self._cache.put(key, failed_entry(shared, now, seconds, error))

    def _put(self, known: Known, shared: bytes, asked: Asked, fresh: Freshness | None) -> None:
        key, now = known.key, asked.fetched_at
        assert key is not None
        entry = fresh_entry(
            shared,
            now,
            fresh or Freshness(0.0, 0.0, 0.0),
            refresh_ahead=self._policy_of(known).refresh_ahead,
            etag=asked.headers.get("ETag") or None,
            last_modified=asked.headers.get("Last-Modified") or None,
        )
        self._late_hits.pop(key, None)
        if fresh is None or entry.keep_until <= now:
            self._cache.drop(key)
        elif self._cache.lower and not _PRIVATE.isdisjoint(name.lower() for name in known.request.headers):
            self._cache.put_in_memory(key, entry)  # RFC 9111, section 3.5
        else:
            self._cache.put(key, entry)

    def _still_holds(self, known: Known, held: Entry, asked: Asked) -> Enriched:
        """The upstream says that what is at hand is what it would send (RFC 9111, section 4.3.4)."""
        policy = self._policy_of(known)
        if says_anything(asked.headers):
            fresh = freshness(asked.headers, policy, asked.fetched_at)
        else:
            fresh = Freshness(held.fresh_until - held.fetched_at, held.revalidate_until - held.fresh_until,
                              held.usable_until - held.fresh_until)  # fmt: skip
        shared = restamp(held.shared, asked.attempts, asked.fetched_at)
        headers = CIMultiDict({"ETag": held.etag or "", "Last-Modified": held.last_modified or ""})
        headers.update(asked.headers)
        kept = asked._replace(headers=headers)
        self._put(known, shared, kept, fresh)
        return Enriched(shared, b"revalidated", asked.fetched_at, None)

    def _policy_of(self, known: Known) -> CachePolicy:
        return self._policy if known.source is None else known.source.cache

    # -- past its freshness, or near the end of it

    def _held(self, known: Known) -> Entry | None:
        """Return the answer at hand, however old it is, unless it is a failure or one was asked for that is new."""
        if known.key is None or known.max_age == 0:
            return None
        entry = self._cache.peek(known.key)
        return None if entry is None or entry.error is not None else entry

    def _stand_in(self, known: Known, *, rest: bool) -> Enriched | None:
        """Return an answer that may stand in for a failure (RFC 5861, section 4); give its upstream a `rest` then."""
        entry, now = self._held(known), time.time()
        if entry is None or known.key is None:
            return None
        if rest:
            self._cache.put_in_memory(known.key, entry._replace(ask_after=now + NEGATIVE_TTL))
        if now >= max(entry.usable_until, entry.fresh_until) or _too_old(entry.fetched_at, known, now):
            return None
        return Enriched(entry.shared, b"stale", entry.fetched_at, None)

    def _ending(self, known: Known, entry: Entry, now: float) -> Entry:
        """Count a hit near the end of an answer's freshness: one that has many is fetched anew before it ends."""
        assert known.key is not None
        hits = self._late_hits.get(known.key, 0) + 1
        if len(self._late_hits) >= MAX_COUNTED:
            self._late_hits.clear()
        self._late_hits[known.key] = hits
        if hits >= HOT and entry.error is None and now >= entry.ask_after:
            self._refresh(known)
        return entry

    def _refresh(self, known: Known) -> None:
        """Fetch anew behind the answers' backs, unless that is under way."""
        key = known.key
        if key is None or key in self._refreshes or len(self._refreshes) >= MAX_REFRESHES:
            return
        task = asyncio.ensure_future(self._refreshed(key, known))
        self._refreshes[key] = task
        task.add_done_callback(lambda _: self._refreshes.pop(key, None))

    async def _refreshed(self, key: bytes, known: Known) -> None:
        if not self._flights.lead(key):
            return
        landed = None
        try:
            async with asyncio.timeout(self._timeout):
                deadline = time.monotonic() + self._timeout
                landed = await self._fetch(known, {}, b"miss", deadline, self._held(known))
        except TimeoutError:
            self._stand_in(known, rest=True)
        finally:
            self._flights.land(key, _for_all(landed))


_FETCHED = (b"miss", b"revalidated")


def _for_all(landed: Enriched | None) -> Enriched | None:
    """Return what came of a flight, if it holds for whoever waits: a later deadline might have ended otherwise."""
    return None if landed is None or (landed.error is not None and landed.error.hurried) else landed


def negative_ttl(error: AnswerError, policy: CachePolicy) -> float:
    """Return the seconds that a failure is remembered: by its kind, as the source says."""
    kind = "not_found" if isinstance(error, UpstreamError) and error.status in _GONE else error.outcome
    return policy.negative_ttl.get(kind, NEGATIVE_TTL)


def _too_old(fetched_at: float | None, known: Known, now: float) -> bool:
    return known.max_age is not None and now - (fetched_at or 0.0) > known.max_age
