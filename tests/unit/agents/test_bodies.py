"""Answers without a body, and what results have of an upstream's headers and errors; real servers on loopback."""

from __future__ import annotations

import pytest
from aiokafka import ConsumerRecord
from marshmallow import Schema, fields

from agents.ask import Asker
from agents.enrich import Enricher
from agents.enriched import Enriched
from agents.known import know
from agents.letters import dead_letter_headers
from models import documents
from models.checks import Call
from models.errors import InvalidDocument
from models.letter import DLQ
from models.request import Request
from models.result import ResultSchema, encode_answer, is_shared, read_result
from models.source import Source, Sources
from models.template import UrlTemplate
from streams.cache.front import Cache
from streams.functions import Caller
from streams.http.client import Client
from streams.http.terms import terms_of
from streams.tiers import MemoryTier
from tests.unit.agents.test_ask import (  # noqa: F401  fixtures
    LIMIT,
    LOOPBACK,
    Pool,
    asker,
    enricher,
    in_5_seconds,
    opened,
    serve,
    terms,
    upstream,
    wanted,
)


@documents.schema("counted")
class CountedSchema(Schema):
    """A plugin's."""

    n = fields.Integer(required=True)

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
    asked = await asker.ask(wanted(upstream, schema="json"), {}, in_5_seconds(), {})
    shared = encode_answer(None, asked.answer)
    assert is_shared(shared)
    assert Enriched(shared, b"hit", 1.0, None).outcome == "ok"


# -- what a result has of headers and errors


async def test_a_result_has_the_headers_that_its_source_names(upstream, serve):
    """Of the answer fetched, in its hits too; after a 304 those that it brings, the others as they were."""
    source = Source("s", UrlTemplate(upstream.url + "/"), schema="text", response_headers=("etag", "x-quota", "x-none"))
    first = {"ETag": '"1"', "X-Quota": "9", "Cache-Control": "no-cache", "X-Other": "1"}
    upstream.says("/", {"text": 'a,"headers":{"x":1},"attempts":1', "headers": first},
                  {"status": 304, "headers": {"X-Quota": "8", "Cache-Control": "max-age=60"}})  # fmt: skip
    async with Client(LIMIT, LOOPBACK) as client, MemoryTier().open() as tiers:
        terms = {"s": terms_of(source, client.terms, client.post)}
        enricher = Enricher(Asker(client, Caller(LIMIT), terms), Pool(), Cache(*tiers), 5)
        asked = know(Request(source="s", schema="text"), Sources({"s": source}))
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
        await asker.ask(wanted(upstream)._replace(request=Request(url=upstream.url + "/")), {}, in_5_seconds(), {})
    assert caught.value.body == "<h1>Down for maintenance</h1>"


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
