"""Every request gets a result, with the outcome that is true, and nothing a producer sends stops a worker."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from aiohttp import web

from models.result_schema import ResultSchema
from tests.integration.stage import Seen, Stage, Upstream, asked

HUGE = b'{"url":"http://127.0.0.1/","body":"' + b"x" * 900_000 + b'"}'


def bad_inputs(url: str) -> dict[str, tuple[bytes | None, str]]:
    """Values that are no requests, by name, with what the error must name."""
    return {
        "no JSON": (b"hello", "not JSON"),
        "no UTF-8": (b"\xff\xfe\x00", "UTF-8"),
        "empty": (b"", "not JSON"),
        "tombstone": (None, "tombstone"),
        "an array": (b"[]", "JSON object"),
        "null": (b"null", "JSON object"),
        "no target": (b"{}", "url"),
        "both targets": (json.dumps({"url": url, "source": "s"}).encode(), "source"),
        "params without source": (json.dumps({"url": url, "params": {}}).encode(), "params"),
        "an unknown source": (b'{"source":"nowhere"}', "nowhere"),
        "an unknown key": (json.dumps({"url": url, "uri": "x"}).encode(), "uri"),
        "an unknown schema": (json.dumps({"url": url, "schema": "nope"}).encode(), "schema"),
        "an unknown check": (json.dumps({"url": url, "checks": ["is_even"]}).encode(), "is_even"),
        "a wrong check": (json.dumps({"url": url, "checks": [{"field": "n"}]}).encode(), "checks.0.name"),
        "wrong types": (json.dumps({"url": 5, "timeout": "5", "checks": {}}).encode(), "timeout"),
        "a zero timeout": (json.dumps({"url": url, "timeout": 0}).encode(), "timeout"),
        "no http": (b'{"url":"file:///etc/passwd"}', "url"),
        "a relative URL": (b'{"url":"/x"}', "url"),
        "a bad header": (json.dumps({"url": url, "headers": {"X": "a\r\nY: b"}}).encode(), "headers"),
        "a framing header": (json.dumps({"url": url, "headers": {"Content-Length": "5"}}).encode(), "Content-Length"),
        "too deep": (b'{"url":' + b"[" * 70 + b"]" * 70 + b"}", "nested"),
        "far too deep": (b"[" * 500_000, "nested"),
        "NaN": (b'{"url":"http://h/","timeout":NaN}', "NaN"),
        "Infinity": (b'{"url":"http://h/","timeout":-Infinity}', "Infinity"),
        "out of range": (b'{"url":"http://h/","timeout":1e999}', "1e999"),
        "many digits": (b'{"url":"http://h/","max_age":' + b"9" * 5000 + b"}", "digits"),
        "duplicate keys": (b'{"url":"http://h/","url":"http://h/"}', "duplicate"),
        "a lone surrogate": (b'{"url":"http://h/","id":"\\ud800"}', "surrogate"),
    }


async def answers(stage: Stage, count: int) -> list[Seen]:
    """Wait for `count` results, whatever their ids."""
    await stage.until_results(count)
    return await stage.read()


async def test_every_bad_input_is_answered_and_kept_as_a_dead_letter(stage: Stage, upstream: Upstream) -> None:
    """Each bad input gets one `invalid_request` that names what is wrong, and its bytes in dead-letters; good
    requests around them are answered as ever.
    """
    worker = await stage.start()
    inputs = bad_inputs(f"{upstream.url}/doc/1")
    good = asked(f"{upstream.url}/doc/1", 0)
    values = [good, *(value for value, _ in inputs.values()), HUGE[:-1], good]
    await stage.send(values, key=lambda n: None if n % 5 == 0 else b"key %d" % n)
    seen = await answers(stage, len(values))
    by_key = {each.key: each.result for each in seen}
    for number, (name, (_, names)) in enumerate(inputs.items(), 1):
        if number % 5 == 0:
            continue
        result = by_key[b"key %d" % number]
        assert result["outcome"] == "invalid_request", name
        assert names in result["error"]["message"], f"{name}: {result['error']['message']}"
        assert result["error"]["retryable"] is False
        assert not ResultSchema().validate(result)
    assert [each.result["outcome"] for each in seen].count("ok") == 2
    letters = await stage.read(stage.dead_letters)
    assert sorted(each.result or b"" for each in letters) == sorted(value or b"" for value in values if value != good)
    assert worker.process.returncode is None


async def test_a_dead_letter_says_where_it_came_from(stage: Stage) -> None:
    """A dead letter has the original key, bytes and headers, and the headers of KIP-1191."""
    await stage.start()
    headers = [("mine", b"kept"), ("ce_id", b"event-7"), ("__dlq.errors.message", b"an older one")]
    sent = await (await stage.producer.send(stage.requests, b"nope", key=b"\x00\xff", partition=2, headers=headers))
    result = (await answers(stage, 1))[0]
    [letter] = await stage.read(stage.dead_letters)
    assert (letter.key, letter.result) == (b"\x00\xff", b"nope")
    prefix = "__dlq.errors."
    assert letter.headers["mine"] == b"kept"
    assert letter.headers[prefix + "topic"] == stage.requests.encode()
    assert letter.headers[prefix + "partition"] == b"2"
    assert letter.headers[prefix + "offset"] == b"%d" % sent.offset
    assert letter.headers[prefix + "group"] == stage.group.encode()
    assert letter.headers[prefix + "delivery.count"] == b"1"
    assert letter.headers[prefix + "outcome"] == b"invalid_request"
    assert letter.headers[prefix + "message"] == result.result["error"]["message"].encode()


async def test_ids_headers_and_partitions(stage: Stage, upstream: Upstream) -> None:
    """The id comes from the body, else `ce_id`, else topic-partition-offset; results go to the request's partition
    with its key, CloudEvents headers and trace; the trace reaches the upstream.
    """
    await stage.start()
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    url = f"{upstream.url}/doc/5"
    body, bare = json.dumps({"id": "é1", "url": url}).encode(), json.dumps({"url": url}).encode()
    send = stage.producer.send
    first = await (await send(stage.requests, body, key=b"a", partition=0, headers=[("ce_id", b"not this")]))
    await (await send(stage.requests, bare, key=b"b", partition=1, headers=[("ce_id", b"event-1")]))
    third = await (await send(stage.requests, bare, partition=2))
    tracing = [("traceparent", trace), ("tracestate", b"v=1")]
    fresh = json.dumps({"id": "t", "url": f"{upstream.url}/doc/6"}).encode()
    await (await send(stage.requests, fresh, key=b"d", partition=3, headers=tracing))
    await (await send(stage.requests, bare, key=b"e", partition=3, headers=[("ce_id", b"x" * 129)]))
    del first
    seen = {each.result["id"]: each for each in await answers(stage, 5)}
    assert seen["é1"].headers["ce_id"] == "é1".encode()
    assert seen["é1"].partition == 0
    assert seen["event-1"].key == b"b"
    default = seen[f"{stage.requests}-2-{third.offset}"]
    assert default.key is None
    assert default.partition == 2
    assert default.headers["ce_specversion"] == b"1.0"
    assert default.headers["ce_type"] == b"millrace.result"
    assert seen["t"].headers["traceparent"] == trace
    assert seen["t"].headers["tracestate"] == b"v=1"
    assert any(each.get("traceparent") == trace.decode() for each in upstream.headers)
    [long_id] = [each.result for each in seen.values() if each.result["outcome"] == "invalid_request"]
    assert "128" in long_id["error"]["message"]


async def test_what_a_request_brings_comes_back(stage: Stage, upstream: Upstream) -> None:
    """Context, named headers and a CloudEvent's id and trace are in the result, of a large request, too.
    A context is no part of what is fetched.
    """
    await stage.start(MILLRACE_CARRY_HEADERS="tenant")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    url = f"{upstream.url}/doc/5"
    event = {"specversion": "1.0", "id": "e1", "source": "s", "type": "t", "traceparent": trace}
    values = [
        {"id": "a", "url": url, "context": {"n": 1}},
        {"id": "b", "url": url, "context": "x" * 65_000, "body": None},
        {"id": "c", "url": "ftp://nowhere/", "context": [1, 2]},
        event | {"data": {"url": url, "context": {"document": 5, "outcome": "x"}}},
    ]
    for value in values:
        text = json.dumps(value).encode()
        await (await stage.producer.send(stage.requests, text, partition=0, headers=[("tenant", b"t1"), ("no", b"1")]))
    seen = {each.result["id"]: each for each in await answers(stage, 4)}
    assert {name: each.result["context"] for name, each in seen.items()} == {
        "a": {"n": 1}, "b": "x" * 65_000, "c": [1, 2], "e1": {"document": 5, "outcome": "x"}}  # fmt: skip
    assert {each.headers["tenant"] for each in seen.values()} == {b"t1"}
    assert not any("no" in each.headers for each in seen.values())
    assert seen["e1"].headers["traceparent"] == trace.encode()
    assert {name: each.result["outcome"] for name, each in seen.items()} == {
        "a": "ok", "b": "ok", "c": "invalid_request", "e1": "ok"}  # fmt: skip
    assert upstream.calls["/doc/5"] == 1
    assert all(not ResultSchema().validate(each.result) for each in seen.values())


async def test_an_ok_result_is_whole(stage: Stage, upstream: Upstream) -> None:
    """An answer has the document, the checks with their values, and a true account of cache and attempts."""
    await stage.start()
    url = f"{upstream.url}/doc/7?delay=0.3"
    checks: list[Any] = [{"name": "is_prime", "field": "n"}, "sha256",
                         {"name": "json_schema", "args": {"schema": {"required": ["missing"]}}}]  # fmt: skip
    await stage.send([asked(url, n, checks=checks) for n in range(3)], key=lambda _: b"same")
    await stage.results_of({"r0", "r1", "r2"})
    await stage.send([asked(url, 3, checks=checks), asked(url, 4, checks=checks, max_age=0)], key=lambda _: b"same")
    seen = {each.result["id"]: each.result for each in await stage.results_of({f"r{n}" for n in range(5)})}
    assert [seen[f"r{n}"]["cache"] for n in range(5)] == ["miss", "coalesced", "coalesced", "hit", "bypass"]
    assert upstream.calls["/doc/7?delay=0.3"] == 2
    for result in seen.values():
        assert not ResultSchema().validate(result)
        assert result["document"] == {"n": 7}
        assert result["request"] == {"method": "GET", "url": url}
        assert result["status"] == 200
        assert result["attempts"] == 1
        assert [check["value"] for check in result["checks"]][0::2] == [True, False]
    assert seen["r3"]["age"] >= 0


async def serve_oddities(upstream: Upstream) -> None:
    """Add answers that are not as they should be."""

    async def bomb(_: web.Request) -> web.Response:
        import gzip

        return web.Response(body=gzip.compress(b"0" * 20_000_000), headers={"Content-Encoding": "gzip"})

    async def not_gzip(_: web.Request) -> web.Response:
        return web.Response(body=b"this is no gzip", headers={"Content-Encoding": "gzip"})

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b".")
            await asyncio.sleep(0.2)

    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"n":')
        assert request.transport is not None
        request.transport.close()
        return response

    async def status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]))

    async def body(request: web.Request) -> web.Response:
        return web.Response(text=request.query["text"], content_type=request.query.get("type", "application/json"))

    async def hop(request: web.Request) -> web.Response:
        left = int(request.match_info["n"])
        return web.Response(status=302, headers={"Location": f"/hop/{left - 1}" if left else "/doc/1"})

    routes = {"/bomb": bomb, "/not_gzip": not_gzip, "/drip": drip, "/short": short, "/status/{code}": status,
              "/body": body, "/hop/{n}": hop}  # fmt: skip
    for path, handler in routes.items():
        upstream.app.router.add_get(path, handler)


async def test_each_way_to_fail_has_its_outcome(stage: Stage) -> None:
    """Whatever an upstream does ends in the outcome that is true of it, with a dead letter."""
    upstream = Upstream()
    await serve_oddities(upstream)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port = unused.getsockname()[1]
        async with upstream:
            cases: list[tuple[str, str, dict[str, Any]]] = [
                ("ok", "/hop/4", {}),
                ("upstream_error", "/hop/9", {}),
                ("upstream_error", "/status/404", {}),
                ("upstream_error", "/status/503", {}),
                ("too_large", "/bomb", {"schema": "text"}),
                ("too_large", "/doc/1?size=3000000", {}),
                ("invalid_document", "/not_gzip", {}),
                ("timeout", "/drip", {"timeout": 1}),
                ("timeout", "/doc/1?delay=30", {"timeout": 0.5}),
                ("unreachable", "/short", {}),
                ("invalid_document", "/body?text=no", {}),
                ("invalid_document", "/body?text=%7B%22a%22%3A1e999%7D", {}),
                ("ok", "/body?text=any&type=text/plain", {"schema": "text"}),
                ("ok", "/body?text=%3Ctitle%3EHi%3C/title%3E&type=text/html", {"schema": "page"}),
                ("check_error", "/doc/1", {"checks": [{"name": "is_prime", "field": "missing"}]}),
                ("check_error", "/doc/1", {"checks": ["is_prime"]}),
                ("invalid_request", "/doc/1", {"checks": [{"name": "is_prime", "field": "n", "args": {"x": 1}}]}),
            ]
            values = [asked(upstream.url + path, n, **more) for n, (_, path, more) in enumerate(cases)]
            values.append(asked(f"http://127.0.0.1:{port}/", len(values)))
            values.append(asked("http://no.such.host.invalid/", len(values)))
            expected = [outcome for outcome, _, _ in cases] + ["unreachable", "unreachable"]
            await stage.start(MILLRACE_MAX_BYTES="2MiB")
            await stage.send(values)
            ids = {f"r{n}" for n in range(len(values))}
            seen = {each.result["id"]: each.result for each in await stage.results_of(ids)}
    found = [seen[f"r{n}"]["outcome"] for n in range(len(values))]
    assert found == expected
    assert all(not ResultSchema().validate(result) for result in seen.values())
    assert "document" in seen["r14"]
    assert len(await stage.read(stage.dead_letters)) == len([outcome for outcome in expected if outcome != "ok"])


async def test_a_result_too_large_for_its_topic(kafka: Any, upstream: Upstream) -> None:
    """A document that the results topic does not take becomes `too_large` with its size, also when the limit was
    lowered under the worker's feet; a dead letter that does not fit leaves its value out. The worker goes on.
    """
    async with Stage(kafka.servers) as stage:
        small = {"max.message.bytes": "20000"}
        await stage.create_topics(results=small, dead_letters=small)
        worker = await stage.start()
        url = f"{upstream.url}/doc/1?size="
        await stage.send([asked(url + "100000", 0), asked(url + "100", 1), b"x" * 50_000])
        await stage.send([asked(url + "8000", 7)], key=lambda _: b"k" * 15_000)
        await stage.results_of({"r0", "r1", "r7"})
        await _lower_limit(stage, 5_000)
        await stage.send([asked(url + str(size), n) for n, size in enumerate((9_000, 10, 8_000, 20), 2)])
        await stage.send([asked(url + "30", 6)], key=lambda _: b"k" * 15_000)
        seen = {each.result["id"]: each for each in await stage.results_of({f"r{n}" for n in range(8)})}
        outcomes = [seen[f"r{n}"].result["outcome"] for n in range(8)]
        assert outcomes == ["too_large", "ok", "too_large", "ok", "too_large", "ok", "too_large", "too_large"]
        assert "bytes" in seen["r0"].result["error"]["message"]
        letters = await stage.read(stage.dead_letters)
        assert {each.headers["__dlq.errors.id"] for each in letters} >= {b"r0", b"r2", b"r4", b"r6", b"r7"}
        assert any(each.result is None and each.headers["__dlq.errors.value.bytes"] == b"50000" for each in letters)
        assert worker.process.returncode is None


async def _lower_limit(stage: Stage, limit: int) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    admin = AIOKafkaAdminClient(bootstrap_servers=stage.servers)
    await admin.start()
    try:
        change = ConfigResource(ConfigResourceType.TOPIC, stage.results, {"max.message.bytes": str(limit)})
        await admin.alter_configs([change])
    finally:
        await admin.close()


class NotUtf8(str):
    """A header name that goes over the wire as bytes that are no UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return b"\xff\xfe"


async def test_a_record_that_cannot_be_read_stops_nothing(kafka: Any, stage: Stage, upstream: Upstream) -> None:
    """A header name that is no UTF-8, which aiokafka's parser dies of: its request and all others are answered once."""
    from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

    await stage.start()
    batch = stage.producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 1 << 20)
    for number in range(10):
        headers = [(NotUtf8("x"), b"1")] if number in (3, 7) else []
        batch.append(timestamp=None, key=None, value=asked(f"{upstream.url}/doc/{number}", number), headers=headers)
    await (await stage.producer.send_batch(batch, stage.requests, partition=1))
    await stage.send([asked(f"{upstream.url}/doc/1", n) for n in range(10, 40)])
    seen = await stage.results_of({f"r{n}" for n in range(40)}, seconds=20)
    assert len(seen) == 40
    assert {each.result["outcome"] for each in seen} == {"ok"}
