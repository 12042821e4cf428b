"""One request → one answer: from the cache, from a fetch in progress, or from the upstream.

By RFC 9111 and RFC 5861, a fresh answer is a hit, and a popular one is refreshed before it expires. A stale answer is
served while it is refreshed if its upstream or source allows that; otherwise it is revalidated or fetched again. If
that fails, the stale answer is used instead of the error, as long as it may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

from agents.answer.cache_writer import CacheWriter, absent
from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.fetch import Fetcher, FetchResult, any_size
from agents.answer.parsed_requests import ParsedRequest
from agents.answer.run_checks import CheckRunner, with_known_results
from models.errors import AnswerError, TimedOut
from models.histogram import Histogram
from models.result import Answer, encode_answer, too_large
from models.source import NEGATIVE_TTL, CachePolicy
from streams.cache.entry import Entry
from streams.cache.front import Cache
from streams.cache.single_flight import SingleFlight
from streams.deadlines import Deadlines
from streams.http import turn as turns
from streams.http.bodies import kept_until_answered
from streams.pool import CheckPool
from streams.shares import Shares
from streams.tasks import end_tasks, start

HOT = 3
"""Hits near the end of an answer's freshness after which it is refreshed in advance."""
MAX_REFRESHES = 64
"""Concurrent refreshes, half of them of one host; other answers are refreshed on a later request."""
MAX_COUNTED = 4_096
"""Answers near their expiry whose hits are counted."""
UNSHARED = 60.0
"""Seconds after an answer that may not be shared in which requests for the same do not wait for each other."""


class Enricher:
    """Answers requests. `timeout`: seconds until a request's deadline unless it names its own; `policy`: the cache
    policy of plain URLs; `negative_ttl`: seconds that failures are cached; `limit` returns an answer's maximum bytes.

    Opened with `async with`, which ends the refreshes on exit.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        pool: CheckPool,
        cache: Cache,
        timeout: float,
        policy: CachePolicy | None = None,
        *,
        limit: Callable[[], int] = any_size,
        negative_ttl: float = NEGATIVE_TTL,
    ) -> None:
        self._fetcher = fetcher
        self._cache = cache
        self._timeout = timeout
        self._limit = limit
        self._writer = CacheWriter(cache, policy or CachePolicy(), negative_ttl)
        fetcher.on_change(self._writer.forget)
        self._checks = CheckRunner(pool, self._writer.store_check_results)
        self._flights: SingleFlight[EncodedAnswer] = SingleFlight()
        self._refreshes: dict[bytes, asyncio.Task[None]] = {}
        self._refreshing: Shares[str] = Shares(MAX_REFRESHES)
        self._late_hits: dict[bytes | None, int] = {}
        self._deadlines = Deadlines()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(*self._refreshes.values())
        await self._fetcher.close()

    @property
    def stages(self) -> dict[str, Histogram]:
        """Return how long documents took to load and to check."""
        return {"load": self._fetcher.load_times, "checks": self._checks.run_times}

    def peek(self, known: ParsedRequest, now: float) -> Entry | None:
        """Return the cached answer for a request at `now` (epoch seconds), None for a miss. Never waits."""
        if known.key is None or known.max_age == 0:
            return None
        entry = self._cache.peek(known.key)
        if entry is None or known.max_age is not None or now >= entry.refresh_at:  # else it is usable
            entry = self._usable(entry, known, now)
        if entry is None or not known.checks or entry.error is not None:
            return entry
        results = None if entry.check_results is None else entry.check_results.joined(known.checks, now)
        if results is None:
            return None
        checked = entry.with_check_results(*results)
        return checked if len(checked.shared) <= self._limit() else None

    def _usable(self, entry: Entry | None, known: ParsedRequest, now: float) -> Entry | None:
        if entry is None or (known.max_age is not None and not known.takes(entry.as_of, entry.fresh_until, now)):
            return None
        if now < entry.refresh_at:
            return entry
        return self._count_late_hit(known, entry, now) if now < entry.fresh_until else None

    def refusal(self, known: ParsedRequest) -> AnswerError | None:
        """Return the error of a request that would be refused at once, None if the host or the cache may answer."""
        refusal = self._fetcher.refusal(known)
        return None if refusal is None or self._cache.lower or self._cached_answer(known) is not None else refusal

    def pause(self, known: ParsedRequest) -> float:
        """Return the seconds for which its host is left alone."""
        return self._fetcher.pause(known)

    def overdue(self, known: ParsedRequest) -> None:
        """Note that the request was refused because its host does not keep up."""
        self._fetcher.overdue(known)

    async def answer(self, known: ParsedRequest, extra: Mapping[str, str]) -> EncodedAnswer:
        """Answer a cache miss; `extra` are headers to send. Never raises: an error is an answer, too.

        With a current `Turn` the request's time runs from its turn on.
        """
        turn = turns.current.get()
        seconds = known.request.timeout or self._timeout
        deadline = time.monotonic() + seconds
        key = None if known.max_age == 0 else known.key
        try:
            with self._deadlines.within(None if turn else seconds) as scope:
                if turn is not None:
                    turn.bound(scope, seconds)
                if key is None:
                    found = await self._fetch(known, extra, b"bypass", deadline, None)
                else:
                    found = await self._answer_once(key, known, extra, deadline)
                if known.checks:
                    found = await self._checks.run(known, found)
                return self._fitting(known, found)
        except TimeoutError:
            answer = Answer.failed(TimedOut(f"no answer within {seconds:g} s"))
            failed = EncodedAnswer(encode_answer(known.request, answer), b"bypass" if key is None else b"miss", None,
                              answer.error)  # fmt: skip
            stale = self._stand_in(known, rest=False)
            return (stale and with_known_results(known, stale, time.time())) or failed

    def _fitting(self, known: ParsedRequest, found: EncodedAnswer) -> EncodedAnswer:
        """Return an answer, or `too_large` if its check results made it so."""
        if len(found.shared) <= self._limit():
            return found
        error = too_large(len(found.shared), self._limit())
        return EncodedAnswer(encode_answer(known.request, Answer.failed(error)), found.cache, found.as_of, error)

    # -- once for all concurrent requests

    async def _answer_once(
        self, key: bytes, known: ParsedRequest, extra: Mapping[str, str], deadline: float
    ) -> EncodedAnswer:
        """Find or fetch, or wait for another request that does; if that one gives up, take its place."""
        changes, found = self._cache.changes, None
        while True:
            entry = self._cache.peek(key)
            if (served := self._serve(entry, known)) is not None:
                return served
            if known.only_if_cached or self._flights.parted(key, time.time()):
                return await self._find_or_fetch(key, known, extra, deadline, entry)
            if (flight := self._flights.begin(key, changes.count, changes.last(key))) is not None:
                break
            landed = await self._flights.wait(key)
            if landed is not None and (taken := self._from_flight(landed, known)) is not None:
                return taken
        try:
            if self._cache.lower:
                found = await self._find_or_fetch(key, known, extra, deadline, entry)
            else:
                found = await self._fetch(known, extra, b"miss", deadline, entry)
        finally:
            self._flights.finish(key, flight, _shareable(found))
        return found

    async def _find_or_fetch(
        self, key: bytes, known: ParsedRequest, extra: Mapping[str, str], deadline: float, entry: Entry | None
    ) -> EncodedAnswer:
        if self._cache.lower:
            entry = await self._cache.find(key)
            if entry is not None and len(entry.shared) > self._limit():  # stored by a worker with a higher limit
                self._cache.memory.drop(key)
                entry = None
            if (found := self._serve(entry, known)) is not None:
                return found
        return await self._fetch(known, extra, b"miss", deadline, entry)

    def _from_flight(self, landed: EncodedAnswer, known: ParsedRequest) -> EncodedAnswer | None:
        """Return the answer of a finished flight, None if it does not fit this request."""
        if landed.error is not None and landed.error.retryable and (stale := self._stand_in(known, rest=False)):
            return stale  # this request may accept an older answer than the one that fetched
        if landed.cache in _FETCHED:
            return landed._replace(cache=b"coalesced") if landed.may_share else None
        return None if known.passes_over(landed.as_of, time.time()) else landed

    def _serve(self, entry: Entry | None, known: ParsedRequest) -> EncodedAnswer | None:
        """Return a cached answer that is fresh, or may be served while it is refreshed; else None."""
        if entry is None:
            return None
        now = time.time()
        if self._usable(entry, known, now) is not None:
            return EncodedAnswer.of(entry, b"hit")
        if entry.error is not None or now < entry.fresh_until or known.passes_over(entry.as_of, now):
            return None
        resting = now < entry.ask_after
        if now >= max(entry.revalidate_until, entry.usable_until if resting else 0.0):
            return None
        if not resting:
            self._refresh(known)
        return EncodedAnswer.of(entry, b"stale")

    # -- to the upstream

    async def _fetch(
        self, known: ParsedRequest, extra: Mapping[str, str], cache: bytes, deadline: float, held: Entry | None
    ) -> EncodedAnswer:
        """Fetch from the upstream, revalidating `held` if it is a document."""
        held = None if held is None or held.error is not None else held
        began = self._writer.begin()
        try:
            if known.only_if_cached:
                return absent(known, cache)
            fetched = await self._fetcher.fetch(known, extra, deadline, held.validators() if held else {})
            self._late_hits.pop(known.key, None)
            found = None
            if fetched.answer is None and held is not None:
                found = self._writer.store_revalidated(known, held, fetched, began)
            if found is None:
                if fetched.answer is None:  # the 304 is about another version
                    fetched = await self._fetcher.fetch(known, extra, deadline, {})
                found = self._writer.store(known, self._encode(known, fetched), fetched, cache, began)
        except AnswerError as error:
            error.settle()
            if error.retryable and (stale := self._stand_in(known, rest=not error.deadline_bound)) is not None:
                return stale
            found = self._writer.store_failure(known, error, cache, began)
        if known.key is not None:
            self._flights.part(known.key, 0.0 if found.may_share else time.time() + UNSHARED)
        return found

    def _encode(self, known: ParsedRequest, fetched: FetchResult) -> bytes:
        """Return the shared part of a result. Raises TooLarge if it cannot be published."""
        assert fetched.answer is not None
        shared = encode_answer(known.request, fetched.answer)
        if len(shared) > self._limit():
            error = too_large(len(shared), self._limit())
            error.attempts, error.trail = fetched.attempts, fetched.trail
            raise error
        return shared

    # -- stale, or about to be

    def _cached_answer(self, known: ParsedRequest) -> Entry | None:
        """Return the cached document, however old; None for a failure, and if the request wants a new one."""
        if known.key is None or known.max_age == 0:
            return None
        entry = self._cache.peek(known.key)
        return None if entry is None or entry.error is not None else entry

    def _stand_in(self, known: ParsedRequest, *, rest: bool) -> EncodedAnswer | None:
        """Return a stale answer to use on error (RFC 5861, section 4). `rest`: leave the upstream alone for a while."""
        entry, now = self._cached_answer(known), time.time()
        if entry is None or known.key is None:
            return None
        if rest:
            self._cache.put_in_memory(known.key, entry._replace(ask_after=now + NEGATIVE_TTL))
        if now >= max(entry.usable_until, entry.fresh_until) or known.passes_over(entry.as_of, now):
            return None
        return EncodedAnswer.of(entry, b"stale")

    def _count_late_hit(self, known: ParsedRequest, entry: Entry, now: float) -> Entry:
        """Count a hit near the end of an answer's freshness; after many, refresh it."""
        assert known.key is not None
        hits = self._late_hits.get(known.key, 0) + 1
        if len(self._late_hits) >= MAX_COUNTED:
            self._late_hits.clear()
        self._late_hits[known.key] = hits
        if hits >= HOT and entry.error is None and now >= entry.ask_after:
            self._refresh(known)
        return entry

    def _refresh(self, known: ParsedRequest) -> None:
        """Start a refresh in the background, unless one runs already."""
        key = known.key
        if key is None or key in self._refreshes:
            return
        of = known.source.name if known.source is not None else known.origin.authority
        if not self._refreshing.fits(of):  # a host that hangs would take all places
            return
        self._refreshing.take(of)
        task = start(self._refreshed(key, known), "a refresh", means="the answer grows older", fatal=False)
        self._refreshes[key] = task
        task.add_done_callback(partial(self._was_refreshed, key, of))

    def _was_refreshed(self, key: bytes, of: str, _: asyncio.Task[None]) -> None:
        del self._refreshes[key]
        self._refreshing.give(of)

    async def _refreshed(self, key: bytes, known: ParsedRequest) -> None:
        with kept_until_answered():  # of its own: the request that began it is answered meanwhile
            await self._fetch_again(key, known)

    async def _fetch_again(self, key: bytes, known: ParsedRequest) -> None:
        changes = self._cache.changes
        flight = self._flights.begin(key, changes.count, changes.last(key))
        if flight is None:
            return
        landed = None
        try:
            async with asyncio.timeout(self._timeout):
                deadline = time.monotonic() + self._timeout
                landed = await self._fetch(known, {}, b"miss", deadline, self._cached_answer(known))
        except TimeoutError:
            self._stand_in(known, rest=True)
        finally:
            self._flights.finish(key, flight, _shareable(landed))
        if landed is not None and landed.cache in _FETCHED:
            with contextlib.suppress(TimeoutError):  # the next request starts them again
                async with asyncio.timeout(self._timeout):
                    await self._checks.run(known, landed)


_FETCHED = (b"miss", b"revalidated")


def _shareable(landed: EncodedAnswer | None) -> EncodedAnswer | None:
    """Return a flight's answer if others may use it: not an error caused by the request's own deadline."""
    return None if landed is None or (landed.error is not None and landed.error.deadline_bound) else landed
