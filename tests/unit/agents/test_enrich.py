"""Fetching once for all who wait, what the cache keeps, and every end a request can come to."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from marshmallow import Schema, post_load

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.answer.parsed_requests import parse_request
from models import documents, strictjson
from models.documents import Body
from models.errors import (
    Denied,
    InvalidDocument,
    InvalidRequest,
    Overloaded,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from models.request import Request
from models.source import NEGATIVE_TTL
from streams.cache.check_results import CheckResults
from streams.cache.entry import Entry
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.http.response import Response
from tests.fakes import Clock, Pool

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


class FakeClient:
    """Answers each fetch from a list, the last one again and again: a body, an error, or an event to wait for first."""

    def __init__(self, *answers):
        self.answers = list(answers) or [b"null"]
        self.calls = []
        self.headers = {}
        self._changed = asyncio.Event()

    async def fetch(self, method, url, headers, body=None, *, deadline=None, **_):
        self.calls.append((method, url, dict(headers), body, deadline))
        self._changed.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = b'"late"'
        if isinstance(answer, Exception):
            raise answer
        return Response(200, Body(answer, "application/json"), self.headers, attempts=2)

    async def until(self, count):
        """Wait until that many fetches have begun."""
        async with asyncio.timeout(PATIENCE):
            while len(self.calls) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def clock(monkeypatch):
    return Clock.of_day(monkeypatch)


@pytest.fixture
async def cache(clock):
    cache = Cache((MemoryTier(ttl=60.0),), clock=clock)
    cache.memory._clock = clock
    async with cache:
        yield cache


@pytest.fixture
async def pool():
    return Pool()


@pytest.fixture
async def enricher_of(cache, pool):
    """Make an enricher over a client, which ends with the test."""
    async with AsyncExitStack() as stack:

        def make(client, timeout=PATIENCE):
            enricher = Enricher(Fetcher(client, None, {}), pool, cache, timeout)
            stack.push_async_exit(enricher)
            return enricher

        yield make


URL = "http://example.org/"
PLAIN = parse_request(Request(url=URL))


def wanted(**members):
    return parse_request(Request(**{"url": URL, **members}))


def kept(shared=b'"outcome":"ok","document":"kept"', *, age=0.0, fresh=True, error=None):
    """Make an entry of the cache that was fetched so many seconds ago."""
    now = time.time()
    until = now + 60 if fresh else now - 1
    return Entry(shared, now - age, until, error, refresh_at=until, revalidate_until=until, usable_until=until + 300)


def said(enriched):
    return strictjson.loads(b"{" + enriched.shared + b"}")


async def settle():
    """Let tasks get as far as they get without help."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_miss_is_fetched_loaded_and_kept(enricher_of, cache):
    """The first to ask is answered by the upstream; the next look into the cache finds that answer."""
    client = FakeClient(b'{"n":7}')
    enricher = enricher_of(client)
    before = time.time()
    assert enricher.peek(PLAIN, before) is None
    enriched = await enricher.answer(PLAIN, {})
    assert (enriched.cache, enriched.error) == (b"miss", None)
    assert before <= enriched.as_of <= time.time()
    members = said(enriched)
    assert (members["outcome"], members["status"], members["document"], members["attempts"]) == ("ok", 200, {"n": 7}, 2)
    entry = enricher.peek(PLAIN, time.time())
    until = enriched.as_of + 60
    assert entry == Entry(enriched.shared, enriched.as_of, until, None, until - 12, until, until + 300,
                          check_results=CheckResults(), asked_at=entry.asked_at)  # fmt: skip
    assert before <= entry.asked_at <= enriched.as_of
    assert (len(client.calls), len(cache.memory)) == (1, 1)


async def test_the_client_is_asked_as_the_request_says(enricher_of):
    """Method, URL, headers and body go to the client, with the trace among the headers, and the deadline."""
    client = FakeClient()
    known = wanted(method="PUT", headers={"A": "b", "traceparent": "own"}, body=[1], timeout=3.0)
    before = time.monotonic()
    await enricher_of(client).answer(known, {"traceparent": "00-x", "tracestate": "y"})
    ((method, url, headers, body, deadline),) = client.calls
    assert (method, url, body) == ("PUT", URL, [1])
    assert headers == {"A": "b", "traceparent": "00-x", "tracestate": "y"}
    assert 2.9 < deadline - before < 4


async def test_an_answer_that_came_between_look_and_fetch_is_a_hit(enricher_of, cache):
    """Who finds the answer there when about to fetch does not fetch."""
    client = FakeClient()
    entry = kept(age=12.5)
    cache.put(PLAIN.key, entry)
    assert await enricher_of(client).answer(PLAIN, {}) == EncodedAnswer.of(entry, b"hit")
    assert client.calls == []


async def test_all_who_ask_at_once_share_one_fetch(enricher_of):
    """One is the miss, the others coalesced, all with the same answer, from one call."""
    gate = asyncio.Event()
    client = FakeClient(gate)
    enricher = enricher_of(client)
    asking = [asyncio.create_task(enricher.answer(PLAIN, {})) for _ in range(5)]
    await client.until(1)
    await settle()
    gate.set()
    answers = await asyncio.gather(*asking)
    assert [enriched.cache for enriched in answers] == [b"miss"] + [b"coalesced"] * 4
    assert len({enriched.shared for enriched in answers}) == 1
    assert len({enriched.as_of for enriched in answers}) == 1
    assert len(client.calls) == 1


async def test_different_requests_do_not_share(enricher_of):
    """Only the same request waits for a flight."""
    gate = asyncio.Event()
    client = FakeClient(gate)
    enricher = enricher_of(client)
    asking = [asyncio.create_task(enricher.answer(wanted(headers={"A": text}), {})) for text in "xyz"]
    await client.until(3)
    gate.set()
    assert [enriched.cache for enriched in await asyncio.gather(*asking)] == [b"miss"] * 3


ERRORS = [
    (UpstreamError("no", 503), True),
    (UpstreamError("no", 404), True),
    (TooLarge("big"), True),
    (Unreachable("gone"), True),
    (InvalidDocument("odd"), True),
    (Denied("rule"), False),
    (TimedOut("late"), False),
    (Overloaded("busy"), False),
]


@pytest.mark.parametrize(("error", "repeated"), ERRORS)
async def test_who_waits_shares_the_error_too(enricher_of, clock, error, repeated):
    """A fetch that fails has failed for all who waited for it; for others who ask in the next moment only if they
    would meet the same.
    """
    gate = asyncio.Event()

    class Failing(FakeClient):
        async def fetch(self, *arguments, **options):
            await super().fetch(*arguments, **options)
            error.attempts = 3
            raise error

    client = Failing(gate)
    enricher = enricher_of(client)
    asking = [asyncio.create_task(enricher.answer(PLAIN, {})) for _ in range(3)]
    await client.until(1)
    await settle()
    gate.set()
    answers = await asyncio.gather(*asking)
    assert [(enriched.cache, enriched.error) for enriched in answers] == [
        (b"miss", error),
        (b"coalesced", error),
        (b"coalesced", error),
    ]
    assert said(answers[0])["error"] == error.describe()
    assert said(answers[0])["attempts"] == 3
    assert said(answers[0]).get("status") == getattr(error, "status", None)
    assert answers[0].as_of is None
    again = await enricher.answer(PLAIN, {})
    assert (again.cache, again.error) == (b"hit" if repeated else b"miss", error)
    assert len(client.calls) == (1 if repeated else 2)
    clock.now += NEGATIVE_TTL
    assert (await enricher.answer(PLAIN, {})).cache == b"miss"


async def test_a_leader_out_of_time_leaves_the_fetch_to_one_who_has_time(enricher_of):
    """The deadline of whoever fetches first ends nobody else's wait: a follower fetches, and the rest follow it."""
    never, gate = asyncio.Event(), asyncio.Event()
    client = FakeClient(never, gate)
    enricher = enricher_of(client)
    leader = asyncio.create_task(enricher.answer(wanted(timeout=0.02), {}))
    await client.until(1)
    followers = [asyncio.create_task(enricher.answer(PLAIN, {})) for _ in range(3)]
    timed_out = await leader
    assert isinstance(timed_out.error, TimedOut)
    assert said(timed_out)["error"]["message"] == "no answer within 0.02 s"
    await client.until(2)
    gate.set()
    answers = await asyncio.gather(*followers)
    assert sorted(enriched.cache for enriched in answers) == [b"coalesced", b"coalesced", b"miss"]
    assert {said(enriched)["document"] for enriched in answers} == {"late"}
    assert len(client.calls) == 2


async def test_a_cancelled_leader_leaves_the_fetch_to_a_follower(enricher_of):
    """A lease that was revoked takes its own work along, and not that of other partitions which waited for it."""
    never = asyncio.Event()
    client = FakeClient(never, b'"second"')
    enricher = enricher_of(client)
    leader = asyncio.create_task(enricher.answer(PLAIN, {}))
    await client.until(1)
    follower = asyncio.create_task(enricher.answer(PLAIN, {}))
    await settle()
    leader.cancel()
    assert (await follower).cache == b"miss"
    assert leader.cancelled()
    assert said(await follower)["document"] == "second"


async def test_a_follower_out_of_time_harms_nobody(enricher_of):
    """Who waits for another's fetch keeps its own deadline, and the fetch goes on."""
    gate = asyncio.Event()
    client = FakeClient(gate)
    enricher = enricher_of(client)
    leader = asyncio.create_task(enricher.answer(PLAIN, {}))
    await client.until(1)
    assert isinstance((await enricher.answer(wanted(timeout=0.01), {})).error, TimedOut)
    gate.set()
    assert (await leader).error is None
    assert len(client.calls) == 1


async def test_a_fault_of_ours_does_not_hold_up_who_waited(enricher_of):
    """Whatever a fetch raises that is no answer comes out, and the next in line fetches."""
    client = FakeClient(LookupError("a bug"), b"1")
    enricher = enricher_of(client)
    first, second = (asyncio.create_task(enricher.answer(PLAIN, {})) for _ in range(2))
    with pytest.raises(LookupError, match="a bug"):
        await first
    assert (await second).cache == b"miss"


async def test_the_default_deadline_is_the_worker_s(enricher_of, cache):
    """A request that names no timeout gets the worker's, and a late answer is a retryable error that nobody keeps."""
    enriched = await enricher_of(FakeClient(asyncio.Event()), timeout=0.01).answer(PLAIN, {})
    assert (enriched.cache, enriched.as_of, len(cache.memory)) == (b"miss", None, 0)
    assert said(enriched) == {
        "outcome": "timeout",
        "request": {"method": "GET", "url": URL},
        "error": {"type": "TimedOut", "message": "no answer within 0.01 s", "retryable": True},
    }


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_what_may_change_something_is_never_kept_nor_shared(enricher_of, cache, method):
    """Each such request is fetched for itself, side by side, and its answer goes to nobody else."""
    gate = asyncio.Event()
    client = FakeClient(gate)
    enricher = enricher_of(client)
    known = wanted(method=method)
    asking = [asyncio.create_task(enricher.answer(known, {})) for _ in range(3)]
    await client.until(3)
    gate.set()
    assert [enriched.cache for enriched in await asyncio.gather(*asking)] == [b"bypass"] * 3
    assert len(cache.memory) == 0
    assert enricher.peek(known, time.time()) is None


async def test_a_bypass_that_is_late_says_so(enricher_of):
    """Also without the cache the deadline holds."""
    enriched = await enricher_of(FakeClient(asyncio.Event())).answer(wanted(method="POST", timeout=0.01), {})
    assert (enriched.cache, enriched.error.outcome) == (b"bypass", "timeout")


async def test_max_age_zero_fetches_now_and_renews_the_cache(enricher_of, cache):
    """Neither a cached answer nor a flight under way will do, and what is fetched is there for the less strict."""
    gate = asyncio.Event()
    client = FakeClient(gate, b'"fresh"')
    enricher = enricher_of(client)
    cache.put(PLAIN.key, kept())
    strict = wanted(max_age=0.0)
    assert enricher.peek(strict, time.time()) is None
    first = asyncio.create_task(enricher.answer(strict, {}))
    await client.until(1)
    second = await enricher.answer(strict, {})
    assert (second.cache, said(second)["document"]) == (b"bypass", "fresh")
    assert enricher.peek(PLAIN, time.time()).shared == second.shared
    gate.set()
    assert (await first).cache == b"bypass"


@pytest.mark.parametrize(("max_age", "found"), [(None, True), (9.9, False), (10.0, True), (3600.0, True)])
async def test_an_answer_older_than_wanted_is_not_taken(enricher_of, cache, max_age, found):
    """max_age bounds the age of a cached answer, to the second it says."""
    now = time.time()
    entry = Entry(b'"outcome":"ok"', now - 10, now + 1000, refresh_at=now + 1000)
    cache.put(PLAIN.key, entry)
    assert (enricher_of(FakeClient()).peek(wanted(max_age=max_age), now) is entry) is found


async def test_an_answer_too_old_is_fetched_anew(enricher_of, cache):
    """Where the cached answer is older than wanted, the request is a miss, and the new answer takes its place."""
    client = FakeClient(b'"new"')
    cache.put(PLAIN.key, kept(age=100))
    enriched = await enricher_of(client).answer(wanted(max_age=50.0), {})
    assert (enriched.cache, said(enriched)["document"]) == (b"miss", "new")
    assert cache.peek(PLAIN.key).shared == enriched.shared


async def test_a_failure_for_want_of_time_is_nobody_else_s(enricher_of, cache):
    """An error that a later deadline might have spared is neither kept nor shared: who waited asks again."""
    gate = asyncio.Event()
    hurried = UpstreamError("no", 503)
    hurried.deadline_bound = True

    class Hurried(FakeClient):
        async def fetch(self, *arguments, **options):
            first = not self.calls
            response = await super().fetch(*arguments, **options)
            if first:
                raise hurried
            return response

    client = Hurried(gate, b'"second"')
    enricher = enricher_of(client)
    leader = asyncio.create_task(enricher.answer(PLAIN, {}))
    await client.until(1)
    follower = asyncio.create_task(enricher.answer(PLAIN, {}))
    await settle()
    gate.set()
    assert (await leader).error is hurried
    assert ((await follower).cache, said(await follower)["document"]) == (b"miss", "second")
    assert cache.peek(PLAIN.key).error is None


STALE_AFTER = [Unreachable("gone"), UpstreamError("no", 503), TimedOut("late"), Overloaded("busy")]


@pytest.mark.parametrize("error", STALE_AFTER)
async def test_an_answer_past_its_freshness_stands_in_for_a_failure(enricher_of, cache, error):
    """No hit any more, but better than an error that may pass: the old answer is given, said to be stale, and kept;
    its upstream has a rest.
    """
    entry = kept(age=100, fresh=False)
    cache.put(PLAIN.key, entry)
    client = FakeClient(error)
    assert enricher_of(client).peek(PLAIN, time.time()) is None
    assert await enricher_of(client).answer(PLAIN, {}) == EncodedAnswer.of(entry, b"stale")
    assert (len(client.calls), cache.peek(PLAIN.key)) == (1, entry._replace(ask_after=time.time() + NEGATIVE_TTL))


async def test_an_answer_past_its_freshness_stands_in_for_none_in_time(enricher_of, cache):
    """Where the deadline passes, the old answer is better than a timeout."""
    cache.put(PLAIN.key, kept(fresh=False))
    assert (await enricher_of(FakeClient(asyncio.Event()), timeout=0.01).answer(PLAIN, {})).cache == b"stale"


@pytest.mark.parametrize("error", [UpstreamError("gone for good", 410), UpstreamError("no", 404), TooLarge("big")])
async def test_a_failure_that_is_meant_takes_the_place_of_what_was_kept(enricher_of, cache, error):
    """An error that will not pass is told, whatever the cache still has, which nobody gets any more."""
    cache.put(PLAIN.key, kept(fresh=False))
    assert (await enricher_of(FakeClient(error)).answer(PLAIN, {})).error is error
    assert cache.peek(PLAIN.key).error is error


async def test_a_fetch_that_is_denied_is_not_papered_over(enricher_of, cache):
    """What a rule forbids is told though the cache has an answer past its freshness."""
    cache.put(PLAIN.key, kept(fresh=False))
    error = Denied("rule")
    assert (await enricher_of(FakeClient(error)).answer(PLAIN, {})).error is error


@pytest.mark.parametrize("max_age", [0.0, 50.0])
async def test_an_answer_older_than_wanted_stands_in_for_nothing(enricher_of, cache, max_age):
    """Who wants no answer that old gets the error."""
    cache.put(PLAIN.key, kept(age=100, fresh=False))
    enriched = await enricher_of(FakeClient(Unreachable("gone"))).answer(wanted(max_age=max_age), {})
    assert isinstance(enriched.error, Unreachable)


async def test_a_failure_that_is_kept_does_not_stand_in_for_the_next(enricher_of, cache):
    """One failure is no answer for another."""
    cache.put(PLAIN.key, kept(fresh=False, error=Unreachable("first")))
    second = Unreachable("second")
    assert (await enricher_of(FakeClient(second)).answer(PLAIN, {})).error is second


@pytest.mark.parametrize(
    ("cache_control", "fresh_for", "kept_for"),
    [
        (None, 60, 360),
        ("max-age=10", 10, 310),
        ("max-age=10, stale-if-error=5", 10, 15),
        ("max-age=10, must-revalidate", 10, 10),
        ("max-age=0", 0, 300),
        ("no-store", 0, 0),
        ("private", 0, 0),
        ("no-cache, must-revalidate", 0, 0),
    ],
)
async def test_the_upstream_says_how_long_its_answer_is_kept(  # noqa: PLR0917  a table of three columns
    enricher_of, cache, clock, cache_control, fresh_for, kept_for
):
    """Cache-Control bounds how long an answer is a hit, and how long it may stand in for a failure."""
    client = FakeClient()
    client.headers = {"Cache-Control": cache_control} if cache_control else {}
    enricher = enricher_of(client)
    enriched = await enricher.answer(PLAIN, {})
    moments = (enriched.as_of + seconds for seconds in (0, max(0, fresh_for - 0.1), fresh_for + 0.1))
    found = [enricher.peek(PLAIN, moment) is not None for moment in moments]
    assert found[0] is found[1] is (fresh_for > 0)
    assert found[2] is False
    clock.now += kept_for - 0.1
    assert (cache.peek(PLAIN.key) is not None) is (kept_for > 0)
    clock.now += 0.2
    assert cache.peek(PLAIN.key) is None


async def test_a_stale_entry_is_no_hit(enricher_of, cache, clock):
    """After its time to live an answer is gone, whatever age is wanted."""
    client = FakeClient()
    cache.put(PLAIN.key, kept())
    clock.now += 61
    assert (await enricher_of(client).answer(wanted(max_age=1e9), {})).cache == b"miss"


@pytest.mark.parametrize(
    ("members", "content", "error"),
    [
        ({}, b"{", "not JSON"),
        ({}, b"[" * 100, "nested deeper than 64 levels"),
        ({"schema": "text"}, b"\xff", "the body is not utf-8 at byte 0"),
    ],
)
async def test_a_body_that_does_not_load_is_an_invalid_document(enricher_of, cache, members, content, error):
    """What the upstream sent is told as the document's fault, with how often it was asked."""
    enriched = await enricher_of(FakeClient(content)).answer(wanted(**members), {})
    assert said(enriched)["outcome"] == "invalid_document"
    assert said(enriched)["error"]["message"].startswith(error)
    assert said(enriched)["attempts"] == 2
    assert cache.peek(PLAIN.key if not members else wanted(**members).key).error is enriched.error


def test_a_source_that_is_not_configured_is_an_invalid_request():
    """A source by a name that nobody gave is told by name before anything is fetched."""
    with pytest.raises(InvalidRequest, match=r"^source: no source 'quotes'; known: none; MILLRACE_SOURCES names"):
        parse_request(Request(source="quotes"))


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}, "\ud800", b"bytes", object()])
async def test_a_plugin_s_document_that_json_cannot_say_is_invalid(enricher_of, monkeypatch, value):
    """What a plugin's schema makes of a body is told as its fault where it cannot be written."""

    class Odd(Schema):
        @post_load
        def _odd(self, *_, **__):
            return value

        def dump(self, loaded, **_):
            return loaded

    monkeypatch.setattr(documents, "_REGISTRY", {"odd": Odd})
    monkeypatch.setattr(documents, "_INSTANCES", {"odd": Odd()})
    enriched = await enricher_of(FakeClient(b"{}")).answer(wanted(schema="odd"), {})
    assert said(enriched)["outcome"] == enriched.error.outcome == "invalid_document"
    assert said(enriched)["error"]["message"].startswith("schema odd: ")
