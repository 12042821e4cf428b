"""Checks on documents: each runs once on a document, for all who want it, and what it says goes to nobody else."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from agents.answer.enrich import HOT, Enricher
from agents.answer.fetch import Fetcher
from agents.answer.parsed_requests import parse_request
from models import checks, strictjson
from models.checks import Call, CheckOutcome
from models.documents import Body
from models.errors import TimedOut, Unreachable
from models.request import Request
from models.source import NEGATIVE_TTL
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.http.response import Response
from tests.fakes import Clock, LowerTier, Pool
from tests.unit.agents.test_enrich import PATIENCE, FakeClient, said, settle

URL = "http://example.org/"
PRIME, DIGEST, ARRAY = Call("is_prime", "n"), Call("sha256"), Call("json_schema", None, {"schema": {"type": "array"}})
FAILING = Call("is_prime", "gone")


def wanted(*calls, **members):
    return parse_request(Request(url=URL, checks=calls)._replace(**members))


@pytest.fixture
async def clock(monkeypatch):
    return Clock.of_day(monkeypatch)


@pytest.fixture
async def pool():
    return Pool()


@pytest.fixture
async def worker_of(clock, pool):
    """Make an enricher with a memory of its own, over a client and, if given, a tier that others share."""
    async with AsyncExitStack() as stack:

        async def make(client, lower=None):
            cache = Cache((MemoryTier(ttl=60.0),), clock=clock)
            cache.memory._clock = clock
            await stack.enter_async_context(cache)
            cache.lower = [] if lower is None else [lower]
            stack.callback(cache.lower.clear)  # it is nobody's to close
            return await stack.enter_async_context(Enricher(Fetcher(client, None, {}), pool, cache, PATIENCE))

        yield make


def values(enriched):
    return [(check["name"], check.get("value", "failed")) for check in said(enriched).get("checks", [])]


async def asked(enricher, *calls, **members):
    """Ask as the agent does; return what came, and whether it was there without waiting."""
    known = wanted(*calls, **members)
    found = enricher.peek(known, time.time())
    if found is not None:
        return found, True
    return await enricher.answer(known, {}), False


async def test_checks_run_on_the_fields_they_name(worker_of):
    """Each check gets its field and arguments, and the answers come in the order of the request."""
    calls = (Call("is_prime", "a.0"), DIGEST, Call("json_schema", "a", {"schema": {"type": "array"}}))
    enriched, _ = await asked(await worker_of(FakeClient(b'{"a":[7]}')), *calls)
    assert said(enriched)["outcome"] == "ok"
    assert [check["value"] for check in said(enriched)["checks"]][::2] == [True, True]
    assert [check["name"] for check in said(enriched)["checks"]] == ["is_prime", "sha256", "json_schema"]


async def test_what_is_known_is_there_without_waiting(worker_of, pool):
    """The second request for the same gets the same, runs nothing, and fetches nothing; one without checks has none."""
    client = FakeClient(b'{"n":7}')
    enricher = await worker_of(client)
    first, _ = await asked(enricher, PRIME, DIGEST)
    again, at_once = await asked(enricher, PRIME, DIGEST)
    assert (at_once, again.shared, again.error) == (True, first.shared, None)
    without, at_once = await asked(enricher)
    assert (at_once, "checks" in said(without)) == (True, False)
    assert (len(client.calls), pool.submitted) == (1, ["is_prime", "sha256"])


async def test_other_checks_on_the_same_document_run_alone(worker_of, pool):
    """Only what has not been run on it runs; a hit all the same; any order and any repeats are put together."""
    client = FakeClient(b'{"n":7}')
    enricher = await worker_of(client)
    for calls, runs in (
        ((), []),
        ((PRIME,), ["is_prime"]),
        ((PRIME, DIGEST), ["sha256"]),
        ((DIGEST, PRIME, DIGEST), []),
        ((ARRAY, PRIME), ["json_schema"]),
        ((Call("is_prime"),), ["is_prime"]),
    ):
        pool.submitted.clear()
        enriched, _ = await asked(enricher, *calls)
        assert enriched.shared.count(b'"name"') == len(calls)
        assert [name for name, _ in values(enriched)] == [call.name for call in calls]
        assert pool.submitted == runs
        assert said(enriched)["document"] == {"n": 7}
    assert len(client.calls) == 1


async def test_a_verdict_is_the_same_from_a_document_that_was_kept(worker_of):
    """Checks see the same of a document just fetched and of one that lay in the cache as bytes."""
    body = b'{"n":7,"x":[1.0,1e300,"\\u00e4",null,{"a":12345678901234567890}]}'
    cold, warm = await worker_of(FakeClient(body)), await worker_of(FakeClient(body))
    first, _ = await asked(cold, DIGEST)
    await asked(warm)
    second, _ = await asked(warm, DIGEST)
    assert values(first) == values(second)


async def test_a_check_that_fails_fails_alone_and_leaves_the_document(worker_of, pool):
    """The field that is not there never goes to the pool; the document is kept for whoever asks for something else."""
    client = FakeClient(b'{"n":7}')
    enricher = await worker_of(client)
    enriched, _ = await asked(enricher, FAILING, PRIME)
    found = said(enriched)
    assert found["outcome"] == enriched.error.outcome == "check_error"
    assert found["checks"][0]["error"] == "the document has no field 'gone'"
    assert found["error"]["message"] == "check is_prime on 'gone': the document has no field 'gone'"
    assert (found["checks"][1]["value"], found["document"]) == (True, {"n": 7})
    assert pool.submitted == ["is_prime"]
    other, at_once = await asked(enricher, PRIME)
    assert (at_once, said(other)["outcome"], len(client.calls)) == (True, "ok", 1)


async def test_a_failure_is_remembered_for_a_moment_only(worker_of, pool, clock):
    """Until NEGATIVE_TTL has passed it is told again, then the check runs again; what it says then, lasts."""
    enricher = await worker_of(FakeClient(b'{"n":"x"}'))
    first, _ = await asked(enricher, PRIME)
    assert first.error.outcome == "check_error"
    clock.now += NEGATIVE_TTL - 0.1
    again, at_once = await asked(enricher, PRIME)
    assert (at_once, str(again.error), len(pool.submitted)) == (True, str(first.error), 1)
    clock.now += 0.1
    again, at_once = await asked(enricher, PRIME)
    assert (at_once, again.error.outcome, len(pool.submitted)) == (False, "check_error", 2)


async def test_all_who_want_the_same_at_once_share_one_run(worker_of, pool):
    """Of ten requests with overlapping checks each check runs once; each gets its own, in its order."""
    pool.stuck = True
    enricher = await worker_of(FakeClient(b'{"n":7}'))
    lists = [(PRIME,), (DIGEST, PRIME), (DIGEST,), (PRIME, PRIME)] * 5
    asking = [asyncio.create_task(enricher.answer(wanted(*calls), {})) for calls in lists]
    await settle()
    await settle()
    assert sorted(pool.submitted) == ["is_prime", "sha256"]
    for name, future in zip(pool.submitted, pool.futures, strict=True):
        future.set_result(CheckOutcome(name))
    for calls, task in zip(lists, asking, strict=True):
        assert values(await task) == [(call.name, call.name) for call in calls]
    assert enricher._checks._running == {}


async def test_who_gives_up_takes_nothing_from_others(worker_of, pool):
    """A request out of time ends as `timeout`; its check runs on for who still waits, and is kept."""
    pool.stuck = True
    enricher = await worker_of(FakeClient(b'{"n":7}'))
    hasty = asyncio.create_task(enricher.answer(wanted(PRIME, DIGEST, timeout=0.01), {}))
    await settle()
    patient = asyncio.create_task(enricher.answer(wanted(PRIME), {}))
    assert isinstance((await hasty).error, TimedOut)
    assert [future.cancelled() for future in pool.futures] == [False, True]
    pool.futures[0].set_result(CheckOutcome(True))
    assert values(await patient) == [("is_prime", True)]
    assert (await asked(enricher, PRIME))[1] is True


async def test_when_nobody_waits_any_more_nothing_runs(worker_of, pool):
    """The pool is told, what has said something is kept, and the next request begins the rest anew."""
    pool.stuck = True
    pool.verdicts["sha256"] = CheckOutcome("digest")
    enricher = await worker_of(FakeClient(b'{"n":7}'))
    result = await enricher.answer(wanted(PRIME, DIGEST, ARRAY, timeout=0.05), {})
    assert isinstance(result.error, TimedOut)
    assert [future.cancelled() for future in pool.futures] == [True, False, True]
    assert enricher._checks._running == {}
    pool.stuck = False
    enriched, _ = await asked(enricher, PRIME, DIGEST)
    assert values(enriched) == [("is_prime", True), ("sha256", "digest")]
    assert pool.submitted == ["is_prime", "sha256", "json_schema", "is_prime"]


async def test_verdicts_stay_with_their_document(worker_of, pool):
    """A check that ends when its document was replaced says nothing of the new one."""
    pool.stuck = True
    enricher = await worker_of(FakeClient(b'{"n":7}', b'{"n":8}'))
    older = asyncio.create_task(enricher.answer(wanted(PRIME), {}))
    await settle()
    newer = asyncio.create_task(enricher.answer(wanted(PRIME, max_age=0.0), {}))
    await settle()
    third = asyncio.create_task(enricher.answer(wanted(PRIME), {}))
    await settle()
    assert len(pool.futures) == 2
    pool.futures[0].set_result(CheckOutcome("of seven"))
    await settle()
    pool.futures[1].set_result(CheckOutcome("of eight"))
    found = [said(await task) for task in (older, newer, third)]
    assert [(each["document"]["n"], each["checks"][0]["value"]) for each in found] == [
        (7, "of seven"), (8, "of eight"), (8, "of eight"),
    ]  # fmt: skip


async def test_what_must_not_be_kept_is_judged_for_itself(worker_of, pool):
    """Each POST has a document of its own, and verdicts of its own."""
    enricher = await worker_of(FakeClient(b'{"n":7}', b'{"n":8}'))
    found = [said((await asked(enricher, PRIME, method="POST"))[0]) for _ in range(2)]
    assert [(each["document"]["n"], each["checks"][0]["value"]) for each in found] == [(7, True), (8, False)]
    assert pool.submitted == ["is_prime"] * 2


class Validating(FakeClient):
    """Answers with an ETag, and says that it still holds when asked."""

    async def fetch(self, *arguments, validators=None, **options):
        response = await super().fetch(*arguments, **options)
        headers = CIMultiDict({"ETag": '"1"'})
        return Response(304, Body(b""), headers) if validators else response._replace(headers=headers)


async def test_a_document_that_still_holds_keeps_its_verdicts(worker_of, pool, clock):
    """After a 304 nothing runs again, and the answer has the new time."""
    enricher = await worker_of(Validating(b'{"n":7}'))
    first, _ = await asked(enricher, PRIME)
    clock.now += 61
    again, at_once = await asked(enricher, PRIME)
    assert (at_once, again.cache, values(again)) == (False, b"revalidated", values(first))
    assert said(again)["fetched_at"] != said(first)["fetched_at"]
    assert (await asked(enricher, PRIME))[1] is True
    assert pool.submitted == ["is_prime"]


async def test_an_answer_fetched_ahead_of_its_end_is_checked_ahead(worker_of, pool, clock):
    """Whoever asks after a refresh finds the verdicts of the new document there."""
    enricher = await worker_of(FakeClient(b'{"n":7}', b'{"n":8}'))
    await asked(enricher, PRIME)
    clock.now += 55
    for _ in range(HOT):
        await asked(enricher, PRIME)
    await asyncio.gather(*enricher._refreshes.values())
    enriched, at_once = await asked(enricher, PRIME)
    assert (at_once, values(enriched), said(enriched)["document"]) == (True, [("is_prime", False)], {"n": 8})
    assert pool.submitted == ["is_prime"] * 2


async def test_a_refresh_whose_checks_hang_ends(worker_of, pool, clock):
    """Nobody waits for it: the new document is there, and whoever asks begins its checks anew."""
    enricher = await worker_of(FakeClient(b'{"n":7}', b'{"n":8}'))
    enricher._timeout = 0.05
    await asked(enricher, PRIME)
    clock.now += 55
    pool.stuck = True
    for _ in range(HOT):
        await asked(enricher, PRIME)
    await asyncio.gather(*enricher._refreshes.values())
    pool.stuck = False
    enriched, _ = await asked(enricher, PRIME)
    assert (enriched.cache, values(enriched)) == (b"hit", [("is_prime", False)])


async def test_an_old_answer_stands_in_with_its_verdicts(worker_of, pool, clock):
    """Past its freshness, the upstream failing: the verdicts known are told, others run on the old document."""
    client = FakeClient(b'{"n":7}', Unreachable("gone"))
    enricher = await worker_of(client)
    await asked(enricher, PRIME)
    clock.now += 100
    for calls in ((PRIME,), (PRIME, DIGEST)):
        enriched, _ = await asked(enricher, *calls)
        assert (enriched.cache, [name for name, _ in values(enriched)]) == (b"stale", [call.name for call in calls])
    assert pool.submitted == ["is_prime", "sha256"]


async def test_out_of_time_an_old_answer_stands_in_only_with_all_its_verdicts(worker_of, pool, clock):
    """Where the fetch hangs, the old answer is told if nothing is left to run on it, else the request is a timeout."""
    enricher = await worker_of(FakeClient(b'{"n":7}', asyncio.Event()))
    await asked(enricher, PRIME)
    clock.now += 100
    stale, _ = await asked(enricher, PRIME, timeout=0.01)
    assert (stale.cache, values(stale)) == (b"stale", [("is_prime", True)])
    failed, _ = await asked(enricher, PRIME, DIGEST, timeout=0.01)
    assert isinstance(failed.error, TimedOut)


async def test_verdicts_are_shared_with_other_workers_and_failures_are_not(worker_of, pool, clock):
    """Another worker with the same lower tier runs only what failed or never ran."""
    client, lower = FakeClient(b'{"n":7}'), LowerTier()
    await asked(await worker_of(client, lower), PRIME, FAILING)
    await settle()
    other = await worker_of(client, lower)
    enriched, _ = await asked(other, PRIME, FAILING, DIGEST)
    assert (len(client.calls), pool.submitted) == (1, ["is_prime", "sha256"])
    assert [name for name, _ in values(enriched)] == ["is_prime", "is_prime", "sha256"]


async def test_verdicts_on_what_is_private_stay_here(worker_of, pool):
    """Of an answer for one's own credentials nothing is written where others read."""
    lower = LowerTier()
    enricher = await worker_of(FakeClient(b'{"n":7}'), lower)
    await asked(enricher, PRIME, headers={"Authorization": "Bearer x"})
    await settle()
    assert lower.kept == {}
    assert (await asked(enricher, PRIME, headers={"Authorization": "Bearer x"}))[1] is True


async def test_verdicts_count_as_memory(worker_of):
    """The bound on the cache's bytes covers them."""
    enricher = await worker_of(FakeClient(b'{"n":7}'))
    await asked(enricher)
    before = enricher._cache.memory.bytes
    enriched, _ = await asked(enricher, DIGEST)
    assert enricher._cache.memory.bytes - before > len(strictjson.dumps(said(enriched)["checks"]))


async def test_a_pool_that_closes_ends_who_waits(worker_of, pool):
    """Cancelled checks cancel the requests that wait for them: the worker is stopping, their records are read again."""
    pool.stuck = True
    enricher = await worker_of(FakeClient(b'{"n":7}'))
    asking = asyncio.create_task(enricher.answer(wanted(PRIME), {}))
    await settle()
    pool.futures[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert enricher._checks._running == {}


CALLS = [PRIME, DIGEST, ARRAY, FAILING, Call("is_prime"), Call("length", "s", {"high": 2}), Call("sha256", "s")]
STEP = st.tuples(
    st.sampled_from(["a", "b"]),
    st.lists(st.sampled_from(CALLS), max_size=5),
    st.sampled_from([None, None, None, 0.0]),
    st.sampled_from([0.0, 0.0, 1.0, NEGATIVE_TTL, 61.0]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(STEP, min_size=1, max_size=4), min_size=1, max_size=8))
def test_whatever_is_asked_when_verdicts_are_those_of_the_document(steps):
    """Requests for changing documents with any checks, some at the same time, over a memory and a shared tier: each
    result has the verdicts of just its checks on just its document, as if they had been run for it.
    """
    asyncio.run(_play(steps))


class _Changing:
    """An upstream whose documents are never twice the same."""

    def __init__(self):
        self.count = 0

    async def fetch(self, _, url, *__, **___):
        self.count += 1
        document = {"n": self.count, "s": url[-1] * (self.count % 4)}
        await asyncio.sleep(0)
        return Response(200, Body(strictjson.dumps(document), "application/json"), {})


async def _play(steps):
    clock, lower = Clock(), LowerTier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock)
        cache = Cache((MemoryTier(),), clock=clock)
        cache.memory._clock = clock
        cache.lower = [lower]
        async with Enricher(Fetcher(_Changing(), None, {}), _Later(), cache, PATIENCE) as enricher:
            for together in steps:
                clock.now += together[0][3]
                asking = [
                    asked(enricher, *calls, url=URL + path, max_age=max_age) for path, calls, max_age, _ in together
                ]
                for (path, calls, _, _), (found, _) in zip(together, await asyncio.gather(*asking), strict=True):
                    _compare(path, calls, found)


def _compare(path, calls, found):
    members = said(found)
    assert members["request"]["url"] == URL + path
    told = [(each["name"], each.get("field"), each.get("value"), each.get("error"))
            for each in members.get("checks", [])]  # fmt: skip
    assert told == [_truth(call, members["document"]) for call in calls]
    failed = any(error for *_, error in told)
    assert members["outcome"] == ("check_error" if failed else "ok")
    assert (found.error is not None) is failed


def _truth(call, document):
    try:
        verdict = checks.run(call.name, checks.select(document, call.field), call.args)
    except ValueError as exc:
        verdict = CheckOutcome(error=str(exc))
    return call.name, call.field, verdict.value, verdict.error


class _Later:
    """Runs checks a few turns of the loop later, the first asked for last."""

    def submit(self, name, value, args):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.0001, lambda: future.done() or future.set_result(checks.run(name, value, args)))
        return future
