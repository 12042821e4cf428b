"""Publishes what came of requests: a result for each, and before it a dead letter if the outcome is not `ok`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from aiokafka import ConsumerRecord

from agents.answer.headers import (
    ResultHeaders,
    dead_letter_headers,
    id_of,
    refused_id,
    shrink_dead_letter,
    shrink_result,
    too_large_result,
    unreadable_request,
)
from agents.answer.limiter import Waiting
from agents.answer.parsed_requests import ParsedRequest, salvage_context, salvage_id
from agents.answer.retry_later import Deferral, may_repeat
from agents.answer.stats import NO_CACHE, AnswerStats
from models.errors import AnswerError, TooLarge
from models.result import Answer, encode_answer, splice, with_context, with_retry_at
from models.retry_later import NEVER
from streams.config.settings import Settings
from streams.kafka.fetched import Unreadable
from streams.kafka.key_order import KeyOrder
from streams.kafka.lease import Lease
from streams.kafka.outgoing import DeliveryListener, Headers, OutgoingRecord, outgoing_record
from streams.kafka.publisher import Publisher
from streams.tasks import start

if TYPE_CHECKING:
    from agents.answer.tracing import RequestSpans

REFUSING = 0.001
"""Seconds in each turn of the event loop that go into refusing requests."""

LOOK_EVERY = 0.1
"""Seconds between looks at whether what waits for an acknowledgement is still this worker's."""

SMALL = 16 << 10
"""Bytes of key and value of results that are published together: of larger ones the backlog is looked at each time."""
ROOMY = 2 * SMALL
"""Bytes of a record that a topic has to take so that a small result with no headers but ours fits."""

RequestRecord: TypeAlias = ConsumerRecord[bytes, bytes]


class ResultPublisher:
    """Publishes results and dead letters, and counts them in `stats`; one for each worker."""

    def __init__(
        self, settings: Settings, publisher: Publisher, spans: RequestSpans | None = None, order: KeyOrder | None = None
    ) -> None:
        self._results = settings.results_topic
        self._dead_letters = settings.dead_letters_topic
        self._group = settings.group
        self._publisher = publisher
        self._spans = spans
        self._order = order
        self._take_back = self._publish_too_large if order is None else self._replace_too_large
        self._headers = ResultHeaders(f"/millrace/{settings.group}")
        self._carried = frozenset(settings.carry_headers)
        self.later = Deferral(settings.group, publisher)
        self._together = settings.exactly_once
        self.stats = AnswerStats()

    def refuse(self, item: Waiting, error: AnswerError) -> None:
        """Publish an error without beginning the request. It is not cached: the next request may find room."""
        known, cache = item.known, "miss"
        assert known is not None
        if known.key is None or known.max_age == 0:
            cache = "bypass"
        shared = encode_answer(known.request, Answer.failed(error))
        elapsed = time.monotonic() - item.received_at
        head = with_context(item.request_id, known.request.context)
        value = splice(head, shared, cache.encode(), None, elapsed)
        trace = self.trace(item.record, item.request_id, elapsed, error.outcome, cache)
        self.publish(item.record, item.lease, item.request_id, value, error, known=known, trace=trace)
        self.stats.add(error.outcome, cache, elapsed)

    def reject(self, record: RequestRecord, lease: Lease, received_at: float, error: AnswerError) -> None:
        """Publish the error of a record that is not a valid request, or whose answer failed by a fault of ours."""
        salvaged, context = salvage_id(record.value), salvage_context(record.value)
        if isinstance(record, Unreadable):
            record, error = record.sent(), unreadable_request(record)
        request_id = refused_id(record, salvaged)
        elapsed = time.monotonic() - received_at
        shared = encode_answer(None, Answer.failed(error))
        value = splice(with_context(request_id, context), shared, None, None, elapsed)
        trace = self.trace(record, request_id, elapsed, error.outcome, NO_CACHE)
        self.publish(record, lease, request_id, value, error, trace=trace)
        self.stats.add(error.outcome, NO_CACHE, elapsed)

    def trace(
        self, record: RequestRecord, request_id: bytes, elapsed: float, outcome: str, cache: str
    ) -> Headers | None:
        """Return the trace headers of a request that was answered without a task, None if it has no span."""
        if self._spans is None or not record.headers:
            return None
        return self._spans.answered(record, request_id, elapsed, outcome, cache)

    def publish(
        self,
        record: RequestRecord,
        lease: Lease,
        request_id: bytes,
        value: bytes,
        error: AnswerError | None,
        *,
        known: ParsedRequest | None = None,
        trace: Headers | None = None,
    ) -> AnswerError | None:
        """Publish a result, after its dead letter if there is an `error`; or, if its source has it tried again later,
        the request to a delay topic. `trace` replaces the request's headers.

        Returns the error that the result has: TooLarge for one whose key and headers make it more than its topic takes.
        """
        result = self._result(record, lease, request_id, value, known=known, trace=trace)
        if error is None:
            error = self._too_large(result)
        if error is None:
            self._publisher.publish(self._results, record.partition, result, fits=True)
            if self._order is not None:
                self._order.close(record, lease)
        else:
            if self._order is not None:
                self._order.open(record, lease)
            self._publish_failure(record, request_id, error, _untaken(result), known)
        return error

    def hit(
        self,
        record: RequestRecord,
        lease: Lease,
        request_id: bytes,
        value: bytes,
        *,
        known: ParsedRequest,
        trace: Headers | None,
    ) -> OutgoingRecord | None:
        """Return an `ok` result for `publish_hits`, None if it is not small, so that it has to go by `publish`."""
        if len(value) + len(record.key or b"") >= SMALL:
            return None
        result = self._result(record, lease, request_id, value, known=known, trace=trace)
        if not record.headers and self._publisher.limits[self._results] >= ROOMY:
            return result
        return None if self._publisher.may_exceed(self._results, record.key, value, result.headers) else result

    def publish_hits(self, results: list[OutgoingRecord]) -> None:
        """Publish the results that `hit` made for requests of one partition, and empty the list."""
        if results:
            self._publisher.publish_all(self._results, results[0].answered.partition, results)
            results.clear()

    def _result(
        self,
        record: RequestRecord,
        lease: Lease,
        request_id: bytes,
        value: bytes,
        *,
        known: ParsedRequest | None,
        trace: Headers | None,
    ) -> OutgoingRecord:
        headers = self._headers(request_id, record.headers if trace is None else trace)
        if self._carried and record.headers:
            headers += (header for header in record.headers if header[0] in self._carried)
        host = None if known is None else known.origin.host
        return outgoing_record(
            (
                lease,
                record.offset,
                record.key,
                value,
                headers,
                shrink_result,
                self._take_back,
                None,
                record,
                host,
            )
        )

    def _publish_failure(
        self, record: RequestRecord, request_id: bytes, error: AnswerError, result: OutgoingRecord,
        known: ParsedRequest | None,
    ) -> None:  # fmt: skip
        """Publish a dead letter and a result, or have the request tried again later."""
        source = None if known is None or self._order is not None else known.source  # its result would come too late
        policy = NEVER if source is None else source.later
        next_try = self.later.next_try(record, policy, error, again=may_repeat(known, error))
        name = None if known is None else known.request.source
        headers = dead_letter_headers(record, self._group, request_id, error, result.host, source=name)
        final = partial(self._publish_dead_letter, record, headers, result)
        if next_try is None:
            final()
            return
        listener = result.listener
        if policy.interim_results:
            interim = result._replace(value=with_retry_at(result.value or b"", next_try.due))
            listener = After(listener, partial(self._publisher.publish, self._results, record.partition, interim))
        self.later.publish(record, next_try, headers, listener, instead=final)

    def _publish_dead_letter(self, record: RequestRecord, headers: Headers, result: OutgoingRecord) -> None:
        """Publish a dead letter, and once it is acknowledged the result; in one transaction, both at once."""
        if self._together:
            self._send_dead_letter(record, headers, result.listener)
            self._publish_last(record, result)
            return
        self._send_dead_letter(record, headers, After(result.listener, partial(self._publish_last, record, result)))

    def _publish_last(self, record: RequestRecord, result: OutgoingRecord) -> None:
        """Publish a result whose dead letter is acknowledged, or goes in the same transaction."""
        self._publisher.publish(self._results, record.partition, result)
        if self._order is not None:
            self._order.close(record, cast("Lease", result.listener))

    def _send_dead_letter(self, record: RequestRecord, headers: Headers, listener: DeliveryListener) -> None:
        """Publish a dead letter alone; `listener` learns of the acknowledgement."""
        dead_letter = OutgoingRecord(listener, record.offset, record.key, record.value, headers, shrink_dead_letter)
        self._publisher.publish(self._dead_letters, record.partition, dead_letter)

    def _publish_too_large(self, refused: OutgoingRecord) -> None:
        """Publish what becomes of an `ok` result that Kafka refuses: its topic's limit was lowered meanwhile."""
        headers, result = self._too_large_instead(refused)
        self._publish_dead_letter(refused.answered, headers, result)

    async def _replace_too_large(self, refused: OutgoingRecord) -> OutgoingRecord:
        """Do the same in the order of keys: the result that follows the dead letter takes the place of the other."""
        headers, result = self._too_large_instead(refused)
        send = partial(self._send_dead_letter, refused.answered, headers)
        if self._together:
            send(refused.listener)
        else:
            await acknowledged(send, refused.listener)
        return result

    def _too_large_instead(self, refused: OutgoingRecord) -> tuple[Headers, OutgoingRecord]:
        """Return the headers of the dead letter, and the result, that take the place of a refused result."""
        error = too_large_result(refused.size())
        headers = dead_letter_headers(refused.answered, self._group, id_of(refused), error, refused.host)
        return headers, _untaken(shrink_result(refused) or refused)

    def _too_large(self, result: OutgoingRecord) -> TooLarge | None:
        if not self._publisher.may_exceed(self._results, result.key, result.value, result.headers):
            return None
        size = result.size()
        return too_large_result(size) if size > self._publisher.limits[self._results] else None


def _untaken(result: OutgoingRecord) -> OutgoingRecord:
    """Return a result that is made smaller if Kafka refuses it: the dead letter before it was published already."""
    return result._replace(take_back=None)


class After:
    """The listener of a record that comes before another, as a dead letter before its result: calls `then` once Kafka
    has acknowledged it.
    """

    __slots__ = ("_listener", "_then")

    def __init__(self, listener: DeliveryListener, then: Callable[[], None]) -> None:
        self._listener = listener
        self._then = then

    @property
    def alive(self) -> bool:
        """Whether what follows still matters."""
        return self._listener.alive

    def finish(self, offset: int) -> None:  # noqa: ARG002  the record knows its offset
        """Call what follows."""
        self._then()

    def finish_all(self, offsets: Sequence[int]) -> None:
        """Do the same: there is one record."""
        self.finish(offsets[0])


async def acknowledged(publish: Callable[[DeliveryListener], None], listener: DeliveryListener) -> None:
    """Publish something with a listener, and wait until Kafka has acknowledged it, or the given one is not alive."""
    arrived = asyncio.Event()
    publish(After(listener, arrived.set))
    while listener.alive and not arrived.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(arrived.wait(), LOOK_EVERY)


class RefusalQueue:
    """Requests to refuse, a few in each turn of the event loop: 20,000 at once would hold up hits for a second."""

    def __init__(self, publisher: Publisher, refuse: Callable[[Waiting, AnswerError], None]) -> None:
        self._publisher = publisher
        self._refuse = refuse
        self._items: deque[tuple[Waiting, AnswerError]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: Waiting, error: AnswerError) -> None:
        """Refuse a request soon, in the order of calls."""
        self._items.append((item, error))
        if self._task is None:
            self._task = start(self._run(), "refusing requests", means="they are never answered")

    async def _run(self) -> None:
        while self._items:
            if self._publisher.congested:
                await self._publisher.pace()
            end = time.monotonic() + REFUSING
            while self._items:
                item, error = self._items.popleft()
                if item.lease.taking:
                    self._refuse(item, error)
                else:
                    item.lease.wait(item.record.offset)  # a drain must not wait for it; the next owner answers it
                if time.monotonic() >= end:
                    break
            await asyncio.sleep(0)
        self._task = None
