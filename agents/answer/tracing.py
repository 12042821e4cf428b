"""Spans of requests, by OpenTelemetry's conventions for messaging: children of the trace that the producer sent, and
linked to it. Imported only when there are traces.

A hit has a span only if its producer's trace is sampled: a hit costs some 10 µs, a span several times that. A producer
that follows one request through all services marks it so in its `traceparent`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import ConsumerRecord
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agents.answer.headers import trace_headers
from streams.kafka.outgoing import Headers

SAMPLED = 1
"""The bit of a sampled trace in a traceparent's flags."""

_trace_context = TraceContextTextMapPropagator()


class RequestSpan:
    """One request: `headers` carry its trace on to the result."""

    def __init__(self, span: Any) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _trace_context.inject(carrier, trace.set_span_in_context(span))
        self.headers: Headers = [(name, value.encode()) for name, value in carrier.items()]

    def ended(self, outcome: str, cache: str) -> None:
        """Set the outcome."""
        self._span.set_attributes({"millrace.outcome": outcome, "millrace.cache": cache})
        if outcome != "ok":
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)


class RequestSpans:
    """Makes the spans; `group` is the consumer group."""

    def __init__(self, tracer: Any, group: str) -> None:
        self._tracer = tracer
        self._group = group

    @contextmanager
    def request(self, record: ConsumerRecord[bytes, bytes], request_id: bytes) -> Iterator[RequestSpan]:
        """Run a block within the span of a request: requests to upstreams are its children."""
        span = self._start(record, request_id, None)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield RequestSpan(span)

    def answered(
        self, record: ConsumerRecord[bytes, bytes], request_id: bytes, elapsed: float, outcome: str, cache: str
    ) -> Headers | None:
        """Make the span of a request answered without a task, after `elapsed` seconds, if its trace is sampled.

        Returns the headers that propagate it, None without a span.
        """
        if not is_sampled(record.headers):
            return None
        now = time.time_ns()
        span = self._start(record, request_id, now - int(elapsed * 1e9))
        made = RequestSpan(span)
        made.ended(outcome, cache)
        span.end(now)
        return made.headers

    def _start(self, record: ConsumerRecord[bytes, bytes], request_id: bytes, began: int | None) -> Any:
        carrier = {name: content.decode() for name, content in trace_headers(record.headers) if content is not None}
        parent = _trace_context.extract(carrier, Context())
        sender = trace.get_current_span(parent).get_span_context()
        return self._tracer.start_span(
            f"process {record.topic}",
            context=parent,
            kind=SpanKind.CONSUMER,
            links=[Link(sender)] if sender.is_valid else [],
            start_time=began,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.consumer.group.name": self._group,
                "millrace.request.id": request_id[1:-1].decode(),
            },
        )


def is_sampled(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether the headers carry a sampled trace (W3C Trace Context, section 3.2.2.5)."""
    return any(
        name == "traceparent" and content is not None and int(content[-2:], 16) & SAMPLED
        for name, content in trace_headers(headers)
    )
