"""Spans of requests and of what is asked of upstreams, as OpenTelemetry's conventions have them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from yarl import URL

from agents.answer.tracing import RequestSpans, is_sampled
from models.errors import UpstreamError
from streams.http.tracing import HttpSpans, span_url

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = [("traceparent", f"00-{TRACE}-{PARENT}-01".encode()), ("tracestate", b"a=b")]
UNSAMPLED = [("traceparent", f"00-{TRACE}-{PARENT}-00".encode())]


def record(headers=()):
    return SimpleNamespace(topic="requests", partition=3, offset=42, headers=list(headers))


class Spans:
    """Both kinds of spans, and what was exported."""

    def __init__(self, sampler=None):
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracer = provider.get_tracer("test")
        self.requests, self.http = RequestSpans(tracer, "group"), HttpSpans(tracer)

    @property
    def ended(self):
        return self.exporter.get_finished_spans()


@pytest.fixture
def spans():
    return Spans()


def test_a_request_goes_on_with_its_producers_trace(spans):
    """Its span is a child of the producer's and linked to it, tells where it came from and what came of it, and the
    headers for the result name the span itself.
    """
    with spans.requests.request(record(SENT), b'"a1"') as span:
        span.ended("ok", "miss")
    (ended,) = spans.ended
    assert (ended.name, ended.kind) == ("process requests", SpanKind.CONSUMER)
    assert f"{ended.context.trace_id:032x}" == TRACE
    assert f"{ended.parent.span_id:016x}" == PARENT
    assert [f"{link.context.span_id:016x}" for link in ended.links] == [PARENT]
    assert dict(ended.attributes) == {
        "messaging.system": "kafka", "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.destination.name": "requests", "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 42, "messaging.consumer.group.name": "group", "millrace.request.id": "a1",
        "millrace.outcome": "ok", "millrace.cache": "miss",
    }  # fmt: skip
    own = f"00-{TRACE}-{ended.context.span_id:016x}-01".encode()
    assert span.headers == [("traceparent", own), ("tracestate", b"a=b")]


@pytest.mark.parametrize("headers", [[], [("traceparent", b"nonsense")], [("traceparent", None)]])
def test_without_a_producers_trace_one_begins(spans, headers):
    """A request that carries no valid trace has a span without parent or link."""
    with spans.requests.request(record(headers), b'"a"') as span:
        span.ended("timeout", "miss")
    (ended,) = spans.ended
    assert (ended.parent, list(ended.links)) == (None, [])
    assert ended.attributes["error.type"] == "timeout"
    assert ended.status.status_code is StatusCode.ERROR


def test_a_hit_has_a_span_only_in_a_sampled_trace(spans):
    """Who follows a request sees that the cache answered it, and when; all other hits cost nothing."""
    assert spans.requests.answered(record(), b'"a"', 0.5, "ok", "hit") is None
    assert spans.requests.answered(record(UNSAMPLED), b'"a"', 0.5, "ok", "hit") is None
    headers = spans.requests.answered(record(SENT), b'"a"', 0.5, "ok", "hit")
    (ended,) = spans.ended
    assert f"{ended.context.span_id:016x}".encode() in dict(headers)["traceparent"]
    assert ended.end_time - ended.start_time == 500_000_000
    assert ended.attributes["millrace.cache"] == "hit"


def test_flags_are_read_as_bits():
    """Sampled is the lowest bit, whatever else is set; what is no traceparent is not sampled."""
    flags = {"00": False, "01": True, "02": False, "03": True, "ff": True, "0a": False}
    for flag, expected in flags.items():
        assert is_sampled([("traceparent", f"00-{TRACE}-{PARENT}-{flag}".encode())]) is expected
    assert not is_sampled([("traceparent", None), ("other", b"01")])


def test_a_trace_that_is_not_sampled_goes_on_all_the_same():
    """Unsampled, nothing is exported, and the upstream and the result still get the trace's id."""
    spans = Spans(ParentBased(ALWAYS_OFF))
    with (
        spans.requests.request(record(UNSAMPLED), b'"a"') as span,
        spans.http.request("GET", URL("http://h/"), 0) as http,
    ):
        assert TRACE in http.headers["traceparent"]
    assert TRACE.encode() in dict(span.headers)["traceparent"]
    assert spans.ended == ()


def test_what_is_asked_of_an_upstream_is_a_client_span(spans):
    """Method, server, URL and status by the conventions; the upstream is told of this very span."""
    with spans.requests.request(record(SENT), b'"a"'):
        with spans.http.request("GET", URL("https://api.example.com/v1/x"), 0) as span:
            span.answered(200)
        with spans.http.request("POST", URL("http://h:8080/"), 2) as again:
            again.answered(503)
    first, second, request = spans.ended
    assert (first.name, first.kind, first.parent.span_id) == ("GET", SpanKind.CLIENT, request.context.span_id)
    assert dict(first.attributes) == {
        "http.request.method": "GET", "server.address": "api.example.com", "server.port": 443,
        "url.full": "https://api.example.com/v1/x", "http.response.status_code": 200,
    }  # fmt: skip
    assert span.headers["traceparent"] == f"00-{TRACE}-{first.context.span_id:016x}-01"
    assert second.attributes["http.request.resend_count"] == 2
    assert (second.attributes["error.type"], second.status.status_code) == ("503", StatusCode.ERROR)
    assert second.attributes["server.port"] == 8080


@pytest.mark.parametrize(
    ("raised", "kind", "status"),
    [
        (UpstreamError("no", 404), "404", 404),
        (UpstreamError("no valid HTTP"), "UpstreamError", None),
        (ConnectionResetError("secret"), "ConnectionResetError", None),
        (asyncio.CancelledError(), "CancelledError", None),
    ],
)
def test_what_fails_is_told_by_its_kind_alone(spans, raised, kind, status):
    """Status or class of the error, never its words: those may hold what must not be told."""
    with pytest.raises(type(raised)), spans.http.request("GET", URL("http://h/"), 0):
        raise raised
    (ended,) = spans.ended
    assert ended.attributes["error.type"] == kind
    assert ended.attributes.get("http.response.status_code") == status
    assert (ended.status.status_code, ended.status.description, list(ended.events)) == (StatusCode.ERROR, None, [])


def test_urls_are_told_without_what_may_be_secret():
    """No login, no fragment, and that there was a query, not what it said."""
    assert span_url(URL("https://user:word@h/a/b?key=secret#part")) == "https://h/a/b?REDACTED"
    assert span_url(URL("http://h:81/")) == "http://h:81/"
