"""The agent: requests → results, and dead letters for outcomes other than `ok`.

It answers hits at once, without a coroutine, future or task. A miss becomes a task as soon as the limiter allows it;
records behind it do not wait. An offset is finished when Kafka has acknowledged its result, and before that its dead
letter if there is one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from agents.answer.enrich import Enricher
from agents.answer.headers import forwarded_headers, read_id, with_trace
from agents.answer.limiter import InFlightLimiter, Leave, Waiting
from agents.answer.parsed_requests import LargeRequest, ParsedRequest, ParsedRequestCache
from agents.answer.publish import RefusalQueue, RequestRecord, ResultPublisher
from models.errors import AnswerError, InternalError, InvalidRequest, Overloaded, TimedOut
from models.framing import schema_by_header
from models.result import splice, with_context
from models.source import Sources
from streams.cache.entry import Entry
from streams.config.settings import Settings
from streams.http.bodies import kept_until_answered
from streams.http.limits import Bulkhead
from streams.kafka.batch import RecordBatch
from streams.kafka.key_order import KEY, KeyOrder
from streams.kafka.lease import Lease
from streams.kafka.outgoing import OutgoingRecord
from streams.kafka.publisher import Publisher
from streams.pool import LargeWork
from streams.pool.costs import Admission
from streams.tasks import start
from streams.telemetry import logs

if TYPE_CHECKING:
    from agents.answer.tracing import RequestSpans

logger = logging.getLogger(__name__)

TURN = 0.005
"""Seconds of work on a batch after which other tasks get their turn."""


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
        shared: Mapping[str, Bulkhead] | None = None,
    ) -> None:
        self._enricher = enricher
        self._publisher = publisher
        self._parsed_requests = ParsedRequestCache(sources, large)
        self._order = KeyOrder(self.answer) if settings.order == KEY else None
        self._out = ResultPublisher(settings, publisher, spans, self._order)
        self._refusals = RefusalQueue(publisher, self._refuse)
        hosts = sources.hosts if sources is not None else None
        self.places = InFlightLimiter(
            settings, self._begin, self._crowd_out, admission=admission, hosts=hosts, shared=shared
        )
        self.stats = self._out.stats
        self.later = self._out.later
        self._spans = spans

    async def answer(self, batch: RecordBatch) -> None:
        """Answer a batch. Returns when all of it is answered or in progress, or its lease takes no more work."""
        hits: list[float] = []
        try:
            await self._answer_batch(batch, hits)
            if self._refusals:
                await asyncio.sleep(0)
        finally:
            self.stats.count_hits(hits)

    async def _answer_batch(self, batch: RecordBatch, hits: list[float]) -> None:
        records, number = batch.records, 0
        while number < len(records):
            if self._publisher.congested:
                await self._publisher.pace()
            if not batch.lease.taking:
                return
            number = self._answer_turn(batch, number, hits)
            if number < len(records):
                if self._parsed_requests.is_large(records[number].value):
                    await self._take_large(records[number], batch)
                    number += 1
                else:
                    await asyncio.sleep(0)
        await self._publisher.pace()

    def _answer_turn(self, batch: RecordBatch, number: int, hits: list[float]) -> int:
        """Answer records from this number on, as many as fit into a turn, up to a large one; returns the next number.

        Nothing else runs meanwhile, so the results of hits are published together.
        """
        _, lease, received_at = batch
        holds = None if self._order is None else self._order.holds
        parse, peek = self._parsed_requests.parse, self._enricher.peek
        results: list[OutgoingRecord] = []
        now, clock = time.time(), time.monotonic()
        end = clock + TURN
        for record in islice(batch.records, number, None):
            if holds is not None and holds(record, lease, received_at):
                number += 1
                continue
            lease.begun += 1
            try:
                body_id, known = parse(record.value)
                if known.request.trace:
                    record = with_trace(record, known.request)  # noqa: PLW2901  the same, for whatever becomes of it
                request_id = read_id(record, body_id) if record.headers or body_id is None else body_id
                entry, clock = peek(known, now), time.monotonic()
                if entry is None:
                    self._start(Waiting(record, lease, received_at, request_id, known))
                else:
                    age, elapsed = max(0.0, now - entry.as_of), clock - received_at
                    if self._hit(record, lease, request_id, known, entry, results=results, age=age, elapsed=elapsed):
                        hits.append(elapsed)
                    elif self._publisher.congested:
                        end = clock
            except LargeRequest:
                lease.begun -= 1
                break
            except Exception as exc:  # noqa: BLE001  what one record holds must not keep the rest from being answered
                self._out.publish_hits(results)
                self._out.reject(record, lease, received_at, error_for(exc, record))
                clock = time.monotonic()
            number += 1
            if clock >= end:
                break
        self._out.publish_hits(results)
        return number

    def _hit(
        self, record: RequestRecord, lease: Lease, request_id: bytes, known: ParsedRequest, entry: Entry, *,
        results: list[OutgoingRecord], age: float, elapsed: float,
    ) -> bool:  # fmt: skip
        """Add the result of a hit to others. False: it is published already, as it is large or has a dead letter."""
        context, error = known.request.context, entry.error
        head = request_id if context is None else with_context(request_id, context)
        value = splice(head, entry.shared, b"hit", age, elapsed)
        trace = None
        if self._spans is not None:
            trace = self._out.trace(record, request_id, elapsed, "ok" if error is None else error.outcome, "hit")
        result = None if error else self._out.hit(record, lease, request_id, value, known=known, trace=trace)
        if result is not None:
            results.append(result)
            return True
        self._out.publish_hits(results)  # they come before it
        error = self._out.publish(record, lease, request_id, value, error, known=known, trace=trace)
        self.stats.add("ok" if error is None else error.outcome, "hit", elapsed)
        return False

    async def _take_large(self, record: RequestRecord, batch: RecordBatch) -> None:
        """Take a large request, which another process parses."""
        if self._order is not None:
            if self._order.holds(record, batch.lease, batch.received_at):
                return
            self._order.open(record, batch.lease)
        batch.lease.begun += 1
        try:
            body_id, known = await self._parsed_requests.read_large(record.value or b"")
            record = with_trace(record, known.request)
            item = Waiting(record, batch.lease, batch.received_at, read_id(record, body_id), known)
        except Exception as exc:  # noqa: BLE001  as for any other
            self._out.reject(record, batch.lease, batch.received_at, error_for(exc, record))
        else:
            self._start(item)

    async def _known(self, item: Waiting) -> ParsedRequest:
        """Return an item's request, parsed again if it was too large to be kept."""
        if item.known is not None:
            return item.known
        try:
            return self._parsed_requests.parse(item.record.value)[1]
        except LargeRequest:
            return (await self._parsed_requests.read_large(item.record.value or b""))[1]

    def _start(self, item: Waiting) -> None:
        """Begin a cache miss, let it wait, or refuse it."""
        if self._order is not None:
            self._order.open(item.record, item.lease)
        try:
            assert item.known is not None
            refusal = self._enricher.refusal(item.known)
            if refusal is None:
                self.places.enter(item)
            else:
                self._refusals.add(item, refusal)
        except Exception as exc:  # noqa: BLE001  what one record holds must not keep the rest from being answered
            self._out.reject(item.record, item.lease, item.received_at, error_for(exc, item.record))

    def _begin(self, item: Waiting, leave: Leave) -> None:
        self.stats.queued.add(time.monotonic() - item.received_at)
        ended = partial(self._ended, item.lease, leave)  # also if it is cancelled before its first step
        item.lease.work.add(start(self._enrich(item), "a request", means="it is never answered", then=ended))

    def _ended(self, lease: Lease, leave: Leave, task: asyncio.Task[bool]) -> None:
        lease.work.discard(task)
        leave(not task.cancelled() and task.result())

    def _crowd_out(self, item: Waiting, error: Overloaded) -> None:
        """Refuse a request that may not wait for its host."""
        if item.known is not None:
            self._refusals.add(item, error)
            return
        task = start(self._crowd_out_large(item, error), "a request", means="it is never answered")
        item.lease.work.add(task)
        task.add_done_callback(item.lease.work.discard)

    async def _crowd_out_large(self, item: Waiting, error: Overloaded) -> None:
        try:
            self._refusals.add(item._replace(known=await self._known(item)), error)
        except Exception as exc:  # noqa: BLE001  an offset that never finishes would hold up the partition for good
            self._out.reject(item.record, item.lease, item.received_at, error_for(exc, item.record))

    def _refuse(self, item: Waiting, error: AnswerError) -> None:
        try:
            assert item.known is not None
            self._enricher.overdue(item.known)
            self._out.refuse(item, error)
        except Exception as exc:  # noqa: BLE001  an offset that never finishes would hold up the partition for good
            self._out.reject(item.record, item.lease, item.received_at, error_for(exc, item.record))

    async def _enrich(self, item: Waiting) -> bool:
        """Answer a request; returns whether its host responded in time."""
        record, lease, received_at, request_id, known, _, _ = item
        try:
            logs.request_id.set(request_id[1:-1].decode())
            if known is None:
                known = await self._known(item)
            extra = forwarded_headers(record, known.request)
            trace = None
            with kept_until_answered():
                if self._spans is None:
                    enriched = await self._enricher.answer(known, extra)
                else:
                    with self._spans.request(record, request_id) as span:
                        enriched = await self._enricher.answer(known, extra)
                        span.ended(enriched.outcome, enriched.cache.decode())
                    trace = span.headers
            age = None if enriched.as_of is None else max(0.0, time.time() - enriched.as_of)
            elapsed = time.monotonic() - received_at
            head = with_context(request_id, known.request.context)
            value = splice(head, enriched.shared, enriched.cache, age, elapsed)
            outcome = enriched.outcome
            error = self._out.publish(record, lease, request_id, value, enriched.error, known=known, trace=trace)
            self.stats.add(outcome if error is None else error.outcome, enriched.cache.decode(), elapsed)
        except Exception as exc:  # noqa: BLE001  an offset that never finishes would hold up the partition for good
            self._out.reject(record, lease, received_at, error_for(exc, record))
            return False
        return outcome not in (TimedOut.outcome, Overloaded.outcome)


def error_for(exc: Exception, record: RequestRecord) -> AnswerError:
    """Return the error of a result; a fault of ours is logged."""
    if isinstance(exc, InvalidRequest) and not exc.fields and (wrote := schema_by_header(record.headers)):
        return InvalidRequest(f"{exc}; {wrote}")
    if isinstance(exc, AnswerError):
        return exc
    logger.error("the request at %s-%d offset %d could not be answered, by a fault of the worker",
                 record.topic, record.partition, record.offset, exc_info=exc)  # fmt: skip
    return InternalError(f"{type(exc).__name__}: {exc}")
