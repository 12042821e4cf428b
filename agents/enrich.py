"""One request → one answer: fetch, load, check; kept in the cache, and fetched once for all who wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

from agents.known import Known
from models import checks, documents
from models.checks import Verdict
from models.errors import (
    AnswerError,
    InvalidDocument,
    InvalidRequest,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from models.request import Request
from models.result import Answer, encode_answer
from streams.cache.flights import Flights
from streams.cache.freshness import NEGATIVE_TTL, Freshness, freshness
from streams.cache.memory import Entry, MemoryCache
from streams.http.client import Client
from streams.pool import CheckPool

_REPEATED = (Unreachable, UpstreamError, TooLarge, InvalidDocument)
"""Failures that the same request would meet again in a moment, whoever asks."""


class Enriched(NamedTuple):
    """An answer encoded for `splice`: how the cache was involved, and when it was fetched (None: it was not)."""

    shared: bytes
    cache: bytes
    fetched_at: float | None
    error: AnswerError | None


class Enricher:
    """Knows how to answer; `timeout` is the deadline, in seconds, of a request that names none."""

    def __init__(self, client: Client, cache: MemoryCache, pool: CheckPool, timeout: float) -> None:
        self._client = client
        self._cache = cache
        self._pool = pool
        self._timeout = timeout
        self._flights: Flights[Enriched] = Flights()

    def peek(self, known: Known, now: float) -> Entry | None:
        """Return the cached answer that will do for this request at `now` (epoch seconds), without waiting."""
        if known.key is None or known.max_age == 0:
            return None
        entry: Entry | None = self._cache.peek(known.key)
        if entry is None or now >= entry.fresh_until or _too_old(entry, known, now):
            return None
        return entry

    async def answer(self, known: Known, trace: Mapping[str, str]) -> Enriched:
        """Answer a request that the cache does not. Never raises: every end is an answer."""
        request = known.request
        seconds = request.timeout or self._timeout
        deadline = time.monotonic() + seconds
        shared_key = None if known.max_age == 0 else known.key
        try:
            async with asyncio.timeout(seconds):
                if shared_key is None:
                    return await self._fetch(known, trace, b"bypass", deadline)
                return await self._fetch_once(shared_key, known, trace, deadline)
        except TimeoutError:
            answer = Answer.failed(TimedOut(f"no answer within {seconds:g} s"))
            cache = b"bypass" if shared_key is None else b"miss"
            failed = Enriched(encode_answer(request, answer), cache, None, answer.error)
            return self._stale_instead(known) or failed

    async def _fetch_once(self, key: bytes, known: Known, trace: Mapping[str, str], deadline: float) -> Enriched:
        """Fetch, or wait for who is fetching the same; if that one gives up, take its place."""
        while not self._flights.lead(key):
            landed = await self._flights.join(key)
            if landed is not None and (landed.cache == b"miss" or not _too_old(landed, known, time.time())):
                return landed._replace(cache=b"coalesced") if landed.cache == b"miss" else landed
        landed = None
        try:
            # A flight may have landed between the batch's look into the cache and now.
            entry = self.peek(known, time.time())
            if entry is not None:
                return Enriched(entry.shared, b"hit", entry.fetched_at, entry.error)
            landed = await self._fetch(known, trace, b"miss", deadline)
        finally:
            own = landed is None or (landed.error is not None and landed.error.hurried)
            self._flights.land(key, None if own else landed)
        return landed

    async def _fetch(self, known: Known, trace: Mapping[str, str], cache: bytes, deadline: float) -> Enriched:
        request = known.request
        kept: Freshness | None = None
        try:
            answer, kept = await self._ask(request, trace, deadline)
            shared = encode_answer(request, answer)
        except AnswerError as error:
            answer = Answer.failed(error)
        if answer.error is not None:
            if answer.error.retryable and (stale := self._stale_instead(known)) is not None:
                return stale
            shared = encode_answer(request, answer)
        self._keep(known, shared, answer, kept)
        return Enriched(shared, cache, answer.fetched_at, answer.error)

    def _keep(self, known: Known, shared: bytes, answer: Answer, kept: Freshness | None) -> None:
        """Put an answer into the cache for as long as it may be used; a failure for a moment, in place of nothing."""
        now = answer.fetched_at or time.time()
        if known.key is None:
            return
        if answer.error is None:
            if kept is not None and kept.fresh + kept.stale_if_error > 0:
                self._cache.put(known.key, Entry(shared, now, now + kept.fresh), kept.fresh + kept.stale_if_error)
        elif isinstance(answer.error, _REPEATED) and not answer.error.hurried and self._cache.peek(known.key) is None:
            self._cache.put(known.key, Entry(shared, now, now + NEGATIVE_TTL, answer.error), NEGATIVE_TTL)

    def _stale_instead(self, known: Known) -> Enriched | None:
        """Return an answer past its freshness that may stand in for a failure (RFC 5861, section 4)."""
        if known.key is None or known.max_age == 0:
            return None
        entry: Entry | None = self._cache.peek(known.key)
        if entry is None or entry.error is not None or _too_old(entry, known, time.time()):
            return None
        return Enriched(entry.shared, b"stale", entry.fetched_at, None)

    async def _ask(
        self, request: Request, trace: Mapping[str, str], deadline: float
    ) -> tuple[Answer, Freshness | None]:
        if request.url is None:
            msg = f"source: no source {request.source!r} is configured"
            raise InvalidRequest(msg)
        headers = {**request.headers, **trace} if trace else request.headers
        response = await self._client.fetch(request.method, request.url, headers, request.body, deadline=deadline)
        fetched_at = time.time()
        try:
            document = documents.load(request.schema, response.body)
        except InvalidDocument as error:
            error.attempts = response.attempts
            raise
        answer = Answer(
            "ok",
            status=response.status,
            document=document,
            has_document=True,
            attempts=response.attempts,
            fetched_at=fetched_at,
        )
        if request.checks:
            answer.judge(request.checks, await self._judge(request, document))
        return answer, freshness(response.cache_control, self._cache.tier.ttl)

    async def _judge(self, request: Request, document: object) -> list[Verdict]:
        """Run the request's checks on the pool; one whose field is not there fails without going there."""
        verdicts: list[Verdict | asyncio.Future[Verdict]] = []
        for call in request.checks:
            try:
                value = checks.select(document, call.field)
            except ValueError as exc:
                verdicts.append(Verdict(error=str(exc)))
            else:
                verdicts.append(self._pool.submit(call.name, value, call.args))
        try:
            return [verdict if isinstance(verdict, Verdict) else await verdict for verdict in verdicts]
        finally:
            for verdict in verdicts:  # out of time: what has not run need not
                if not isinstance(verdict, Verdict):
                    verdict.cancel()


def _too_old(found: Entry | Enriched, known: Known, now: float) -> bool:
    return known.max_age is not None and now - (found.fetched_at or 0.0) > known.max_age
