"""Publishes what came of a route's records: the output, or a dead letter in its stead. Nothing goes without either."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from aiokafka import ConsumerRecord
from aiokafka.partitioner import murmur2

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.headers import dead_letter_headers, first_place, read_id, shrink_dead_letter, shrink_result
from agents.answer.publish import After, acknowledged
from agents.answer.retry_later import Deferral
from agents.routes.formats import UNKNOWN, Formats
from agents.routes.large import LargeValue, Merging
from agents.routes.lookups import Found, Results
from agents.routes.record import CHECKS, MISSING, headers_of, merged, spliced
from agents.routes.value import NULL, Value
from agents.routes.waits import Waits
from models import strictjson
from models.dead_letter import LOOKUP, ROUTE
from models.errors import AnswerError, InvalidRequest, TooLarge
from models.expression import Path
from models.result import Answer, encode_answer, splice, with_retry_at
from models.retry_later import NEVER, RetryLater
from models.route import REGISTERED, Route
from streams.config.settings import Settings
from streams.kafka.fetched import Unreadable
from streams.kafka.key_order import KeyOrder
from streams.kafka.lease import Lease
from streams.kafka.outgoing import DeliveryListener, Headers, OutgoingRecord, outgoing_record
from streams.kafka.publisher import Publisher

Record: TypeAlias = ConsumerRecord[bytes, bytes]


PASSED = "passed"
"""What is counted for a record that is passed on without answers."""


class _Made(NamedTuple):
    """An output: `text`, or a `value` that has to be written; `kept`: the record's own bytes."""

    value: Any
    notes: Headers
    text: bytes | None = None
    kept: bool = False


class Outputs:
    """The results and dead letters of one route. `partitions` are those of its topics, by name. A topic of results that
    is `compacted` takes no record without a key. `order` is set for a route that keeps the order of its keys.
    """

    def __init__(
        self, route: Route, settings: Settings, publisher: Publisher, partitions: Mapping[str, int], formats: Formats,
        *, compacted: bool = False,
    ) -> None:  # fmt: skip
        self.route = route
        self._group = route.group(settings.group)
        self.failures = route.failures or settings.dead_letters_topic
        self._publisher = publisher
        self._partitions = partitions
        self._formats = formats
        self._compacted = compacted
        self.later = Deferral(settings.group, publisher)
        self.order: KeyOrder | None = None
        self._together = settings.exactly_once

    def pass_on(self, record: Record, lease: Lease, scope: Mapping[str, Any] | None, began: float) -> str | None:
        """Publish a record without answers, as `finish` does; `scope` is None for a tombstone."""
        if scope is None or record.value is None or not self.route.writes_anew:
            self._publish(record, lease, record.value, headers_of(record, [], None), began)
            return PASSED
        return PASSED if self._write(record, lease, _Made(scope["value"], []), began) else None

    def finish(
        self, record: Record, lease: Lease, results: Results, scope: Mapping[str, Any], began: float
    ) -> str | None:
        """Publish what came of a record; returns its outcome, None if it has to wait for the registry: `finish_later`.

        `began` is in monotonic seconds.
        """
        for lookup in self.route.lookups:
            found = results.get(lookup.name)
            if found is not None and found.error is not None and lookup.required:
                self.fail(record, lease, found.error, began, lookup=lookup.name, found=found, results=results)
                return found.error.outcome
        try:
            done = self._write(record, lease, self._made(record, results, scope, began), began)
        except AnswerError as error:
            self.fail(record, lease, error, began, results=results)
            return error.outcome
        return "ok" if done else None

    async def finish_later(
        self,
        record: Record,
        lease: Lease,
        results: Results | None,
        scope: Mapping[str, Any],
        began: float,
        *,
        waits: Waits,
    ) -> str:
        """Do the same once the registry has answered; without results for a record that is passed on."""
        try:
            made = _Made(scope["value"], []) if results is None else self._made(record, results, scope, began)
            value = await self._formats.write_later(made.value, waits)
            self._publish(record, lease, value, headers_of(record, made.notes, self.route.results_format), began)
        except AnswerError as error:
            self.fail(record, lease, error, began, results=results)
            return error.outcome
        return PASSED if results is None else "ok"

    def fail(
        self,
        record: Record,
        lease: Lease,
        error: AnswerError,
        began: float,
        *,
        lookup: str | None = None,
        found: Found | None = None,
        results: Results | None = None,
    ) -> None:
        """Publish a dead letter, and then the result if the route publishes results; both finish the record. Or, if
        route or source have it tried again later, and none of its `results` forbids that, publish it to a delay topic.
        """
        if isinstance(record, Unreadable):
            record = record.sent()
        if self.order is not None:
            self.order.open(record, lease)
        headers = self._letter_headers(record, error, found, lookup)
        result = self._failed(record, lease, error, began, found)
        policy = self._later_of(found)
        again = all(each.again for each in (results or {}).values())
        next_try = self.later.next_try(record, policy, error, again=again)
        final = partial(self._publish_failure, record, lease, headers, result)
        if next_try is None:
            final()
            return
        interim = None
        if result is not None and policy.interim_results:
            interim = result._replace(value=with_retry_at(result.value or b"", next_try.due))
        self.later.publish(record, next_try, headers, self._before(record, lease, interim), instead=final)

    def _letter_headers(self, record: Record, error: AnswerError, found: Found | None, lookup: str | None) -> Headers:
        known = None if found is None else found.known
        host, source = (None, None) if known is None else (known.origin.host, known.request.source)
        headers = dead_letter_headers(record, self._group, _id_of(record), error, host, source=source)
        headers.append((ROUTE, self.route.name.encode()))
        if lookup is not None:
            headers.append((LOOKUP, lookup.encode()))
        return headers

    def _publish_failure(self, record: Record, lease: Lease, headers: Headers, result: OutgoingRecord | None) -> None:
        """Publish a dead letter and a result, if there is one."""
        self._publish_letter(record, headers, self._before(record, lease, result))

    def _publish_letter(self, record: Record, headers: Headers, listener: DeliveryListener) -> None:
        letter = OutgoingRecord(listener, record.offset, record.key, record.value, headers, shrink_dead_letter)
        self._publisher.publish(self.failures, record.partition, letter)

    def _failed(
        self, record: Record, lease: Lease, error: AnswerError, began: float, found: Found | None
    ) -> OutgoingRecord | None:
        """Return the result of a record that failed, None if the route publishes none."""
        if self.route.output != "result" or (self._compacted and record.key is None):
            return None
        answer = None if found is None else found.answer
        shared = encode_answer(None, Answer.failed(error)) if answer is None else answer.shared
        value = _result(record, shared, answer, began)
        return OutgoingRecord(lease, record.offset, record.key, value, headers_of(record, [], "json"), shrink_result)

    def _before(self, record: Record, lease: Lease, result: OutgoingRecord | None) -> DeliveryListener:
        """Return the listener of what is published before a result, or alone."""
        if result is None and self.order is None:
            return lease
        if self._together:  # one transaction has both
            if result is not None:
                self._publisher.publish(self.route.results, self._partition(record), result)
            if self.order is not None:
                self.order.close(record, lease)
            return lease
        return After(lease, partial(self._end, record, lease, result))

    def _end(self, record: Record, lease: Lease, result: OutgoingRecord | None) -> None:
        """Publish the result of a record that failed; without one the record is finished."""
        if result is None:
            lease.finish(record.offset)
        else:
            self._publisher.publish(self.route.results, self._partition(record), result)
        if self.order is not None:
            self.order.close(record, lease)

    def _later_of(self, found: Found | None) -> RetryLater:
        """Return when failed records are tried again: as the route says, else as the source that failed says; never in
        the order of keys, since the output would come too late.
        """
        if self.order is not None:
            return NEVER
        source = None if found is None or found.known is None else found.known.source
        return self.route.later if self.route.later.delays or source is None else source.later

    def shown(self, record: Record, results: Results, scope: Mapping[str, Any]) -> bytes | None:
        """Return an output as its own text, or as JSON where a registry writes it; None where another process made it.

        Raises AnswerError.
        """
        made = self._made(record, results, scope, time.monotonic())
        own: bytes | None = record.value
        if isinstance(made.value, Merging | LargeValue):
            return None if isinstance(made.value, Merging) else made.value.text
        if made.kept:
            return own
        return strictjson.dumps(made.value, exact=True) if made.text is None else made.text

    def _made(self, record: Record, results: Results, scope: Mapping[str, Any], began: float) -> _Made:
        """Return an output: bytes, or a value to write. Raises AnswerError."""
        route = self.route
        notes: Headers = []
        places: list[tuple[Path, Value]] = []
        for lookup in route.lookups:
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
        text = route.results_format not in REGISTERED
        if route.output == "result":
            [found] = results.values()
            assert found.answer is not None
            return _Made(None, [], _result(record, found.answer.shared, found.answer, began))
        if route.output == "document":
            [found] = results.values()
            return _Made(None, notes, found.value.text) if text else _Made(found.value.loaded, notes)
        if not places and (record.value is None or not route.writes_anew):  # a tombstone stays one
            return _Made(None, notes, kept=True)
        value = scope["value"]
        json = value.text if isinstance(value, LargeValue) else record.value if route.format == "json" else None
        if text and places and (own := spliced(json, value, places)) is not None:
            return _Made(None, notes, own)
        return _Made(self._merged(record, value, places, as_text=text), notes)

    def _merged(self, record: Record, value: Any, places: Sequence[tuple[Path, Value]], *, as_text: bool) -> Any:
        if isinstance(value, LargeValue):
            return Merging(value, places) if places else value
        return merged(self.route, self._formats.exact(record, value), places, as_text=as_text)

    def _write(self, record: Record, lease: Lease, made: _Made, began: float) -> bool:
        """Publish an output; returns False if the registry has to answer first. Raises InvalidDocument."""
        if made.kept:
            self._publish(record, lease, record.value, headers_of(record, made.notes, None), began)
            return True
        data = self._formats.write(made.value) if made.text is None else made.text
        if data is UNKNOWN:
            return False
        self._publish(record, lease, data, headers_of(record, made.notes, self.route.results_format), began)
        return True

    def _publish(self, record: Record, lease: Lease, value: bytes | None, headers: Headers, began: float) -> None:
        """Publish an output, or its dead letter if Kafka refuses it. Raises AnswerError if it is known to do so."""
        if record.key is None and self._compacted:
            msg = f"route {self.route.name}: the record has no key, and the topic {self.route.results} is compacted"
            raise InvalidRequest(msg)
        timestamp = record.timestamp if self.route.timestamp == "record" and record.timestamp >= 0 else None
        about = record, lease, began
        take_back = self._refuse if self.order is None else self._replace
        output = outgoing_record((
            lease, record.offset, record.key, value, headers, _keep, take_back, timestamp, about, None
        ))  # fmt: skip
        topic = self.route.results
        may_exceed = self._publisher.may_exceed(topic, record.key, value, headers)
        if may_exceed and output.size() > self._publisher.limits[topic]:
            raise self._too_large(output)
        self._publisher.publish(topic, self._partition(record), output, fits=True)
        if self.order is not None:
            self.order.close(record, lease)

    def _too_large(self, output: OutgoingRecord) -> TooLarge:
        topic = self.route.results
        return TooLarge(
            f"route {self.route.name}: the output has {output.size()} bytes, more than the topic {topic} takes"
        )

    def _refuse(self, output: OutgoingRecord) -> None:
        """Publish the dead letter of a record whose output Kafka refuses."""
        record, lease, began = output.answered
        self.fail(record, lease, self._refusal(output), began)

    async def _replace(self, output: OutgoingRecord) -> OutgoingRecord | None:
        """Do the same in the order of keys: the result, if any, takes the place of the output."""
        record, lease, began = output.answered
        error = self._refusal(output)
        publish = partial(self._publish_letter, record, self._letter_headers(record, error, None, None))
        if self._together:
            publish(lease)
        else:
            await acknowledged(publish, lease)
        result = self._failed(record, lease, error, began, None)
        if result is None and not self._together:
            lease.finish(record.offset)
        return result

    def _refusal(self, output: OutgoingRecord) -> AnswerError:
        """Return why Kafka refuses an output."""
        record, topic = output.answered[0], self.route.results
        if output.size() > self._publisher.limits[topic]:
            return self._too_large(output)
        return InvalidRequest(f"route {self.route.name}: the topic {topic} does not take the record's timestamp, "
                              f"{record.timestamp}: see its message.timestamp.*.max.ms")  # fmt: skip

    def _partition(self, record: Record) -> int:
        """Return the partition of an output: the record's own where the topics have as many, else its key's, as a
        producer would choose it.
        """
        own: int = record.partition
        count = self._partitions[self.route.results]
        same = self._partitions.get(record.topic) == count
        return own if same or record.key is None else partition_of(record.key, count)


def partition_of(key: bytes, count: int) -> int:
    """Return the partition in which Kafka's producers put a key."""
    return int(murmur2(key) & 0x7FFFFFFF) % count


def _keep(_: OutgoingRecord) -> None:
    """An output is not made smaller: what Kafka refuses becomes a dead letter."""


def _result(record: Record, shared: bytes, answer: EncodedAnswer | None, began: float) -> bytes:
    """Return Millrace's result of a record."""
    elapsed = time.monotonic() - began
    if answer is None:
        return splice(_id_of(record), shared, None, None, elapsed)
    age = None if answer.as_of is None else max(0.0, time.time() - answer.as_of)
    return splice(_id_of(record), shared, answer.cache, age, elapsed)


def _id_of(record: Record) -> bytes:
    """Return a record's id as JSON: its CloudEvents id if that can be one, else the place of its first delivery."""
    try:
        if any(name == "ce_id" for name, _ in record.headers):
            return read_id(record, None)
    except InvalidRequest:
        pass
    return b'"%b"' % first_place(record)
