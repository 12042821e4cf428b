"""Traces of a real worker, as a collector gets them over OTLP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agents.testing.broker import Broker, free_port
from tests.integration.stage import PATIENCE, Stage, Upstream, asked

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = [("traceparent", f"00-{TRACE}-{PARENT}-01".encode())]


class Collector(Upstream):
    """A real HTTP server that takes what OTLP exporters send."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Any] = []
        self.app.router.add_post("/v1/traces", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            self.service = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    async def until(self, count: int) -> list[Any]:
        """Wait until so many spans have come."""
        async with asyncio.timeout(PATIENCE):
            while len(self.spans) < count:
                await asyncio.sleep(0.05)
        return self.spans


async def send(stage: Stage, request: dict[str, Any], headers: list[tuple[str, bytes]]) -> None:
    """Send one request with headers."""
    await stage.producer.send_and_wait(stage.requests, json.dumps(request).encode(), key=b"k", headers=headers)


async def test_one_trace_from_producer_to_upstream_to_result(kafka: Broker, stage: Stage) -> None:
    """A request's span is the producer's child, the calls (a redirect and a retry among them) are its children, the
    upstream is told of the call's own span and the result carries the request's; a hit is in the trace too, and what
    was sent without a trace and hit the cache is in none. All of it has left when the worker has stopped.
    """
    async with Collector() as collector, Upstream() as upstream:
        failed = []

        async def moved(request: web.Request) -> web.Response:
            upstream.headers.append(dict(request.headers))
            if not failed:
                failed.append(request)
                return web.Response(status=503)
            headers = {"Location": "/doc/7?token=hidden", "Cache-Control": "max-age=60"}
            return web.Response(status=302, headers=headers)

        upstream.app.router._frozen = False
        upstream.app.router.add_get("/moved", moved)
        worker = await stage.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="200")
        await send(stage, {"id": "a", "url": upstream.url + "/moved"}, SENT)
        [first] = await stage.results_of({"a"})
        await send(stage, {"id": "b", "url": upstream.url + "/moved"}, SENT)
        await stage.send([asked(upstream.url + "/moved", 1)], key=lambda _: b"k")
        seen = {each.result["id"]: each for each in await stage.results_of({"a", "b", "r1"})}
        worker.terminate()
        assert await worker.ended() == 0
        spans = await collector.until(5)

    assert collector.service["service.name"] == "millrace"
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    requests = [span for span in spans if span.name.startswith("process ")]
    calls = sorted((span for span in spans if span.name == "GET"), key=lambda span: span.start_time_unix_nano)
    assert (len(requests), len(calls), len(spans)) == (2, 3, 5)
    assert {span.parent_span_id.hex() for span in requests} == {PARENT}
    by_id = {attributes(span)["millrace.request.id"]: span for span in requests}
    assert {span.parent_span_id for span in calls} == {by_id["a"].span_id}
    told = [attributes(span) for span in calls]
    assert [each["http.response.status_code"] for each in told] == [503, 302, 200]
    assert [each.get("http.request.resend_count") for each in told] == [None, 1, 2]
    assert [each["url.full"].removeprefix(upstream.url) for each in told] == ["/moved", "/moved", "/doc/7?REDACTED"]
    assert [headers["traceparent"] for headers in upstream.headers] == [
        f"00-{TRACE}-{span.span_id.hex()}-01" for span in calls
    ]
    for name in ("a", "b"):
        assert seen[name].headers["traceparent"].decode() == f"00-{TRACE}-{by_id[name].span_id.hex()}-01"
    assert attributes(by_id["b"])["millrace.cache"] == "hit"
    assert "traceparent" not in seen["r1"].headers
    assert first.result["outcome"] == "ok"


async def test_a_dead_collector_harms_nothing(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """With nobody at the endpoint requests are answered as ever, the log has a few lines of it, the stop is in time."""
    worker = await stage.start(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", OTEL_BSP_SCHEDULE_DELAY="100"
    )
    await stage.send(asked(f"{upstream.url}/doc/{number}", number) for number in range(200))
    await stage.results_of({f"r{number}" for number in range(200)})
    worker.terminate()
    assert await asyncio.wait_for(worker.ended(), 20) == 0
    assert sum("opentelemetry" in line for line in worker.log) < 30


def attributes(span: Any) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
