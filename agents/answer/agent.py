"""The agent: requests → results, and dead letters for what was not `ok`.

A batch is one turn: what the cache knows is answered on the spot, without a coroutine, future or task; what it does
not know becomes a task as soon as there is a place, and what comes behind it does not wait for that. The client lets
`max_in_flight` of them fetch; the others wait for their host or their turn.
An offset is finished when Kafka has acknowledged its result, and for a request that failed, its dead letter before
that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from aiokafka import ConsumerRecord

from agents.answer.enrich import Enricher
from agents.answer.headers import (
    ResultHeaders,
    dead_letter_headers,
    forwarded_headers,
    host_of,
    read_id,
    refused_id,
    shrink_dead_letter,
    shrink_result,
    unreadable_request,
)
from agents.answer.limiter import InFlightLimiter, Leave, Waiting
from agents.answer.parsed_requests import LargeRequest, ParsedRequest, ParsedRequestCache, salvage_id
from agents.answer.stats import NO_CACHE, AnswerStats
from models.errors import AnswerError, InternalError, InvalidRequest, Overloaded, TimedOut
from models.framing import schema_by_header
from models.result import Answer, encode_answer, splice
from models.source import Sources
from streams.config.settings import Settings
from streams.http.bodies import kept_until_answered
from streams.kafka.batch import RecordBatch
from streams.kafka.fetched import Unreadable
from streams.kafka.lease import Lease
from streams.kafka.outgoing import Headers, OutgoingRecord
from streams.kafka.publisher import Publisher
from streams.pool import LargeWork
from streams.pool.costs import Admission
from streams.tasks import start
from streams.telemetry import logs

if TYPE_CHECKING:
    from agents.answer.tracing import RequestSpans

logger = logging.getLogger(__name__)

TURN = 0.005
"""Seconds of work on what the cache does not know after which other tasks get their turn."""

_UNTRACED: AbstractContextManager[None] = nullcontext()

RequestRecord: TypeAlias = ConsumerRecord[bytes, bytes]


class Answerer:
    """Answers batches of requests; one for each worker."""

    def __init__(
        self,
        settings: Settings,
        enricher: Enricher,
        publisher: Publisher,
        sources: Sources | None = None,
        admission: Admission | None = None,
        *,
        spans: RequestSpans | None = None,
        large: LargeWork | None = None,
    ) -> None:
        self._results = settings.results_topic
        self._dead_letters = settings.dead_letters_topic
        self._group = settings.group
        self._enricher = enricher
        self._publisher = publisher
        self._parsed_requests = ParsedRequestCache(sources, large)
        self._headers = ResultHeaders(f"/millrace/{settings.group}")
        hosts = sources.hosts if sources is not None else None
        self.places = InFlightLimiter(settings, self._begin, self._crowd_out, admission=admission, hosts=hosts)
        self.stats = AnswerStats()
        self._spans = spans

    async def answer(self, batch: RecordBatch) -> None:
        """Answer a batch: returns when all of it is answered or under way, or its lease takes no more work."""
        hits: list[float] = []
        try:
            await self._answer_batch(batch, hits)
        finally:
            self.stats.count_hits(hits)

    async def _answer_batch(self, batch: RecordBatch, hits: list[float]) -> None:
        lease = batch.lease
        now, turn = time.time(), time.monotonic()
        for record in batch.records:
            if self._publisher.congested:
                await self._publisher.pace()
            if not lease.taking:
                return
            lease.begun += 1
            try:
                body_id, known = self._parsed_requests.parse(record.value)
                request_id = read_id(record, body_id) if record.headers or body_id is None else body_id
                entry = self._enricher.peek(known, now)
                if entry is not None:
                    age = max(0.0, now - entry.as_of)
                    elapsed = time.monotonic() - batch.received_at
                    value = splice(request_id, entry.shared, b"hit", age, elapsed)
                    trace = None
                    if self._spans is not None and record.headers:
                        outcome = "ok" if entry.error is None else entry.error.outcome
                        trace = self._spans.answered(record, request_id, elapsed, outcome, "hit")
                    if entry.error is None:
                        self._publish(record, lease, request_id, value, trace)
                        hits.append(elapsed)
                    else:
                        self._deliver(record, lease, request_id, value, entry.error, known=known, trace=trace)
                        self.stats.add(entry.error.outcome, "hit", elapsed)
                    continue
            except Exception as exc:  # noqa: BLE001  what one record holds must not keep the rest from being answered
                await self._take_odd(record, batch, exc)
            else:
                self._start(Waiting(record, lease, batch.received_at, request_id, known))
            if time.monotonic() - turn > TURN:
                await asyncio.sleep(0)
                now, turn = time.time(), time.monotonic()
        await self._publisher.pace()

    async def _take_odd(self, record: RequestRecord, batch: RecordBatch, reason: Exception) -> None:
        """Take a large request, which another process reads, or refuse what is none."""
        try:
            if not isinstance(reason, LargeRequest):
                raise reason  # noqa: TRY301  it ends as what follows may end
            body_id, known = await self._parsed_requests.read_large(record.value or b"")
            item = Waiting(record, batch.lease, batch.received_at, read_id(record, body_id), known)
        except Exception as exc:  # noqa: BLE001  as for any other
            self._refuse(record, batch.lease, batch.received_at, error_for(exc, record))
        else:
            self._start(item)

    async def _known(self, item: Waiting) -> ParsedRequest:
        """Return what an item asks for, read again if it was too large to be kept."""
        if item.known is not None:
            return item.known
        try:
            return self._parsed_requests.parse(item.record.value)[1]
        except LargeRequest:
            return (await self._parsed_requests.read_large(item.record.value or b""))[1]

    def _start(self, item: Waiting) -> None:
        """Begin what the cache does not know, or have it wait, or refuse it."""
        try:
            assert item.known is not None
            refusal = self._enricher.refusal(item.known)
            if refusal is None:
                self.places.enter(item)
            else:
                self._overload(item, refusal)
        except Exception as exc:  # noqa: BLE001  what one record holds must not keep the rest from being answered
            self._refuse(item.record, item.lease, item.received_at, error_for(exc, item.record))

    def _begin(self, item: Waiting, leave: Leave) -> None:
        self.stats.queued.add(time.monotonic() - item.received_at)
        task = start(self._enrich(item), "a request", means="it is never answered")
        item.lease.work.add(task)
        task.add_done_callback(partial(self._ended, item.lease, leave))  # also of one cancelled before its first step

    def _ended(self, lease: Lease, leave: Leave, task: asyncio.Task[bool]) -> None:
        lease.work.discard(task)
        leave(not task.cancelled() and task.result())

    def _crowd_out(self, item: Waiting, error: Overloaded) -> None:
        """Refuse what may not wait, and tell the host's breaker."""
        if item.known is not None:
            try:
                self._enricher.overdue(item.known)
                self._overload(item, error)
            except Exception as exc:  # noqa: BLE001  as ever: an offset that never finishes holds up its partition
                self._refuse(item.record, item.lease, item.received_at, error_for(exc, item.record))
            return
        task = start(self._crowd_out_large(item, error), "a request", means="it is never answered")
        item.lease.work.add(task)
        task.add_done_callback(item.lease.work.discard)

    async def _crowd_out_large(self, item: Waiting, error: Overloaded) -> None:
        try:
            known = await self._known(item)
            self._enricher.overdue(known)
            self._overload(item._replace(known=known), error)
        except Exception as exc:  # noqa: BLE001  an offset that never finishes would hold up the partition for good
            self._refuse(item.record, item.lease, item.received_at, error_for(exc, item.record))

    def _overload(self, item: Waiting, error: AnswerError) -> None:
        """Answer what is not begun. Nothing of it is kept: the next request may find room."""
        record, lease = item.record, item.lease
        known = item.known
        assert known is not None
        shared = encode_answer(known.request, Answer.failed(error))
        cache = b"bypass" if known.key is None or known.max_age == 0 else b"miss"
        elapsed = time.monotonic() - item.received_at
        value = splice(item.request_id, shared, cache, None, elapsed)
        trace = None
        if self._spans is not None and record.headers:
            trace = self._spans.answered(record, item.request_id, elapsed, error.outcome, cache.decode())
        self._deliver(record, lease, item.request_id, value, error, known=known, trace=trace)
        self.stats.add(error.outcome, cache.decode(), elapsed)

    async def _enrich(self, item: Waiting) -> bool:
        """Answer a request; returns whether its host is one that answers."""
        record, lease, received_at, request_id, *_ = item
        try:
            logs.request_id.set(request_id[1:-1].decode())
            known = await self._known(item)
            traced = _UNTRACED if self._spans is None else self._spans.request(record, request_id)
            with kept_until_answered(), traced as span:
                enriched = await self._enricher.answer(known, forwarded_headers(record, known.request))
                outcome, cache = enriched.outcome, enriched.cache.decode()
                if span is not None:
                    span.ended(outcome, cache)
            age = None if enriched.as_of is None else max(0.0, time.time() - enriched.as_of)
            elapsed = time.monotonic() - received_at
            value = splice(request_id, enriched.shared, enriched.cache, age, elapsed)
            trace = None if span is None else span.headers
            self._deliver(record, lease, request_id, value, enriched.error, known=known, trace=trace)
            self.stats.add(outcome, cache, elapsed)
        except Exception as exc:  # noqa: BLE001  an offset that never finishes would hold up the partition for good
            self._refuse(record, lease, received_at, error_for(exc, record))
            return False
        return outcome not in (TimedOut.outcome, Overloaded.outcome)

    def _refuse(self, record: RequestRecord, lease: Lease, received_at: float, error: AnswerError) -> None:
        """Answer what is no request."""
        salvaged = salvage_id(record.value)
        if isinstance(record, Unreadable):
            record, error = record.sent(), unreadable_request(record)
        request_id = refused_id(record, salvaged)
        shared = encode_answer(None, Answer.failed(error))
        elapsed = time.monotonic() - received_at
        value = splice(request_id, shared, None, None, elapsed)
        trace = None
        if self._spans is not None:
            trace = self._spans.answered(record, request_id, elapsed, error.outcome, NO_CACHE)
        self._deliver(record, lease, request_id, value, error, trace=trace)
        self.stats.add(error.outcome, NO_CACHE, elapsed)

    def _deliver(
        self,
        record: RequestRecord,
        lease: Lease,
        request_id: bytes,
        value: bytes,
        error: AnswerError | None,
        *,
        known: ParsedRequest | None = None,
        trace: Headers | None = None,
    ) -> None:
        """Publish a result, after its dead letter if it needs one. `trace` goes with it instead of the request's."""
        if error is None:
            self._publish(record, lease, request_id, value, trace)
            return
        host = None if known is None else host_of(known.request.url)
        then = _PublishResultAfter(lease, partial(self._publish, record, lease, request_id, value, trace))
        letter = OutgoingRecord(
            then, record.offset, record.key, record.value,
            dead_letter_headers(record, self._group, request_id, error, host), shrink_dead_letter,
        )  # fmt: skip
        self._publisher.publish(self._dead_letters, record.partition, letter)

    def _publish(
        self, record: RequestRecord, lease: Lease, request_id: bytes, value: bytes, trace: Headers | None = None
    ) -> None:
        headers = self._headers(request_id, record.headers if trace is None else trace)
        parcel = OutgoingRecord(lease, record.offset, record.key, value, headers, shrink_result)
        self._publisher.publish(self._results, record.partition, parcel)


def error_for(exc: Exception, record: RequestRecord) -> AnswerError:
    """Return the error that a result will name: what a producer caused, or else a fault of ours, logged."""
    if isinstance(exc, InvalidRequest) and not exc.fields and (wrote := schema_by_header(record.headers)):
        return InvalidRequest(f"{exc}; {wrote}")
    if isinstance(exc, AnswerError):
        return exc
    logger.error("the request at %s-%d offset %d could not be answered", record.topic, record.partition, record.offset,
                 exc_info=exc)  # fmt: skip
    return InternalError(f"{type(exc).__name__}: {exc}")


class _PublishResultAfter:
    """The receipt of a dead letter: once it is acknowledged, the result follows."""

    __slots__ = ("_lease", "_publish")

    def __init__(self, lease: Lease, publish: Callable[[], None]) -> None:
        self._lease = lease
        self._publish = publish

    @property
    def alive(self) -> bool:
        return self._lease.alive

    def finish(self, offset: int) -> None:  # noqa: ARG002  the record knows its offset
        self._publish()
