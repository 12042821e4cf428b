"""Publishes what came of a route's records: the output, or a dead letter in its stead. Nothing goes without either."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from aiokafka import ConsumerRecord
from aiokafka.partitioner import murmur2

from agents.answer.headers import dead_letter_headers, default_id, read_id, shrink_dead_letter
from agents.routes.lookups import Found, Results
from agents.routes.record import CHECKS, MISSING, headers_of, merged
from agents.routes.value import NULL, Value
from models.dead_letter import LOOKUP, ROUTE
from models.errors import AnswerError, InvalidRequest, TooLarge
from models.expression import Path
from models.result import Answer, encode_answer, splice
from models.route import Route
from streams.config.settings import Settings
from streams.kafka.fetched import Unreadable
from streams.kafka.lease import Lease
from streams.kafka.outgoing import DeliveryListener, Headers, OutgoingRecord
from streams.kafka.publisher import Publisher

Record: TypeAlias = ConsumerRecord[bytes, bytes]


class Outputs:
    """The results and dead letters of one route. `partitions` are those of its topics, by name."""

    def __init__(self, route: Route, settings: Settings, publisher: Publisher, partitions: Mapping[str, int]) -> None:
        self._route = route
        self._group = settings.group
        self._failures = route.failures or settings.dead_letters_topic
        self._publisher = publisher
        self._partitions = partitions

    def pass_on(self, record: Record, lease: Lease) -> None:
        """Publish a record as it is."""
        self._publish(record, lease, record.value, headers_of(record, [], json=False))

    def finish(self, record: Record, lease: Lease, results: Results, scope: Mapping[str, Any], began: float) -> str:
        """Publish what came of a record; returns its outcome. `began` is in monotonic seconds."""
        for lookup in self._route.lookups:
            found = results.get(lookup.name)
            if found is not None and found.error is not None and lookup.required:
                if self._route.output == "result":
                    self._publish_result(record, lease, found, began)
                else:
                    self.fail(record, lease, found.error, lookup.name, host=found.host)
                return found.error.outcome
        try:
            self._publish_output(record, lease, results, scope, began)
        except AnswerError as error:
            self.fail(record, lease, error)
            return error.outcome
        return "ok"

    def fail(
        self,
        record: Record,
        lease: Lease,
        error: AnswerError,
        lookup: str | None = None,
        *,
        host: str | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Publish a dead letter; the record is finished once Kafka has it, and `then` was acknowledged, if any."""
        if isinstance(record, Unreadable):
            record = record.sent()
        headers = dead_letter_headers(record, self._group, _id_of(record), error, host)
        headers.append((ROUTE, self._route.name.encode()))
        if lookup is not None:
            headers.append((LOOKUP, lookup.encode()))
        listener: DeliveryListener = lease if then is None else _After(lease, then)
        letter = OutgoingRecord(listener, record.offset, record.key, record.value, headers, shrink_dead_letter)
        self._publisher.publish(self._failures, record.partition, letter)

    def _publish_output(
        self, record: Record, lease: Lease, results: Results, scope: Mapping[str, Any], began: float
    ) -> None:
        notes: Headers = []
        places: list[tuple[Path, Value]] = []
        for lookup in self._route.lookups:
            found = results[lookup.name]
            if found.error is not None:
                notes.append((MISSING, f"{lookup.name}: {found.error.outcome}".encode()))
                continue
            if lookup.into is not None:
                places.append((lookup.into, found.value))
            if found.checks is not NULL:
                if lookup.checks_into is not None:
                    places.append((lookup.checks_into, found.checks))
                else:
                    notes.append((CHECKS, b"%b: %b" % (lookup.name.encode(), found.checks.text)))
        if self._route.output == "result":
            self._publish_result(record, lease, results[self._route.lookups[0].name], began)
        elif self._route.output == "document":
            [found] = results.values()
            self._publish(record, lease, found.value.text, headers_of(record, notes, json=True))
        elif places:
            value = merged(self._route, record.value, scope["value"], places)
            self._publish(record, lease, value, headers_of(record, notes, json=True))
        else:
            self._publish(record, lease, record.value, headers_of(record, notes, json=False))

    def _publish_result(self, record: Record, lease: Lease, found: Found, began: float) -> None:
        """Publish Millrace's result of a record's one lookup, after its dead letter if it has an error."""
        elapsed, answer = time.monotonic() - began, found.answer
        if answer is None:
            assert found.error is not None
            value = splice(_id_of(record), encode_answer(None, Answer.failed(found.error)), None, None, elapsed)
        else:
            age = None if answer.as_of is None else max(0.0, time.time() - answer.as_of)
            value = splice(_id_of(record), answer.shared, answer.cache, age, elapsed)
        headers = headers_of(record, [], json=True)
        publish = partial(self._publish, record, lease, value, headers)
        if found.error is None:
            publish()
        else:
            name = self._route.lookups[0].name
            self.fail(record, lease, found.error, name, host=found.host, then=publish)

    def _publish(self, record: Record, lease: Lease, value: bytes | None, headers: Headers) -> None:
        """Publish an output, or its dead letter if the topic does not take it."""
        timestamp = record.timestamp if self._route.timestamp == "record" else None
        output = OutgoingRecord(lease, record.offset, record.key, value, headers, _never, timestamp)
        topic = self._route.results
        if self._publisher.may_exceed(topic, record.key, value, headers):
            size, most = output.size(), self._publisher.limits[topic]
            if size > most:
                msg = f"route {self._route.name}: the output has {size} bytes; the topic {topic} takes {most}"
                self.fail(record, lease, TooLarge(msg))
                return
        self._publisher.publish(topic, self._partition(record), output, fits=True)

    def _partition(self, record: Record) -> int:
        """Return the partition of an output: the record's own where the topics have as many, else its key's, as a
        producer would choose it.
        """
        count = self._partitions[self._route.results]
        if record.key is None or self._partitions.get(record.topic) == count:
            return record.partition
        hashed: int = murmur2(record.key) & 0x7FFFFFFF  # as Kafka's own producers do
        return hashed % count


class _After:
    """The listener of a dead letter: publishes a result once Kafka has acknowledged the letter."""

    __slots__ = ("_lease", "_then")

    def __init__(self, lease: Lease, then: Callable[[], None]) -> None:
        self._lease = lease
        self._then = then

    @property
    def alive(self) -> bool:
        return self._lease.alive

    def finish(self, offset: int) -> None:  # noqa: ARG002  the record knows its offset
        self._then()


def _never(_: OutgoingRecord) -> None:
    """An output cannot be made smaller: it was measured before."""


def _id_of(record: Record) -> bytes:
    """Return a record's id as JSON: its CloudEvents id if that can be one, else its place."""
    try:
        return read_id(record, None) if record.headers else default_id(record)
    except InvalidRequest:
        return default_id(record)
