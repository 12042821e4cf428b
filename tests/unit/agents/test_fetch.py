"""Asking real servers on loopback: what is sent, what counts as an answer, and when an answer at hand still holds."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiokafka import ConsumerRecord
from marshmallow import Schema, fields

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.answer.headers import dead_letter_headers, forwarded_headers
from agents.answer.parsed_requests import parse_request
from models import documents
from models.checks import Call
from models.dead_letter import DLQ
from models.errors import InvalidDocument, UpstreamError
from models.request import Request
from models.result import encode_answer, is_shared, read_result
from models.result_schema import ResultSchema
from models.source import CachePolicy, Param, Retries, Source, Sources
from models.template import UrlTemplate
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.config.validators import parse_networks, parse_ports
from streams.functions import FunctionCaller
from streams.http.client import Client
from streams.http.guard import Guard
from streams.http.policy import UpstreamPolicy, policy_of
from tests.fakes import Pool

LIMIT = 100_000
LOOPBACK = Guard(parse_networks("127.0.0.0/8"), parse_ports("1-65535"))
QUICK = Retries(attempts=3, first_pause=0.0)
V1, V2 = "Thu, 01 Jan 2026 00:00:00 GMT", "Sun, 01 Feb 2026 00:00:00 GMT"


class Upstream:
    """A server that keeps what it was sent, and answers by path from lists, the last one again and again."""

    def __init__(self):
        self.answers, self.seen, self.url = {}, [], ""

    async def __call__(self, request):
        self.seen.append(request)
        answers = self.answers.get(request.path, [{"text": "null", "content_type": "application/json"}])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(request) if callable(answer) else web.Response(**answer)

    def says(self, path, *answers):
        self.answers[path] = list(answers)

    def sent(self, name):
        """Return a header of each request it got."""
        return [request.headers.get(name) for request in self.seen]


@pytest.fixture(autouse=True)
def _counted(monkeypatch):
    """A plugin's schema, for these tests alone."""
    monkeypatch.setattr(documents, "_REGISTRY", dict(documents._REGISTRY))
    monkeypatch.setattr(documents, "_INSTANCES", dict(documents._INSTANCES))

    @documents.schema("counted")
    class CountedSchema(Schema):
        n = fields.Integer(required=True)


@pytest.fixture
async def opened():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def serve(opened):
    """Start servers, each on a port of its own."""

    async def start():
        upstream = Upstream()
        runner = web.ServerRunner(web.Server(upstream, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        opened.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return upstream

    return start


@pytest.fixture
async def upstream(serve):
    return await serve()


@pytest.fixture
async def policy():
    """The policy of sources, by name."""
    return {}


@pytest.fixture
async def asker(upstream, policy):
    async with Client(LIMIT, LOOPBACK, retry=QUICK) as client, FunctionCaller(LIMIT) as caller:
        yield Fetcher(client, caller, policy)


@pytest.fixture
async def enricher(asker):
    async with Cache((MemoryTier(),)) as cache, Enricher(asker, Pool(), cache, 5.0, CachePolicy(ttl=60.0)) as enricher:
        yield enricher


def in_5_seconds():
    return time.monotonic() + 5


def wanted(upstream, path="/", schema="text", **members):
    return parse_request(Request(url=upstream.url + path, schema=schema, **members))


async def test_an_answer_says_when_it_was_fetched_and_by_which_try(upstream, asker):
    """Status, document, attempts, time and headers are the last response's."""
    upstream.says("/", {"status": 503}, {"text": "one", "headers": {"ETag": '"1"'}})
    before = time.time()
    asked = await asker.fetch(wanted(upstream), {}, in_5_seconds(), {})
    assert (asked.answer.outcome, asked.answer.status, asked.answer.document) == ("ok", 200, "one")
    assert (asked.attempts, asked.answer.attempts, asked.trail[-1].headers["etag"]) == (2, 2, '"1"')
    assert before <= asked.fetched_at == asked.answer.fetched_at <= time.time()


async def test_validators_are_sent_and_304_means_that_it_holds(upstream, asker):
    """Then there is no answer, but headers and time."""
    upstream.says("/", {"status": 304, "headers": {"Cache-Control": "max-age=5"}})
    validators = {"If-None-Match": '"1"', "If-Modified-Since": V1}
    asked = await asker.fetch(wanted(upstream), {}, in_5_seconds(), validators)
    assert (asked.answer, asked.trail[-1].headers["cache-control"]) == (None, "max-age=5")
    assert (upstream.sent("If-None-Match"), upstream.sent("If-Modified-Since")) == (['"1"'], [V1])


@pytest.mark.parametrize("own", [{}, {"if-none-match": '"mine"'}, {"IF-MODIFIED-SINCE": V1}, {"Range": "bytes=0-1"}])
async def test_304_is_no_answer_to_what_was_not_asked(upstream, asker, own):
    """Without validators, and with conditions of the request's own, which ours do not get in the way of."""
    upstream.says("/", {"status": 304})
    with pytest.raises(UpstreamError, match="answered 304"):
        await asker.fetch(wanted(upstream, headers=own), {}, in_5_seconds(), {"If-None-Match": '"1"'} if own else {})
    assert upstream.sent("If-None-Match") == [own.get("if-none-match")]


async def test_304_to_a_condition_of_the_request_s_own_says_nothing_of_ours(upstream, asker, policy):
    """Where 304 is a success of the source's, it answers the source's own condition: what is at hand may be another."""
    policy["s"] = UpstreamPolicy(LIMIT, success=frozenset({200, 304}))
    upstream.says("/", {"status": 304})
    known = wanted(upstream, headers={"If-None-Match": '"mine"'})._replace(source=Source("s"))
    asked = await asker.fetch(known, {}, in_5_seconds(), {"If-None-Match": '"1"'})
    assert asked.answer is not None


async def test_the_terms_are_those_of_the_source(upstream, asker, policy):
    """A success of its own, and the cap on its bodies."""
    policy["s"] = UpstreamPolicy(10, success=frozenset({404}))
    upstream.says("/", {"status": 404, "text": "none"}, {"status": 404, "text": "x" * 11})
    sources = Sources({"s": Source("s", UrlTemplate(upstream.url + "/"), schema="text")})
    known = parse_request(Request(source="s", schema=""), sources)
    assert (await asker.fetch(known, {}, in_5_seconds(), {})).answer.status == 404
    with pytest.raises(Exception, match="at most 10"):
        await asker.fetch(known, {}, in_5_seconds(), {})


async def test_a_source_s_function_is_called(asker, upstream):
    """With its parameters; no HTTP is spoken, and there is neither status nor header."""
    sources = Sources({"f": Source("f", call="builtins:dict", params={"a": Param(default=7)})})
    known = parse_request(Request(source="f", schema="", params={"a": 8}), sources)
    asked = await asker.fetch(known, {}, in_5_seconds(), {})
    assert (asked.answer.document, asked.answer.status, asked.trail) == ({"a": 8}, None, ((None, {}, 0.0),))
    assert upstream.seen == []


async def test_a_body_that_does_not_load_says_how_often_it_was_asked(upstream, asker):
    """The attempts of the fetch are the error's."""
    upstream.says("/", {"status": 503}, {"body": b"\xff", "content_type": "text/plain"})
    with pytest.raises(InvalidDocument) as caught:
        await asker.fetch(wanted(upstream), {}, in_5_seconds(), {})
    assert caught.value.attempts == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    ("given", "sent", "times"),
    [
        ({}, "requests-3-42", 1),
        ({"idempotency-KEY": "k"}, "k", 3),
        ({"Idempotency-Key": ""}, "", 1),
    ],
)
async def test_a_key_of_the_sender_s_own_makes_a_post_repeatable_and_ours_does_not(  # noqa: PLR0917  a table
    upstream, asker, method, given, sent, times
):
    """Ours is the record's place, and goes along for whoever heeds it; most do not, so the request is sent once."""
    upstream.says("/", {"status": 503})
    known = wanted(upstream, method=method, headers=given, body={"a": 1})
    record = ConsumerRecord("requests", 3, 42, 0, 0, None, b"", None, 0, 0, ())
    with pytest.raises(UpstreamError) as caught:
        await asker.fetch(known, forwarded_headers(record, known.request), in_5_seconds(), {})
    assert caught.value.attempts == times
    assert upstream.sent("Idempotency-Key") == [sent] * times


# -- from one answer to the next


async def test_an_etag_goes_out_as_it_came_in(upstream, enricher):
    """What the upstream said of its answer is what it is asked with; the same document then holds."""
    upstream.says("/", {"text": "one", "headers": {"ETag": 'W/"a b"', "Cache-Control": "no-cache"}}, {"status": 304})
    assert (await enricher.answer(wanted(upstream), {})).cache == b"miss"
    enriched = await enricher.answer(wanted(upstream), {})
    assert (enriched.cache, b'"one"' in enriched.shared) == (b"revalidated", True)
    assert upstream.sent("If-None-Match") == [None, 'W/"a b"']


async def test_an_etag_of_any_bytes_harms_nothing(opened, asker, enricher):
    """Bytes beyond ASCII are allowed in one (RFC 9110, section 8.8.3): asking again must not fail for it."""
    heads = []

    async def talk(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "\xff\xe9"\r\nCache-Control: no-cache\r\nContent-Length: 2\r\n')
        writer.write(b"Connection: close\r\nContent-Type: text/plain\r\n\r\nhi")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    opened.callback(server.close)
    known = parse_request(Request(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", schema="text"))
    answers = [await enricher.answer(known, {}) for _ in range(2)]
    assert [(enriched.cache, enriched.error) for enriched in answers] == [(b"miss", None)] * 2
    assert len(heads) == 2


async def test_validators_do_not_follow_a_redirect_to_another_origin(serve, upstream, enricher):
    """What is elsewhere is not what is at hand: a 304 from there is no answer."""
    other = await serve()
    other.says("/", {"text": "elsewhere"})
    here = {"text": "one", "headers": {"ETag": '"1"', "Cache-Control": "no-cache"}}
    upstream.says("/", here, {"status": 302, "headers": {"Location": other.url + "/"}})
    await enricher.answer(wanted(upstream), {})
    enriched = await enricher.answer(wanted(upstream), {})
    assert (enriched.cache, b'"elsewhere"' in enriched.shared) == (b"miss", True)
    assert (upstream.sent("If-None-Match"), other.sent("If-None-Match")) == ([None, '"1"'], [None])


def older(request):
    """Answer as a document does that has not changed since the newer one was there."""
    since = request.headers.get("If-Modified-Since")
    return web.Response(status=304) if since == V2 else web.Response(text="older", headers={"Last-Modified": V1})


NEWER = {"text": "newer", "headers": {"Last-Modified": V2, "Cache-Control": "no-cache"}}


async def test_an_older_document_behind_a_redirect_is_not_the_newer_one(upstream, enricher):
    """/latest pointed to a newer document, and was put back to an older one: a 304 from there says nothing of ours."""
    upstream.says("/v2", NEWER)
    upstream.says("/v1", older)
    upstream.says("/latest", *({"status": 302, "headers": {"Location": path}} for path in ("/v2", "/v1")))
    assert b'"newer"' in (await enricher.answer(wanted(upstream, "/latest"), {})).shared
    assert b'"older"' in (await enricher.answer(wanted(upstream, "/latest"), {})).shared


async def test_an_older_document_that_a_redirect_leads_to_now_is_not_the_newer_one(upstream, enricher):
    """/latest was the newer document itself, and now points to an older one: a 304 from there says nothing of ours."""
    upstream.says("/v1", older)
    upstream.says("/latest", NEWER, {"status": 302, "headers": {"Location": "/v1"}})
    assert b'"newer"' in (await enricher.answer(wanted(upstream, "/latest"), {})).shared
    assert b'"older"' in (await enricher.answer(wanted(upstream, "/latest"), {})).shared


async def test_lines_of_a_header_are_all_there_to_be_read(upstream, asker):
    """The headers of an answer keep every line of a name."""

    def twice(_):
        response = web.Response(text="one")
        response.headers.add("Cache-Control", "max-age=60")
        response.headers.add("Cache-Control", "private")
        return response

    upstream.says("/", twice)
    asked = await asker.fetch(wanted(upstream), {}, in_5_seconds(), {})
    assert asked.trail[-1].headers.getall("cache-control") == ["max-age=60", "private"]


# -- answers without a body


NOTHING = {"body": b""}


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("DELETE", 204), ("DELETE", 200), ("DELETE", 202), ("PUT", 200), ("PUT", 201), ("PUT", 204), ("POST", 200),
        ("POST", 201), ("POST", 202), ("POST", 204), ("POST", 205), ("PATCH", 200), ("PATCH", 204), ("OPTIONS", 200),
        ("OPTIONS", 204), ("HEAD", 200), ("HEAD", 206), ("GET", 204), ("GET", 205), ("GET", 202), ("GET", 201),
    ],
)  # fmt: skip
@pytest.mark.parametrize("schema", ["json", "counted"])
async def test_success_without_a_body_is_success(upstream, enricher, method, status, schema):
    """It is `ok` without a document, for the default schema and for a plugin's (RFC 9110, sections 9.3.2 and 15.3)."""
    upstream.says("/", {"status": status, **NOTHING})
    enriched = await enricher.answer(wanted(upstream, method=method, schema=schema), {})
    result = read_result(b"{%b}" % enriched.shared)
    assert (result["outcome"], result["status"], "document" in result) == ("ok", status, False)


@pytest.mark.parametrize("status", [200, 203])
@pytest.mark.parametrize("schema", ["json", "counted"])
async def test_get_without_a_body_is_no_document(upstream, enricher, status, schema):
    """What was asked for did not come, though the upstream says that it did."""
    upstream.says("/", {"status": status, **NOTHING})
    enriched = await enricher.answer(wanted(upstream, schema=schema), {})
    assert (enriched.outcome, str(enriched.error)) == ("invalid_document", "the body is empty")


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_text_and_page_make_a_document_of_nothing(upstream, enricher, method):
    """As they ever did: an empty text, a page of no bytes."""
    upstream.says("/", {"status": 200, **NOTHING})
    for schema, document in (("text", ""), ("page", {"size": 0, "media_type": "application/octet-stream"})):
        enriched = await enricher.answer(wanted(upstream, method=method, schema=schema), {})
        assert (enriched.outcome, enriched.document()) == ("ok", document)


async def test_a_check_on_no_document_is_a_check_error(upstream, enricher):
    """Each check says so, for the first who asks and for a hit; without checks the same answer is `ok`."""
    upstream.says("/", {"status": 204})
    asked = wanted(upstream, schema="json", checks=(Call("is_prime"), Call("is_prime", "n")))
    for _ in range(2):
        enriched = await enricher.answer(asked, {})
        result = read_result(b"{%b}" % enriched.shared)
        said = "there is no document: the answer had no body"
        assert (enriched.outcome, [check["error"] for check in result["checks"]]) == ("check_error", [said] * 2)
    assert (await enricher.answer(wanted(upstream, schema="json"), {})).outcome == "ok"


async def test_an_answer_without_a_body_is_kept_like_any_other(upstream, asker):
    """A shared tier takes it and gives it back: a hit has no document either."""
    upstream.says("/", {"status": 204})
    asked = await asker.fetch(wanted(upstream, schema="json"), {}, in_5_seconds(), {})
    shared = encode_answer(None, asked.answer)
    assert is_shared(shared)
    assert EncodedAnswer(shared, b"hit", 1.0, None).outcome == "ok"


# -- what a result has of headers and errors


async def test_a_result_has_the_headers_that_its_source_names(upstream):
    """Of the answer fetched, in its hits too; after a 304 those that it brings, the others as they were."""
    source = Source("s", UrlTemplate(upstream.url + "/"), schema="text", response_headers=("etag", "x-quota", "x-none"))
    first = {"ETag": '"1"', "X-Quota": "9", "Cache-Control": "no-cache", "X-Other": "1"}
    upstream.says("/", {"text": 'a,"headers":{"x":1},"attempts":1', "headers": first},
                  {"status": 304, "headers": {"X-Quota": "8", "Cache-Control": "max-age=60"}})  # fmt: skip
    async with Client(LIMIT, LOOPBACK) as client, Cache((MemoryTier(),)) as cache:
        policy = {"s": policy_of(source, client.policy, client.post)}
        enricher = Enricher(Fetcher(client, FunctionCaller(LIMIT), policy), Pool(), cache, 5.0)
        asked = parse_request(Request(source="s", schema="text"), Sources({"s": source}))
        said = []
        for _ in range(3):
            enriched = await enricher.answer(asked, {})
            result = read_result(b"{%b}" % enriched.shared)
            said.append((enriched.cache, result["document"], result["headers"]))
    assert said == [
        (b"miss", 'a,"headers":{"x":1},"attempts":1', {"etag": '"1"', "x-quota": "9"}),
        (b"revalidated", 'a,"headers":{"x":1},"attempts":1', {"etag": '"1"', "x-quota": "8"}),
        (b"hit", 'a,"headers":{"x":1},"attempts":1', {"etag": '"1"', "x-quota": "8"}),
    ]


async def test_an_invalid_document_is_shown(upstream, asker):
    """What came in place of a document is told, as of an error."""
    upstream.says("/", {"text": "<h1>Down for maintenance</h1>"})
    with pytest.raises(InvalidDocument) as caught:
        await asker.fetch(wanted(upstream, schema="json"), {}, in_5_seconds(), {})
    assert (caught.value.body, caught.value.status) == ("<h1>Down for maintenance</h1>", 200)


async def test_an_error_s_body_reaches_result_and_dead_letter(upstream, enricher):
    """In `error.body`, and in a header of the letter."""
    upstream.says("/", {"status": 422, "text": '{"detail":"nö"}', "content_type": "application/problem+json"})
    enriched = await enricher.answer(wanted(upstream), {})
    result = read_result(b'{"id":"a","elapsed_ms":1.0,%b}' % enriched.shared)
    assert ResultSchema().validate(result) == {}
    assert (result["status"], result["error"]["body"]) == (422, '{"detail":"nö"}')
    record = ConsumerRecord("requests", 3, 42, 0, 0, None, b"", None, 0, 0, ())
    letter = dict(dead_letter_headers(record, "g", b'"a"', enriched.error))
    assert letter[DLQ + "body"] == '{"detail":"nö"}'.encode()


async def test_an_invalid_document_s_result_has_the_status(upstream, enricher):
    """The upstream answered: whoever reads the result sees with which status."""
    upstream.says("/", {"text": "no JSON"})
    enriched = await enricher.answer(wanted(upstream, schema="json"), {})
    result = read_result(b'{"id":"a","elapsed_ms":1.0,%b}' % enriched.shared)
    assert ResultSchema().validate(result) == {}
    assert (result["outcome"], result["status"]) == ("invalid_document", 200)
