"""Publishes what failed, and may succeed later, to a delay topic instead of the dead letters."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from aiokafka import ConsumerRecord

from agents.answer.parsed_requests import ParsedRequest
from models.errors import AnswerError, Overloaded
from models.retry_later import RetryLater, delay_topic, later_headers, next_delay
from streams.http.retry import repeatable
from streams.kafka.outgoing import DeliveryListener, Headers, OutgoingRecord
from streams.kafka.publisher import Publisher


class NextTry(NamedTuple):
    """The delay topic where a record waits, and until when: in seconds since the epoch."""

    topic: str
    due: float


class Deferral:
    """Publishes to the delay topics of a worker's `group`. `deferred` counts by topic what it published there,
    `exhausted` what failed at its last try.

    A publisher that knows no delay topic, as in a plugin's tests, has nothing deferred.
    """

    def __init__(self, group: str, publisher: Publisher) -> None:
        self._group = group
        self._publisher = publisher
        self.deferred: Counter[str] = Counter()
        self.exhausted = 0

    def next_try(
        self, record: ConsumerRecord[bytes, bytes], policy: RetryLater, error: AnswerError, *, again: bool
    ) -> NextTry | None:
        """Return when a record that failed is tried again; None if it becomes a dead letter now. `again` is whether all
        that was sent for it may be sent again.

        A tombstone never waits: a delay topic could not tell it from a value that was left out.
        """
        if not (policy.delays and error.retryable and again) or record.value is None:
            return None
        delay = next_delay(policy, record.headers)
        if delay is None:
            self.exhausted += 1
            return None
        topic = delay_topic(self._group, delay)
        return NextTry(topic, time.time() + delay) if topic in self._publisher.limits else None

    def publish(
        self, record: ConsumerRecord[bytes, bytes], next_try: NextTry, headers: Headers, listener: DeliveryListener,
        *, instead: Callable[[], None],
    ) -> None:  # fmt: skip
        """Publish a record to its delay topic, with a dead letter's `headers`. `listener` learns of the
        acknowledgement; a record that the topic does not take, because it is too large there, goes `instead`.
        """
        headers = [*headers, *later_headers(record.headers, time.time(), next_try.due)]
        outgoing = OutgoingRecord(
            listener, record.offset, record.key, record.value, headers, _keep, lambda _: instead()
        )
        if outgoing.size() > self._publisher.limits[next_try.topic]:
            instead()
            return
        self.deferred[next_try.topic] += 1
        self._publisher.publish(next_try.topic, record.partition, outgoing, fits=True)


def may_repeat(known: ParsedRequest | None, error: AnswerError | None) -> bool:
    """Whether a request that failed, or not, may be sent again, as within its deadline: one that may have changed
    something was not sent, or may be repeated.
    """
    if known is None or repeatable(known.request.method, known.request.headers):
        return True
    if known.source is not None and known.source.retry.unsafe:
        return True
    return error is not None and (error.unsent or (isinstance(error, Overloaded) and not error.attempts))


def _keep(_: OutgoingRecord) -> None:
    """A record that is to be tried again is not made smaller."""
