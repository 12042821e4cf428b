"""Work on large values: done in another process, with the same outcome as here, while the event loop goes on."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager

import psutil
import pytest

import models.large
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.answer.parsed_requests import LargeRequest, ParsedRequestCache, parse_request, salvage_id
from models import documents
from models.checks import Call
from models.documents import Body
from models.errors import InternalError, InvalidDocument, InvalidRequest, Overloaded, TooLarge
from models.large import LARGE
from models.process import RESTING
from models.request import Request
from models.source import CachePolicy, Source, Sources
from models.template import JsonTemplate, UrlTemplate
from streams.cache.entry import encode_entry, fresh_entry
from streams.cache.freshness import Freshness
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.http.request import with_body
from streams.http.response import Response
from streams.pool import CheckPool, LargeWork
from tests.turns import FOLLOWED, allowed, least, longest_turn

pytestmark = pytest.mark.slow

MEBI = 1 << 20
LIMIT = MEBI

# Each of a size that the default limits let in.
BODIES = {
    "objects": b"[" + b",".join([b'{"a":1.10,"b":"x"}'] * (3 * MEBI // 19)) + b"]",
    "lists": b"[" + b",".join([b"[]"] * (3 * MEBI // 3)) + b"]",
    "numbers": b"[" + b",".join([b"0.1"] * (8 * MEBI // 4 - 1)) + b"]",
    "brackets": b"[" * (8 * MEBI),
    "a string": b'"' + b"\\n" * (4 * MEBI - 1) + b'"',
    "cut short": b"[" + b'{"a":1},' * (8 * MEBI // 8 - 1),
}


class Upstream:
    """Answers with one body; stands in for the client."""

    def __init__(self, content, media_type="application/json", charset=None):
        self.body = Body(content, media_type, charset)
        self.calls = 0

    async def fetch(self, *_args, **_options):
        self.calls += 1
        return Response(200, self.body, {})


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """However busy the machine is: the tests of the time limit set one of their own."""
    monkeypatch.setattr("streams.pool.pool.CHECK_TIMEOUT", 60.0)


@pytest.fixture
async def large():
    async with LargeWork() as opened:
        # The first use starts the process.
        assert await opened.run("load a document", b"[1 , 2]", "application/json", None, "json", LIMIT) == b"[1,2]"
        yield opened


@asynccontextmanager
async def enricher(upstream, large, limit=LIMIT, pool=None):
    async with Cache((MemoryTier(),)) as cache:
        asker = Fetcher(upstream, None, {}, large, lambda: limit)
        async with Enricher(asker, pool, cache, 30.0, CachePolicy(ttl=60.0), limit=lambda: limit) as opened:
            yield opened


async def test_a_body_is_handed_over_in_slices(large):
    """It goes to the process as it is: 64 MiB take no longer a turn than one does."""
    body = b"\xff" * (64 * MEBI)
    found, longest = await longest_turn(large.run("load a document", body, "application/json", None, "json", LIMIT))
    assert isinstance(found, InvalidDocument)
    assert longest < allowed()


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("schema", ["json", "text"])
async def test_no_document_holds_up_the_event_loop(large, kind, schema):
    """Whatever the limits let in is loaded elsewhere: no turn of the loop is longer than 20 ms, and it has an end."""
    async with enricher(Upstream(BODIES[kind]), large) as opened:
        known = parse_request(Request(url="http://a/", schema=schema))
        found, longest = await longest_turn(opened.answer(known, {}))
    assert found.outcome in ("too_large", "invalid_document")
    assert longest < allowed()


async def test_a_large_document_is_the_one_that_would_be_loaded_here(large):
    """Just below the limit, it comes as it came, digits and all, and its checks read it where they run."""
    body = b'{"n":7,"price":1.10,"fill":[' + b",".join([b"0.10"] * 100_000) + b"]}"
    async with CheckPool(1) as pool, enricher(Upstream(body), large, pool=pool) as opened:
        calls = (Call("is_prime", "n"), Call("is_prime", "fill.99999"), Call("is_prime", "gone"))
        known = parse_request(Request(url="http://a/", checks=calls))
        found, longest = await longest_turn(opened.answer(known, {}))
        assert b'"document":' + body in found.shared
        told = json.loads(b"{%b}" % found.shared)["checks"]
        again, _ = await longest_turn(opened.answer(known, {}))
    assert told[0]["value"] is True
    assert told[1]["error"].startswith("TypeError: takes an integer")
    assert told[2]["error"] == "the document has no field 'gone'"
    assert again.cache == b"hit"
    assert longest < allowed()


async def test_what_is_wrong_is_told_in_the_same_words(large):
    """A refusal of the other process is the error that it would be here."""
    for content in (b"[" + b"1," * LARGE, b'{"a":1,"a":2,"b":"' + b"x" * LARGE + b'"}', b"\xff" * (LARGE + 1)):
        with pytest.raises(InvalidDocument) as here:
            documents.load("json", Body(content))
        with pytest.raises(InvalidDocument) as there:
            await large.run("load a document", content, "application/json", None, "json", LIMIT)
        assert str(there.value) == str(here.value)


async def test_a_result_that_its_topic_does_not_take_is_too_large_from_the_start(large):
    """The outcome is known before anything is kept or counted; it is remembered like other failures."""
    upstream = Upstream(json.dumps(["x" * 100] * 25_000).encode())  # 2.6 MiB
    async with enricher(upstream, large) as opened:
        known = parse_request(Request(url="http://a/"))
        first = await opened.answer(known, {})
        again = opened.peek(known, time.time())
    assert (first.outcome, first.error.attempts, upstream.calls) == ("too_large", 1, 1)
    assert isinstance(again.error, TooLarge)
    assert b"document" not in first.shared


async def test_a_small_document_may_be_too_large_as_well():
    """Where the topic takes little, a result is measured as a whole, on this side."""
    async with enricher(Upstream(b'"' + b"x" * 500 + b'"'), None, limit=300) as opened:
        assert (await opened.answer(parse_request(Request(url="http://a/")), {})).outcome == "too_large"


async def test_checks_can_make_a_result_too_large():
    """What is kept fits, what checks add does not: the request that asks for them is told, others get their hit."""
    async with CheckPool(1) as pool, enricher(Upstream(b"7"), None, limit=200, pool=pool) as opened:
        plain = parse_request(Request(url="http://a/"))
        checked = parse_request(Request(url="http://a/", checks=(Call("is_prime"), Call("sha256"))))
        assert (await opened.answer(plain, {})).outcome == "ok"
        assert (await opened.answer(checked, {})).outcome == "too_large"
        assert opened.peek(checked, time.time()) is None
        assert (await opened.answer(checked, {})).outcome == "too_large"
        assert opened.peek(plain, time.time()) is not None


async def test_what_another_worker_keeps_may_be_too_large_here(monkeypatch):
    """A lower tier's answer that our topic would not take is no hit: the upstream is asked."""
    upstream = Upstream(b"7")
    async with enricher(upstream, None, limit=300) as opened:
        cache, known = opened._cache, parse_request(Request(url="http://a/"))
        entry = fresh_entry(b'"outcome":"ok","document":"%b"' % (b"x" * 500), time.time(), Freshness(60, 60, 60))

        async def find(key):
            cache.put_in_memory(key, entry)
            return entry

        monkeypatch.setattr(cache, "lower", [object()])
        monkeypatch.setattr(cache, "find", find)
        monkeypatch.setattr(cache, "put", cache.put_in_memory)
        found = await opened.answer(known, {})
        assert (found.outcome, found.cache, upstream.calls) == ("ok", b"miss", 1)
        monkeypatch.setattr(cache, "lower", [])


async def test_without_a_process_it_is_our_fault(monkeypatch):
    """A process that does not start fails the request for now; the worker goes on."""
    monkeypatch.setattr("streams.pool.child.sys.executable", "/nowhere/python")
    async with LargeWork() as work:
        with pytest.raises(InternalError, match="do not start"):
            await work.run("load a document", b"1", "application/json", None, "json", LIMIT)


async def test_a_request_that_is_read_too_slowly_may_be_sent_again(monkeypatch):
    """A worker too busy to read a valid request in time says so: the request is not invalid."""
    monkeypatch.setattr("streams.pool.pool.CHECK_TIMEOUT", 0.001)
    async with LargeWork() as work:
        with pytest.raises(Overloaded, match=r"ran longer than 0.001 s: the worker is too busy") as caught:
            await work.run("read a request", REQUESTS["numbers"])
    assert caught.value.retryable


async def test_a_request_that_no_process_comes_to_read_may_be_sent_again(monkeypatch):
    """Processes that are ended before they have begun to read it, time and again, are no fault of the request."""
    monkeypatch.setattr("streams.pool.pool.CHECK_TIMEOUT", 0.001)
    monkeypatch.setattr("streams.pool.child.Child.running", lambda self: (RESTING, self.started))
    async with LargeWork() as work:
        with pytest.raises(Overloaded, match="the worker is too busy"):
            await work.run("read a request", REQUESTS["numbers"])


async def test_work_that_takes_too_long_is_ended(monkeypatch):
    """Whatever a plugin's schema does there, it ends, and the next document is loaded."""
    monkeypatch.setattr("streams.pool.pool.CHECK_TIMEOUT", 0.5)
    async with LargeWork(["tests.unit.streams.endless_schema"]) as work:
        with pytest.raises(InvalidDocument, match=r"ran longer than 0.5 s$"):
            await work.run("load a document", b"{}", "application/json", None, "endless", LIMIT)
        assert await work.run("load a document", b"a", "text/plain", None, "text", LIMIT) == b'"a"'


REQUESTS = {
    "a dense body": b'{"id":"x","url":"http://a/","method":"POST","body":[%b]}' % b",".join([b"[]"] * 340_000),
    "numbers": b'{"url":"http://a/","method":"POST","body":[%b],"id":"x"}' % b",".join([b"1.10"] * 200_000),
    "a long text": b'{"id":"x","url":"http://a/","method":"POST","body":"%b"}' % (b"\\n" * 500_000),
    "dense params": b'{"id":"x","source":"s","params":{"p":[%b]}}' % b",".join([b'{"a":1}'] * 120_000),
    "dense arguments": b'{"id":"x","url":"http://a/","checks":[{"name":"one_of","args":{"values":[%b]}}]}'
    % b",".join([b"1.10"] * 200_000),
    "no JSON": b'{"id":"x","url":"http://a/","body":[%b' % b",".join([b"[]"] * 340_000),
}
SOURCES = Sources({"s": Source("s", UrlTemplate("http://a/"), method="POST", body=JsonTemplate({"all": "{p}"}))})


@pytest.mark.parametrize("kind", REQUESTS)
async def test_no_request_holds_up_the_event_loop(large, kind, monkeypatch):
    """Whatever a request of 1 MiB holds, it is read elsewhere and in turns of less than 20 ms."""
    monkeypatch.setattr("streams.pool.pool.CHECK_TIMEOUT", 60.0)  # however long that takes there on a busy machine
    value = REQUESTS[kind]
    book = ParsedRequestCache(SOURCES, large)
    with pytest.raises(LargeRequest):
        book.parse(value)
    found, longest = await longest_turn(book.read_large(value))
    assert longest < allowed()
    if isinstance(found, InvalidRequest):
        assert (kind, salvage_id(value)) == ("no JSON", b'"x"')
        return
    request_id, known = found
    _, data = with_body(known.request.headers, known.request.body)
    assert least(lambda: with_body(known.request.headers, known.request.body)) < allowed()
    assert request_id == b'"x"'
    plain = ParsedRequestCache(SOURCES).parse(value)[1].request
    assert data == with_body(plain.headers, plain.body)[1]


DENSE = {
    "numbers": (b"1.10", b'{"id":"x","url":"http://a/","checks":[{"name":"one_of","args":{"values":[%b]}}]}'),
    "objects": (b'{"a":1.10}', b'{"id":"x","url":"http://a/","checks":[{"name":"one_of","args":{"values":[%b]}}]}'),
    "schemas": (
        b"{}",
        b'{"id":"x","url":"http://a/","checks":[{"name":"json_schema","args":{"schema":{"allOf":[%b]}}}]}',
    ),
    "negative zeros": (b"-0", b'{"id":"x","url":"http://a/","method":"POST","body":[%b]}'),
    "nested": (b"[" * 60 + b"]" * 60, b'{"id":"x","url":"http://a/","method":"POST","body":[%b]}'),
}


@pytest.mark.parametrize("kind", DENSE)
async def test_many_short_values_are_read_elsewhere_too(large, kind):
    """A request below 64 KiB with more values than the event loop reads in its turn."""
    piece, around = DENSE[kind]
    book = ParsedRequestCache(None, large)
    value = around % b",".join([piece] * (60_000 // (len(piece) + 1)))
    with pytest.raises(LargeRequest):
        book.parse(value)
    (_, known), longest = await longest_turn(book.read_large(value))
    assert longest < allowed()
    here = ParsedRequestCache().parse(value)[1].request
    assert with_body(known.request.headers, known.request.body)[1] == with_body(here.headers, here.body)[1]


async def test_a_request_of_some_values_is_read_at_once(large):
    """Below the number, and for a long text, nothing is handed over; it takes less than a turn."""
    book = ParsedRequestCache(None, large)
    args = b",".join([b'{"a":1.10}'] * 900)
    for value in (b'{"url":"http://a/","checks":[{"name":"one_of","args":{"values":[%b]}}]}' % args,
                  b'{"url":"http://a/","method":"POST","body":"%b"}' % (b"x" * 60_000)):  # fmt: skip
        assert least(lambda value=value: book.parse(value)) < FOLLOWED * allowed()


async def test_arguments_that_were_left_as_text_are_the_same_where_checks_run(large):
    """A check gets its arguments as values, however large the request was that gave them."""
    _, known = await ParsedRequestCache(None, large).read_large(REQUESTS["dense arguments"])
    async with CheckPool(1) as pool:
        [call] = known.request.checks
        verdicts = [await pool.submit(call.name, value, call.args) for value in (1.1, 2)]
    assert [verdict.value for verdict in verdicts] == [True, False]


async def test_requests_that_differ_deep_inside_are_kept_apart(large):
    """The digest of what was left as text is part of the entry's and the check's key."""
    book = ParsedRequestCache(None, large)
    bodies = [
        b'{"url":"http://a/","body":{"b":1,"a":[%b]}}' % b",".join([b"1"] * 50_000 + [end]) for end in (b"1", b"2")
    ]
    one, other = [(await book.read_large(body))[1] for body in bodies]
    again = (await book.read_large(bodies[0].replace(b'"b":1,', b"").replace(b"]}}", b'],"b":1}}')))[1]
    assert one.key != other.key
    assert one.key == again.key


@pytest.mark.parametrize("whole", [True, False])
async def test_a_large_entry_of_a_lower_tier_is_looked_at_elsewhere(large, whole):
    """What another worker kept is verified as ever, without holding up the event loop, and refused if it is broken."""
    now = time.time()
    document = b"[" + b"[]," * 300_000 + b"1]" * whole
    shared = (b'"outcome":"ok","request":{"method":"GET","url":"http://a/"},"status":200,"document":%b,"attempts":1,'
              b'"fetched_at":"2026-11-29T10:00:00.000Z"' % document)  # fmt: skip
    entry = fresh_entry(shared, now, Freshness(60, 60, 60))

    class Lower:
        NAME = "lower"

        async def multi_get(self, keys):
            return [encode_entry(key, entry) if key == b"k" else None for key in keys]

        async def delete(self, _key):
            return True

    async with Cache((MemoryTier(),), large=large) as cache:
        cache.lower.append(Lower())
        found, longest = await longest_turn(cache.find(b"k"))
        assert (found is not None) is whole
        assert cache.counts["refused"] == (not whole)
        assert longest < allowed()
        cache.lower.clear()


@pytest.mark.skipif(models.large._malloc_trim is None, reason="this C library gives nothing back")
async def test_the_process_gives_back_what_large_values_took():
    """Three documents of 3 MiB took some 25 MiB for ever; what comes after them is answered once that is given back."""
    async with LargeWork() as work:

        async def load(body):
            await work.run("load a document", body, "application/json", None, "json", 8 * MEBI)
            return psutil.Process(work._pool._workers.slots[0].child.pid).memory_info().rss

        before = await load(b"[]")
        for _ in range(3):
            await load(BODIES["objects"])
        assert await load(b"[]") < before + 10 * MEBI
