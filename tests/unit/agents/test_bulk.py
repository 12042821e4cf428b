"""Bulk lookups: which requests share a call, how it leaves, and what each of them gets when it ends."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest

from agents.answer.bulk import MAX_URL, STEP, BulkFetcher
from agents.answer.parsed_requests import parse_request
from agents.testing import AsyncHarness, Reply
from models import large
from models.documents import Body
from models.errors import InvalidDocument, Unreachable, UpstreamError
from models.large import LARGE
from models.request import Request
from streams.http import turn as turns
from streams.http.response import Response
from streams.http.turn import Turn
from streams.sources import parse

SOURCES = """
[sources.prices]
url = "https://prices.example.com/{shop}?sku={sku}"
params.shop.default = "main"
batch = { param = "sku", items = "prices", key = "sku", size = 3, wait = 0.01 }

[sources.many]
url = "https://prices.example.com/?sku={sku}"
batch = { param = "sku", items = "prices", key = "sku", size = 100, wait = 0.01 }

[sources.posted]
url = "https://prices.example.com/search"
method = "POST"
body = { skus = "{sku}", text = "any of {sku}" }
cache.ttl = 60
batch = { param = "sku", items = "@", size = 3, wait = 0.01 }

[sources.repeated]
url = "https://prices.example.com/?sku={sku*}"
batch = { param = "sku", items = "prices", key = "sku", size = 3, wait = 0.01 }

[sources.called]
call = "tests.unit.agents.test_bulk:priced"
batch = { param = "sku", size = 3, wait = 0.01 }

[sources.form]
url = "https://prices.example.com/search"
method = "POST"
form = { skus = "{sku}" }
cache.ttl = 60
batch = { param = "sku", size = 3, wait = 0.01 }
"""


called = []
"""The keys of each call of `priced`."""


def priced(sku):
    """Return prices of articles by their names, as a plugin's function would."""
    called.append(sku)
    return {str(key): {"p": len(str(key))} for key in sku if key != "x"}


class Upstream:
    """A client that answers with all prices asked for, but those of `lacking`; `failing` gives a call's error. Calls
    wait for `open`, as for a place.
    """

    def __init__(self):
        self.calls, self.lacking, self.open = [], set(), asyncio.Event()
        self.open.set()
        self.failing = lambda _: None
        self.headers = {}
        self.cancelled = 0
        self.deadlines = []

    async def fetch(self, _, url, *__, deadline, **___):
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        turns.begin()
        keys = parse_qs(urlsplit(url).query)["sku"][0].split(",")
        self.calls.append(keys)
        self.deadlines.append(turns.deadline_of(deadline))
        if (error := self.failing(keys)) is not None:
            error.attempts = 1
            raise error
        items = ",".join(f'{{"sku":"{key}","p":1.10}}' for key in keys if key not in self.lacking)
        return Response(200, Body(f'{{"prices":[{items}]}}'.encode(), "application/json"), self.headers)


@pytest.fixture
def sources():
    found, wrong = parse(SOURCES.encode())
    assert not wrong
    return found


@pytest.fixture
async def upstream():
    return Upstream()


@pytest.fixture
async def bulk(upstream):
    fetcher = BulkFetcher(upstream, None, {"prices": None, "many": None}, None)
    yield fetcher
    await fetcher.close()


@pytest.fixture
def ask(bulk, sources):
    """Ask for a price in a task of its own."""

    def start(sku, seconds=5.0, source="prices", **params):
        known = parse_request(Request(source=source, params={"sku": sku, **params}, schema=""), sources)
        return asyncio.ensure_future(bulk.fetch(known, {}, time.monotonic() + seconds))

    return start


async def ended(*tasks):
    """Return what came of each: its item's text, or its error."""
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [each if isinstance(each, BaseException) else each.body.content.decode() for each in done]


async def test_a_call_leaves_with_as_many_keys_as_it_may_have(ask, upstream):
    """Seven requests make two full calls, and one of what is left when its time is up."""
    found = await ended(*(ask(f"k{n}") for n in range(7)))
    assert [len(keys) for keys in upstream.calls] == [3, 3, 1]
    assert found == [f'{{"sku":"k{n}","p":1.10}}' for n in range(7)]


async def test_the_same_key_is_asked_for_once(ask, upstream):
    """Requests that single-flight does not join, with different schemas, share a key of the call; so do 1 and "1"."""
    assert len(set(await ended(ask("1"), ask("1"), ask(1), ask("b")))) == 2
    assert upstream.calls == [["1", "b"]]


async def test_other_parameters_make_another_call(ask, upstream):
    """Keys of two shops are not asked for together."""
    await ended(ask("a", shop="x"), ask("b", shop="y"), ask("c", shop="x"))
    assert sorted(upstream.calls) == [["a", "c"], ["b"]]


async def test_a_key_that_the_answer_lacks_is_not_found(ask, upstream):
    """Its neighbours have their items; the error has kind, status and attempts, and no retry would help."""
    upstream.lacking = {"b"}
    good, bad = await ended(ask("a"), ask("b"))
    assert good == '{"sku":"a","p":1.10}'
    assert isinstance(bad, UpstreamError)
    assert (bad.kind, bad.status, bad.attempts, bad.retryable) == ("not_found", 200, 1, False)
    assert bad.describe()["kind"] == "not_found"


async def test_a_failed_call_fails_its_own_keys_with_errors_of_their_own(ask, upstream):
    """Others are answered; what is noted on one error is not on another."""
    upstream.failing = lambda keys: Unreachable("broken") if "a" in keys else None
    found = await ended(*(ask(key) for key in "abcd"))
    assert [type(each) for each in found] == [Unreachable, Unreachable, Unreachable, str]
    assert found[0] is not found[1]
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("status", [400, 413, 414])
async def test_a_call_that_is_refused_as_a_whole_is_split(ask, upstream, status, caplog):
    """Each half is asked for itself, down to the one key that is refused; attempts are counted on the way, and one
    line of the log says what to do.
    """
    upstream.failing = lambda keys: UpstreamError("refused", status) if "b" in keys else None
    a, b, c = await asyncio.gather(*(ask(key) for key in "abc"), return_exceptions=True)
    assert upstream.calls == [["a", "b", "c"], ["a"], ["b", "c"], ["b"], ["c"]]
    assert (a.attempts, b.attempts, c.attempts) == (2, 3, 3)
    [line] = caplog.messages
    assert line.startswith("source prices: a call for 3 keys was refused (refused) and is sent in halves")
    assert b.status == status


async def test_another_refusal_is_not_split(ask, upstream):
    """A 403 is about the source, not about the size of the call."""
    upstream.failing = lambda _: UpstreamError("no", 403)
    assert {each.status for each in await ended(ask("a"), ask("b"))} == {403}
    assert len(upstream.calls) == 1


async def test_a_url_that_would_be_too_long_is_sent_in_halves(ask, upstream):
    """No server should have to take more than 8,000 bytes; each key is sent once."""
    keys = [letter * (MAX_URL // 2) for letter in "abc"]
    await ended(*map(ask, keys))
    assert sorted(upstream.calls) == [[key] for key in keys]


async def test_a_url_that_no_request_may_have_is_sent_in_halves_too(ask, upstream):
    """Each key alone makes a valid URL: together they are no fault of any request."""
    keys = [letter * 7_000 for letter in "abc"]
    assert [isinstance(each, str) for each in await ended(*map(ask, keys))] == [True] * 3
    assert sorted(upstream.calls) == [[key] for key in keys]


async def test_who_gives_up_leaves_the_others_alone(ask, upstream):
    """A request that is cancelled before the call leaves is not in it; one that is cancelled later does not end it."""
    upstream.open.clear()
    early, late = ask("a"), ask("b")
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.wait([early])
    others = ask("c"), ask("d")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late.cancel()
    upstream.open.set()
    assert await ended(*others) == ['{"sku":"c","p":1.10}', '{"sku":"d","p":1.10}']
    assert upstream.calls == [["b", "c", "d"]]


async def test_a_call_for_which_nobody_waits_is_ended(ask, upstream):
    """When the last request has given up, nothing is sent any more."""
    upstream.open.clear()
    tasks = [ask(key) for key in "abc"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    assert (upstream.cancelled, upstream.calls) == (1, [])


async def test_a_call_that_ends_before_it_began_holds_up_no_other(bulk, ask, upstream):
    """Who waits for it gives up in the turn of the event loop in which it leaves; what comes later is asked for."""
    task = ask("a")
    await asyncio.sleep(0)
    task.cancel()
    [(group, call)] = bulk._gathering.items()
    bulk._send(group, call)
    await asyncio.wait([task])
    async with asyncio.timeout(5):
        assert await ended(ask("d")) == ['{"sku":"d","p":1.10}']
    assert upstream.calls == [["d"]]


async def test_the_call_has_until_the_last_deadline(ask, upstream):
    """One key with little time does not take that of the others."""
    now = time.monotonic()
    await ended(ask("a", 1.0), ask("b", 9.0), ask("c", 5.0))
    assert 8.0 < upstream.deadlines[0] - now < 10.0


async def test_keys_are_gathered_as_long_as_another_call_waits_for_its_turn(ask, upstream):
    """With a call that cannot leave, those that come later are not put behind it one by one."""
    upstream.open.clear()
    first = ask("a")
    await asyncio.sleep(0.05)
    second = ask("b")
    await asyncio.sleep(0.05)
    third = ask("c")
    await asyncio.sleep(0.05)
    upstream.open.set()
    await ended(first, second, third)
    assert upstream.calls == [["a"], ["b", "c"]]


async def test_the_time_of_a_route_begins_with_the_turn_of_its_call(bulk, sources, upstream):
    """A record's request that waits has no deadline, and is told when the call leaves."""
    upstream.open.clear()
    begun = []
    turn = Turn(lambda: begun.append("now"))
    turns.current.set(turn)
    known = parse_request(Request(source="prices", params={"sku": "a"}, schema=""), sources)
    task = asyncio.ensure_future(bulk.fetch(known, {}, time.monotonic() + 0.01))
    await asyncio.sleep(0.05)
    assert not begun
    upstream.open.set()
    await task
    assert begun == ["now"]


@pytest.mark.parametrize("others", [0, 1])
async def test_a_call_leaves_without_those_whose_partition_is_given_up(bulk, sources, upstream, others):
    """Nothing is sent for them alone; where others wait for the same call, it has their deadline."""

    def given_up():
        raise asyncio.CancelledError

    upstream.open.clear()
    tasks = []
    for number, on_begin in enumerate([given_up, *[lambda: None] * others]):
        known = parse_request(Request(source="prices", params={"sku": "ab"[number]}, schema=""), sources)
        turn = Turn(on_begin)
        turn.deadline = time.monotonic() + 5 if number else None  # as what it is bound to sets it
        token = turns.current.set(turn)
        tasks.append(asyncio.ensure_future(bulk.fetch(known, {}, time.monotonic() + 5)))
        turns.current.reset(token)
    await asyncio.sleep(0.05)
    upstream.open.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [True, *[False] * others]
    assert len(upstream.calls) == others
    assert all(deadline is not None for deadline in upstream.deadlines) or not others


async def test_validators_of_the_answer_are_not_those_of_an_item(ask, upstream):
    """A revalidation would ask for one key with the tag of many."""
    upstream.headers = {"ETag": '"1"', "Cache-Control": "max-age=9"}
    response = await ask("a")
    assert dict(response.trail()[-1].headers) == {"Cache-Control": "max-age=9"}
    assert "ETag" in response.headers, "for whoever asks for it by name"


async def test_an_answer_that_is_none_is_invalid_for_all_with_its_beginning(ask, upstream):
    """The error shows what came instead."""

    async def fetch(*_, **__):
        return Response(200, Body(b'{"error": "down"}', "application/json"), {})

    upstream.fetch = fetch
    found = await ended(ask("a"), ask("b"))
    assert [type(each) for each in found] == [InvalidDocument] * 2
    assert found[0].body == '{"error": "down"}'


async def test_a_large_answer_is_taken_apart_in_another_process(upstream, sources):
    """What the pool runs gives each request its item, and an error like any other."""
    ran = []

    class Large:
        async def run(self, task, content, *arguments):
            ran.append(task)
            done, reason, _ = large.run(task, content, arguments)
            if done is None:
                raise InvalidDocument(reason)
            return done

    async def fetch(*_, **__):
        return Response(200, Body(b'{"prices": [{"sku": "a"}]%b}' % (b" " * LARGE), "application/json"), {})

    upstream.fetch = fetch
    fetcher = BulkFetcher(upstream, None, {"prices": None}, Large())
    known = [parse_request(Request(source="prices", params={"sku": sku}, schema=""), sources) for sku in "ab"]
    found = await ended(*(fetcher.fetch(each, {}, time.monotonic() + 5) for each in known))
    assert (found[0], found[1].kind, ran) == ('{"sku":"a"}', "not_found", ["take a batch apart"])


@pytest.mark.parametrize("error", [None, Unreachable("gone")])
async def test_the_requests_of_a_large_call_do_not_all_go_on_at_once(ask, upstream, error):
    """What each does then would hold up the event loop, a thousand times over."""
    upstream.failing = lambda _: error
    turn, ended_in = [0], Counter()
    tasks = [ask(f"k{number}", source="many") for number in range(100)]
    for task in tasks:
        task.add_done_callback(lambda _: ended_in.update(turn))
    while sum(ended_in.values()) < len(tasks):
        turn[0] += 1
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (len(upstream.calls), sum(ended_in.values())) == (1, 100)
    assert max(ended_in.values()) <= 2 * STEP < 100


async def test_a_fault_is_that_of_each_request(ask, upstream):
    """No request waits for ever because of a bug."""

    async def fetch(*_, **__):
        raise LookupError

    upstream.fetch = fetch
    assert [type(each) for each in await ended(ask("a"), ask("b"))] == [LookupError] * 2


# -- as a worker does it


async def answers(service, source, *skus, **members):
    requests = ({"source": source, "params": {"sku": sku}, **members} for sku in skus)
    return await asyncio.gather(*(service.answer(request) for request in requests))


async def test_items_are_documents_of_their_own(sources):
    """Each is cached by itself, a missing one too; a hit needs no call."""
    reply = {"prices": [{"sku": "a", "n": 7}, {"sku": "b", "n": 8}]}
    async with AsyncHarness({"https://prices.example.com/main?sku=a,b,x": reply}, sources=sources) as service:
        checks = [{"name": "is_prime", "field": "n"}]
        found = await answers(service, "prices", "a", "b", "x", checks=checks)
        assert [each.get("document") for each in found] == [{"sku": "a", "n": 7}, {"sku": "b", "n": 8}, None]
        assert [each["checks"][0]["value"] for each in found[:2]] == [True, False]
        assert found[0]["request"]["url"] == "https://prices.example.com/main?sku=a"
        assert (found[2]["outcome"], found[2]["error"]["kind"]) == ("upstream_error", "not_found")
        again = await answers(service, "prices", "b", "x", "a")
        assert [each["cache"] for each in again] == ["hit"] * 3
        assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("source", "reply", "sent"),
    [
        ("posted", {"a": 1, "b": 2}, b'{"skus":["a","b",3],"text":"any of a,b,3"}'),
        ("form", {"a": 1, "b": 2}, b"skus=a%2Cb%2C3"),
    ],
)
async def test_a_body_has_the_keys_as_its_template_says(sources, source, reply, sent):
    """In JSON they are an array of what was given, within a text they have commas between."""
    async with AsyncHarness({"https://prices.example.com/search": reply}, sources=sources) as service:
        found = await answers(service, source, "a", "b", 3)
        assert [each["outcome"] for each in found] == ["ok", "ok", "upstream_error"]
        assert service.requests[0].body == sent
        assert "idempotency-key" not in service.requests[0].headers


async def test_an_exploded_parameter_is_repeated(sources):
    """`{sku*}` repeats its field; each key is still a request's own."""
    reply = {"prices": [{"sku": "a"}, {"sku": "b"}, {"sku": "c"}]}
    async with AsyncHarness({"https://prices.example.com/?sku=a&sku=b&sku=c": reply}, sources=sources) as service:
        assert [each["outcome"] for each in await answers(service, "repeated", "a", "b", "c")] == ["ok"] * 3


async def test_a_function_gets_the_keys_as_a_list(sources):
    """It is called once, and returns the items by their keys."""
    called.clear()
    async with AsyncHarness({}, sources=sources) as service:
        found = await answers(service, "called", "ab", 12, "x")
        assert [each.get("document") for each in found] == [{"p": 2}, {"p": 2}, None]
        assert found[2]["error"]["kind"] == "not_found"
        assert [each["cache"] for each in await answers(service, "called", "ab")] == ["hit"]
    assert called == [["ab", 12, "x"]]


async def test_no_store_is_for_the_items_too(sources):
    """Nothing of such an answer is cached."""
    reply = Reply({"prices": [{"sku": "a"}]}, headers={"Cache-Control": "no-store"})
    async with AsyncHarness({"https://prices.example.com/main?sku=a": reply}, sources=sources) as service:
        assert [each["cache"] for _ in range(2) for each in await answers(service, "prices", "a")] == ["miss", "miss"]


async def test_a_list_of_keys_is_for_one_request_each(sources):
    """The source gathers keys by itself: a request has one."""
    async with AsyncHarness({}, sources=sources) as service:
        [found] = await answers(service, "prices", ["a", "b"])
        assert found["error"]["message"] == "params.sku: must be a string, number or boolean, not an array"


async def test_a_request_that_runs_out_of_time_does_not_take_others_with_it(sources):
    """It is a timeout, and as the call has not left yet, it leaves without its key; its neighbour is answered."""
    reply = {"prices": [{"sku": "b"}]}
    async with AsyncHarness({"https://prices.example.com/main?sku=b": reply}, sources=sources) as service:
        short, long = await asyncio.gather(
            service.answer({"source": "prices", "params": {"sku": "a"}, "timeout": 0.0001}),
            service.answer({"source": "prices", "params": {"sku": "b"}}),
        )
        assert (short["outcome"], long["outcome"]) == ("timeout", "ok")
