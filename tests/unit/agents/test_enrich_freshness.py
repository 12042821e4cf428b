"""What the cache answers when: fresh, stale, revalidated, failures for a moment; and what nobody waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from multidict import CIMultiDict

from agents.answer import enrich
from agents.answer.cache_writer import negative_ttl
from agents.answer.enrich import HOT, Enricher
from agents.answer.fetch import Fetcher
from agents.answer.parsed_requests import ParsedRequest, parse_request
from models.documents import Body
from models.errors import (
    AnswerError,
    Denied,
    InvalidDocument,
    Overloaded,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from models.request import Request
from models.source import MAX_STALE, NEGATIVE_KINDS, NEGATIVE_TTL, CachePolicy, Source, Sources
from models.template import UrlTemplate
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.http.policy import UpstreamPolicy
from streams.http.response import Response
from streams.shares import Shares
from tests.fakes import Clock, LowerTier

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


class Upstream:
    """A client whose answers the test lays out in order; each waits for the gate, if there is one."""

    def __init__(self) -> None:
        self.answers: deque[Response | AnswerError] = deque()
        self.asked: list[tuple[Mapping[str, str], Mapping[str, str]]] = []
        self.gate: asyncio.Event | None = None

    @property
    def calls(self) -> int:
        return len(self.asked)

    async def fetch(self, _: str, __: str, headers: Any, ___: Any, *, validators: Any, **____: Any) -> Response:
        self.asked.append((headers, validators))
        await asyncio.sleep(0)  # no real one answers at once
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.popleft()
        if isinstance(answer, AnswerError):
            raise answer
        return answer


def says(text: str, cache_control: str | None = None, **others: str) -> Response:
    """Make an answer; of headers given by name, `_` stands for a hyphen."""
    headers = CIMultiDict({name.replace("_", "-"): value for name, value in others.items()})
    if cache_control is not None:
        headers["Cache-Control"] = cache_control
    return Response(200, Body(text.encode(), "text/plain"), headers)


def holds(cache_control: str | None = None, **others: str) -> Response:
    """Make a 304."""
    return says("", cache_control, **others)._replace(status=304)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of_day(monkeypatch)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    cache = Cache((MemoryTier(),), clock=clock)
    cache.memory._clock = clock
    return cache


def enricher_over(upstream: Upstream, cache: Cache, timeout: float = 30, policy: CachePolicy | None = None) -> Enricher:
    policies = {"s": UpstreamPolicy(1_000), "t": UpstreamPolicy(1_000)}
    return Enricher(Fetcher(upstream, None, policies), None, cache, timeout, policy)  # type: ignore[arg-type]


@pytest.fixture
async def enricher(upstream: Upstream, cache: Cache) -> AsyncIterator[Enricher]:
    async with cache, enricher_over(upstream, cache) as enricher:
        yield enricher


def asking(**fields: Any) -> ParsedRequest:
    return parse_request(Request(url="http://h/", schema="text", **fields))


async def ask(enricher: Enricher, known: ParsedRequest, clock: Clock) -> tuple[str, bytes]:
    """Ask as the agent does: the cache first; returns the cache state and the shared part."""
    entry = enricher.peek(known, clock.now)
    if entry is not None:
        return "hit", entry.shared
    enriched = await enricher.answer(known, {})
    return enriched.cache.decode(), enriched.shared


async def settle(enricher: Enricher) -> None:
    """Let what goes on behind the answers' backs come to its end."""
    async with asyncio.timeout(PATIENCE):
        while enricher._refreshes or enricher._cache._writes:
            await asyncio.sleep(0)


async def test_an_answer_is_fresh_as_long_as_its_upstream_says(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """max-age=10: a hit until then, a fetch from then on."""
    upstream.answers.extend([says("one", "max-age=10"), says("two")])
    assert (await ask(enricher, asking(), clock))[0] == "miss"
    clock.now += 9.9
    assert (await ask(enricher, asking(), clock))[0] == "hit"
    clock.now += 0.2
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b'"two"' in shared) == ("miss", True)


async def test_no_store_is_asked_every_time(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """An answer that must not be kept is not, and never stands in for a failure."""
    upstream.answers.extend([says("one", "no-store"), Unreachable("gone")])
    assert (await ask(enricher, asking(), clock))[0] == "miss"
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b"unreachable" in shared) == ("miss", True)


@pytest.mark.parametrize("failure", [Unreachable("gone"), UpstreamError("busy", 503), Overloaded("open")])
async def test_a_stale_answer_stands_in_for_a_failure(
    enricher: Enricher, upstream: Upstream, clock: Clock, failure: AnswerError
) -> None:
    """Past its freshness an answer is used, and called stale, when the upstream fails; not beyond its time."""
    upstream.answers.extend([says("one"), failure, failure])
    await ask(enricher, asking(), clock)
    clock.now += 61
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b'"one"' in shared) == ("stale", True)
    clock.now += MAX_STALE
    state, shared = await ask(enricher, asking(), clock)
    assert (state, failure.outcome.encode() in shared) == ("miss", True)


async def test_a_final_failure_is_not_covered_up(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """404 is the upstream's answer: no stale document stands in for it."""
    upstream.answers.extend([says("one"), UpstreamError("gone", 404)])
    await ask(enricher, asking(), clock)
    clock.now += 61
    assert b"upstream_error" in (await ask(enricher, asking(), clock))[1]


async def test_max_age_bounds_stale_answers_too(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """Who wants nothing older than 30 s gets the failure rather than what is older; 0 never gets what is kept."""
    upstream.answers.extend([says("one"), Unreachable("gone"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    state, shared = await ask(enricher, asking(max_age=30.0), clock)
    assert (state, b"unreachable" in shared) == ("miss", True)
    state, shared = await ask(enricher, asking(max_age=0.0), clock)
    assert (state, b"unreachable" in shared) == ("bypass", True)


async def test_a_follower_gets_no_stale_answer_older_than_it_accepts(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """A stale answer lands for those who take it; who wants a younger one asks for itself."""
    upstream.answers.extend([says("one"), Unreachable("gone"), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 100
    leader, follower = await asyncio.gather(enricher.answer(asking(), {}), enricher.answer(asking(max_age=10.0), {}))
    assert (leader.cache, b'"one"' in leader.shared) == (b"stale", True)
    assert (follower.cache, b'"two"' in follower.shared) == (b"miss", True)


async def test_a_fault_of_ours_is_not_blamed_on_the_document(enricher: Enricher, upstream: Upstream) -> None:
    """A TypeError in our own code comes out as what it is, to be logged, and is not kept."""
    upstream.answers.append(None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        await enricher.answer(asking(), {})


@pytest.mark.parametrize("failure", [Unreachable("gone"), UpstreamError("no", 404), TooLarge("big")])
async def test_a_failure_is_an_answer_for_a_moment(
    enricher: Enricher, upstream: Upstream, clock: Clock, failure: AnswerError
) -> None:
    """The upstream is not asked again for NEGATIVE_TTL; then it is."""
    upstream.answers.extend([failure, says("better")])
    await ask(enricher, asking(), clock)
    clock.now += NEGATIVE_TTL - 0.1
    state, shared = await ask(enricher, asking(), clock)
    assert (state, failure.outcome.encode() in shared, upstream.calls) == ("hit", True, 1)
    clock.now += 0.2
    assert b'"better"' in (await ask(enricher, asking(), clock))[1]


async def test_overload_is_not_kept(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """What the worker refused for its own sake is asked again at once."""
    upstream.answers.extend([Overloaded("open"), says("one")])
    await ask(enricher, asking(), clock)
    assert b'"one"' in (await ask(enricher, asking(), clock))[1]


# -- answers that do not last


async def test_an_answer_that_varies_with_anything_is_not_kept(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """Vary: * matches no other request."""
    upstream.answers.extend([says("one", vary="*"), says("two")])
    await ask(enricher, asking(), clock)
    assert (await ask(enricher, asking(), clock))[0] == "miss"


@pytest.mark.parametrize("cache_control", ["no-cache", "max-age=0, must-revalidate", "s-maxage=0"])
async def test_an_answer_that_cannot_be_kept_still_takes_the_place_of_the_old(
    enricher: Enricher, upstream: Upstream, clock: Clock, cache_control: str
) -> None:
    """What the upstream does not say any more is a hit for nobody, and stands in for nothing."""
    upstream.answers.extend([says("one"), says("two", cache_control), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    await ask(enricher, asking(max_age=0.0), clock)
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b"unreachable" in shared) == ("miss", True)


async def test_no_store_takes_the_old_answer_away(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """What the upstream does not say any more is a hit for nobody, also after a 304 that says so."""
    upstream.answers.extend([says("one", etag='"1"'), holds("no-store"), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    assert (await ask(enricher, asking(), clock))[0] == "revalidated"
    assert (await ask(enricher, asking(), clock))[0] == "miss"
    assert upstream.asked[-1][1] == {}


# -- asked whether it still holds


async def test_an_answer_that_still_holds_is_good_for_as_long_again(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """A 304 that says nothing of freshness leaves it as it was, from now on; the result tells the new time."""
    upstream.answers.extend([says("one", "max-age=20", etag='"1"'), holds()._replace(attempts=3), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 25
    enriched = await enricher.answer(asking(), {})
    assert (enriched.cache, enriched.as_of) == (b"revalidated", clock.now)
    assert enriched.shared.endswith(b'"document":"one","attempts":3,"fetched_at":"2027-01-15T08:00:25.000Z"')
    clock.now += 19.9
    assert await ask(enricher, asking(), clock) == ("hit", enriched.shared)
    clock.now += 0.2
    assert (await ask(enricher, asking(), clock))[0] == "miss"
    assert [validators for _, validators in upstream.asked] == [{}, {"If-None-Match": '"1"'}, {"If-None-Match": '"1"'}]


async def test_what_a_304_says_of_freshness_holds(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """RFC 9111, section 4.3.4: header by header, and so do new validators."""
    old, new = "Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 02 Jan 2026 00:00:00 GMT"
    upstream.answers.extend([
        says("one", "max-age=20", etag='"1"'), holds("max-age=5", ETag='"1"', Last_Modified=old), holds(Expires="0"),
        holds("max-age=7", ETag='"1"', Last_Modified=new),
    ])  # fmt: skip
    await ask(enricher, asking(), clock)
    clock.now += 25
    for wait in (6, 6, 8):
        assert (await ask(enricher, asking(), clock))[0] == "revalidated"
        clock.now += wait - 2
        assert (await ask(enricher, asking(), clock))[0] == "hit"
        clock.now += 2
    assert upstream.asked[-1][1] == {"If-None-Match": '"1"', "If-Modified-Since": old}


async def test_a_304_s_validator_counts_in_any_case(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """Header names are compared without case."""
    upstream.answers.extend(
        [says("one", "max-age=20", last_modified="1"), holds(etag='"2"', last_modified="1"), holds()]
    )
    for _ in range(3):
        await ask(enricher, asking(), clock)
        clock.now += 25
    assert upstream.asked[-1][1] == {"If-None-Match": '"2"', "If-Modified-Since": "1"}


async def test_who_waits_for_a_revalidation_shares_it(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """One asks whether it still holds, all others coalesce."""
    upstream.answers.extend([says("one", etag='"1"'), holds()])
    await ask(enricher, asking(), clock)
    clock.now += 61
    answers = await asyncio.gather(*(enricher.answer(asking(), {}) for _ in range(3)))
    assert [enriched.cache for enriched in answers] == [b"revalidated", b"coalesced", b"coalesced"]
    assert {enriched.as_of for enriched in answers} == {clock.now}


async def test_who_wants_an_answer_now_does_not_ask_for_a_304(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """`max_age: 0` fetches, whatever is at hand."""
    upstream.answers.extend([says("one", etag='"1"'), says("two", etag='"2"')])
    await ask(enricher, asking(), clock)
    assert (await ask(enricher, asking(max_age=0.0), clock))[0] == "bypass"
    assert upstream.asked[-1][1] == {}
    assert b'"two"' in (await ask(enricher, asking(), clock))[1]


# -- failures


async def test_a_failing_upstream_has_a_rest(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """For NEGATIVE_TTL seconds the stale answer is given without asking; then the upstream is asked again."""
    upstream.answers.extend([says("one"), Unreachable("gone"), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    for _ in range(2):
        assert (await ask(enricher, asking(), clock))[0] == "stale"
        clock.now += NEGATIVE_TTL - 0.1
    assert upstream.calls == 2
    clock.now += 0.2
    assert (await ask(enricher, asking(), clock))[0] == "miss"


async def test_a_rest_ends_when_the_stale_answer_does(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """What may stand in no longer does not, rest or none."""
    upstream.answers.extend([says("one", "max-age=60, stale-if-error=3", etag='"1"'), Unreachable("gone"), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    assert (await ask(enricher, asking(), clock))[0] == "stale"
    clock.now += 2.1
    assert (await ask(enricher, asking(), clock))[0] == "miss"


async def test_after_must_revalidate_a_failure_is_told(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """RFC 9111, section 5.2.2.2; no deadline that passes brings the old answer back either."""
    upstream.answers.extend([says("one", "max-age=60, must-revalidate"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b"unreachable" in shared) == ("miss", True)
    upstream.gate = asyncio.Event()
    clock.now += 6
    assert b"timeout" in (await ask(enricher, asking(timeout=0.01), clock))[1]


@pytest.mark.parametrize("failure", [UpstreamError("gone", 404), UpstreamError("gone", 410), InvalidDocument("odd")])
async def test_a_failure_that_stays_takes_the_place_of_what_was_kept(
    enricher: Enricher, upstream: Upstream, clock: Clock, failure: AnswerError
) -> None:
    """Also of what is fresh, also in the lower tiers: nobody gets it any more."""
    lower = LowerTier()
    enricher._cache.lower = [lower]
    upstream.answers.extend([says("one"), failure, Unreachable("gone")])
    await ask(enricher, asking(), clock)
    await settle(enricher)
    assert len(lower.kept) == 1
    await ask(enricher, asking(max_age=0.0), clock)
    await settle(enricher)
    assert lower.kept == {}
    assert failure.outcome.encode() in (await ask(enricher, asking(), clock))[1]
    clock.now += 6
    assert (await ask(enricher, asking(), clock))[0] == "miss"


async def test_a_failure_that_stays_takes_the_place_of_what_only_a_lower_tier_has(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """A document that was found gone does not come back from a lower tier once the failure is forgotten."""
    enricher._cache.lower = [LowerTier()]
    upstream.answers.extend([says("one"), UpstreamError("gone", 404), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    await settle(enricher)
    for key in enricher._cache.memory.keys():  # noqa: SIM118  a method of ours, no dict
        enricher._cache.memory.drop(key)
    await ask(enricher, asking(max_age=0.0), clock)
    await settle(enricher)
    clock.now += 6
    assert (await ask(enricher, asking(), clock))[0] == "miss"


async def test_a_fetch_that_is_denied_takes_the_place_of_what_was_kept(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """No failure that stays leaves an older answer to stand in for a later one."""
    upstream.answers.extend([says("one"), Denied("rule"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    assert b"denied" in (await ask(enricher, asking(), clock))[1]
    assert b"unreachable" in (await ask(enricher, asking(), clock))[1]


async def test_a_failure_that_may_pass_leaves_what_only_a_lower_tier_has(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """Who asked for a new answer gets the failure; the others the fresh one that the lower tier has."""
    enricher._cache.lower = [LowerTier()]
    upstream.answers.extend([says("one"), Unreachable("gone"), says("two")])
    await ask(enricher, asking(), clock)
    await settle(enricher)
    for key in enricher._cache.memory.keys():  # noqa: SIM118  a method of ours, no dict
        enricher._cache.memory.drop(key)
    assert b"unreachable" in (await ask(enricher, asking(max_age=0.0), clock))[1]
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b'"one"' in shared) == ("hit", True)


async def test_a_failure_that_may_pass_leaves_what_was_kept(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """Who asked for a new answer gets the failure; the others what they would have got."""
    upstream.answers.extend([says("one"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    assert b"unreachable" in (await ask(enricher, asking(max_age=0.0), clock))[1]
    state, shared = await ask(enricher, asking(), clock)
    assert (state, b'"one"' in shared) == ("hit", True)


async def test_a_failure_leaves_what_is_served_while_it_is_fetched_anew(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """Of an answer good for 60 s of revalidation, and for none of errors, a refresh that fails takes nothing away."""
    said = "max-age=10, stale-while-revalidate=60, stale-if-error=0"
    upstream.answers.extend([says("one", said), Unreachable("gone"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    clock.now += 11
    for _ in range(2):
        state, shared = await ask(enricher, asking(), clock)
        assert (state, b'"one"' in shared) == ("stale", True)
        await settle(enricher)


async def test_a_strict_leader_s_failure_takes_no_stale_answer_from_others(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """Who takes a stale answer gets it, whoever asked first."""
    upstream.answers.extend([says("one"), Unreachable("gone"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    clock.now += 61
    leader, follower = await asyncio.gather(enricher.answer(asking(max_age=10.0), {}), enricher.answer(asking(), {}))
    assert (leader.cache, isinstance(leader.error, Unreachable)) == (b"miss", True)
    assert (follower.cache, follower.error) == (b"stale", None)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (UpstreamError("no", 404), "not_found"),
        (UpstreamError("no", 410), "not_found"),
        (UpstreamError("no", 403), "upstream_error"),
        (UpstreamError("no"), "upstream_error"),
        (Unreachable("no"), "unreachable"),
        (TooLarge("no"), "too_large"),
        (InvalidDocument("no"), "invalid_document"),
    ],
)
def test_each_kind_of_failure_has_its_own_time(failure: AnswerError, kind: str) -> None:
    """The source says how long; where it does not, the worker. What the upstream says holds within the source's."""
    times = dict(zip(NEGATIVE_KINDS, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    own, none = CachePolicy(negative_ttl=times), CachePolicy(ttl=60.0)
    assert (negative_ttl(failure, own, 9.0, None), negative_ttl(failure, none, 9.0, None)) == (times[kind], 9.0)
    assert [negative_ttl(failure, own, 9.0, said) for said in (0.0, 0.5, 30.0)] == [0.0, 0.5, times[kind]]
    assert [negative_ttl(failure, none, 0.0, said) for said in (0.0, 30.0, 600.0)] == [0.0, 30.0, 60.0]


# -- several tiers


async def test_another_worker_s_answer_is_a_hit(upstream: Upstream, clock: Clock) -> None:
    """What one worker fetched another finds in the tier they share, with its age, and asks the upstream nothing."""
    tier = LowerTier()
    upstream.answers.append(says("one"))
    for wait, state in ((0.0, b"miss"), (30.0, b"hit")):
        clock.now += wait
        cache = Cache((MemoryTier(),), clock=clock)
        cache.lower = [tier]
        enricher = enricher_over(upstream, cache)
        enriched = await enricher.answer(asking(), {})
        await settle(enricher)
        assert (enriched.cache, clock.now - (enriched.as_of or 0)) == (state, wait)
    assert upstream.calls == 1


async def test_an_answer_too_large_for_memory_is_a_hit_of_a_lower_tier(upstream: Upstream, clock: Clock) -> None:
    """The lower tier is of use also for what memory cannot hold."""
    cache = Cache((MemoryTier(bytes=1_000),), clock=clock)
    cache.lower = [LowerTier()]
    enricher = enricher_over(upstream, cache)
    upstream.answers.extend([says("x" * 2_000), says("y" * 2_000)])
    await ask(enricher, asking(), clock)
    await settle(enricher)
    assert (await ask(enricher, asking(), clock))[0] == "hit"


async def test_no_answer_goes_to_a_source_with_other_credentials(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """The same URL, once plain, once under each identity, with each set of headers: each asks for itself."""
    url = UrlTemplate("http://h/")
    sources = [Sources({name: Source(name, url, schema="text", identity=identity)})
               for name, identity in (("s", "1"), ("s", "2"), ("t", "1"))]  # fmt: skip
    knowns = [parse_request(Request(source=name, schema="text"), each) for each in sources for name in each.by_name]
    knowns += [asking(), *(asking(headers={"Authorization": token}) for token in "ab"), asking(headers={"Cookie": "a"})]
    upstream.answers.extend(says(str(number)) for number in range(len(knowns)))
    for number, known in enumerate(knowns):
        assert b'"document":"%d"' % number in (await ask(enricher, known, clock))[1]
    for number, known in enumerate(knowns):
        state, shared = await ask(enricher, known, clock)
        assert (state, b'"document":"%d"' % number in shared) == ("hit", True)


async def test_a_source_s_policy_goes_before_the_worker_s(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """How long, how stale, and that its POST may be kept."""
    policy = CachePolicy(ttl=5.0, stale_if_error=1.0, methods_too=True)
    source = Source("s", UrlTemplate("http://h/"), method="POST", schema="text", cache=policy, identity="1")
    known = parse_request(Request(source="s", schema="text"), Sources({"s": source}))
    upstream.answers.extend([says("one"), Unreachable("gone"), Unreachable("gone")])
    assert (await ask(enricher, known, clock))[0] == "miss"
    clock.now += 4.9
    assert (await ask(enricher, known, clock))[0] == "hit"
    clock.now += 0.2
    assert (await ask(enricher, known, clock))[0] == "stale"
    clock.now += 1
    assert (await ask(enricher, known, clock))[0] == "miss"


# -- behind the answers' backs


async def late_hits(enricher: Enricher, clock: Clock, count: int) -> None:
    for _ in range(count):
        assert (await ask(enricher, asking(), clock))[0] == "hit"


async def test_an_answer_asked_for_often_is_fetched_anew_before_it_ends(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """HOT hits in the last fifth of its time begin one fetch, which nobody waits for; no hit before counts."""
    upstream.answers.extend([says("one", "max-age=10"), says("two", "max-age=10")])
    await ask(enricher, asking(), clock)
    clock.now += 7.9
    await late_hits(enricher, clock, HOT)
    clock.now += 0.2
    await late_hits(enricher, clock, HOT - 1)
    assert not enricher._refreshes
    upstream.gate = asyncio.Event()
    for _ in range(5):
        await late_hits(enricher, clock, 1)
        await asyncio.sleep(0)
        assert len(enricher._refreshes) == 1
    assert upstream.calls == 2
    upstream.gate.set()
    await settle(enricher)
    assert b'"two"' in (await ask(enricher, asking(), clock))[1]
    clock.now += 9.9
    assert (await ask(enricher, asking(), clock))[0] == "hit"


async def test_a_source_may_do_without(upstream: Upstream, cache: Cache, clock: Clock) -> None:
    """Without refresh_ahead nothing is fetched before it ends."""
    enricher = enricher_over(upstream, cache, policy=CachePolicy(refresh_ahead=False))
    upstream.answers.append(says("one", "max-age=10"))
    await ask(enricher, asking(), clock)
    clock.now += 9
    await late_hits(enricher, clock, 3 * HOT)
    assert not enricher._refreshes


async def test_a_refresh_that_fails_has_a_rest(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """The answer stays a hit, and is not fetched anew again for NEGATIVE_TTL seconds."""
    upstream.answers.extend([says("one", "max-age=50"), Unreachable("gone"), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 41
    await late_hits(enricher, clock, HOT)
    await settle(enricher)
    clock.now += NEGATIVE_TTL - 0.1
    await late_hits(enricher, clock, HOT)
    assert (upstream.calls, len(enricher._refreshes)) == (2, 0)
    clock.now += 0.2
    await late_hits(enricher, clock, 1)
    await settle(enricher)
    assert b'"two"' in (await ask(enricher, asking(), clock))[1]


async def test_who_asks_while_it_is_fetched_anew_waits_for_that(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """A request that takes no older answer coalesces with the fetch behind the others' backs."""
    upstream.answers.extend([says("one", "max-age=10, stale-while-revalidate=60"), says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 11
    assert (await ask(enricher, asking(), clock))[0] == "stale"
    await asyncio.sleep(0)
    state, shared = await ask(enricher, asking(max_age=5.0), clock)
    assert (state, b'"two"' in shared, upstream.calls) == ("coalesced", True, 2)


async def test_refreshes_are_bounded(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """Beyond a host's share of them the stale answer is given all the same, and fetched anew some other time."""
    enricher._refreshing = Shares(4)
    knowns = [asking(headers={"A": str(number)}) for number in range(4)]
    upstream.answers.extend([says("one", "max-age=10, stale-while-revalidate=60")] * 4 + [says("two")] * 4)
    for known in knowns:
        await ask(enricher, known, clock)
    clock.now += 11
    for known in knowns:
        assert (await ask(enricher, known, clock))[0] == "stale"
    assert len(enricher._refreshes) == 2
    await settle(enricher)
    assert [(await ask(enricher, known, clock))[0] for known in knowns] == ["hit", "hit", "stale", "stale"]


async def test_a_host_that_hangs_keeps_no_other_s_answers_from_being_fetched_anew(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """With its share under way none of its answers is fetched anew; another host's is."""
    hangs = parse_request(Request(url="http://hangs.example/", schema="text"))
    upstream.answers.extend([says("one", "max-age=10, stale-while-revalidate=60")] * 2 + [says("two")])
    for known in (hangs, asking()):
        await ask(enricher, known, clock)
    while enricher._refreshing.fits("hangs.example"):
        enricher._refreshing.take("hangs.example")
    clock.now += 11
    for known in (hangs, asking()):
        assert (await ask(enricher, known, clock))[0] == "stale"
    assert list(enricher._refreshes) == [asking().key]
    await settle(enricher)


async def test_what_is_counted_is_bounded(
    enricher: Enricher, upstream: Upstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits of no more than MAX_COUNTED answers are counted; then counting starts over."""
    monkeypatch.setattr(enrich, "MAX_COUNTED", 2)
    knowns = [asking(headers={"A": str(number)}) for number in range(5)]
    upstream.answers.extend([says("one")] * 5)
    for known in knowns:
        await ask(enricher, known, clock)
    clock.now += 55
    for known in knowns:
        await ask(enricher, known, clock)
        assert len(enricher._late_hits) <= 2


async def test_what_runs_behind_the_answers_backs_ends_at_close(upstream: Upstream, cache: Cache, clock: Clock) -> None:
    """Closing cancels it, whether it has begun or not, and waits for its end; who waited for it may lead."""
    upstream.answers.extend([says("one", "max-age=10, stale-while-revalidate=60")] * 2)
    knowns = [asking(), asking(headers={"A": "b"})]
    async with enricher_over(upstream, cache) as enricher:
        for known in knowns:
            await ask(enricher, known, clock)
        clock.now += 11
        upstream.gate = asyncio.Event()
        await ask(enricher, knowns[0], clock)
        await asyncio.sleep(0)
        await ask(enricher, knowns[1], clock)
        tasks = list(enricher._refreshes.values())
    assert [task.cancelled() for task in tasks] == [True, True]
    assert (len(enricher._refreshes), len(enricher._flights)) == (0, 0)


async def test_a_refresh_that_takes_too_long_is_given_up(upstream: Upstream, cache: Cache, clock: Clock) -> None:
    """By the worker's own deadline; the upstream has a rest then, and who waited for it asks for itself."""
    upstream.answers.extend([says("one", "max-age=10, stale-while-revalidate=60")])
    async with enricher_over(upstream, cache, timeout=0.01) as enricher:
        await ask(enricher, asking(), clock)
        clock.now += 11
        upstream.gate = asyncio.Event()
        assert (await ask(enricher, asking(), clock))[0] == "stale"
        follower = asyncio.create_task(enricher.answer(asking(max_age=5.0, timeout=PATIENCE), {}))
        while upstream.calls < 3:
            await asyncio.sleep(0.001)
        assert (await ask(enricher, asking(), clock))[0] == "stale"
        assert not enricher._refreshes
        upstream.answers.append(says("two"))
        upstream.gate.set()
        assert (await follower).cache == b"miss"


async def test_a_refresh_sends_no_record_s_trace(enricher: Enricher, upstream: Upstream, clock: Clock) -> None:
    """What is fetched behind the answers' backs belongs to no record."""
    upstream.answers.extend([says("one", "max-age=10, stale-while-revalidate=60"), says("two")])
    await enricher.answer(asking(), {"traceparent": "00-x"})
    clock.now += 11
    assert (await enricher.answer(asking(), {"traceparent": "00-y"})).cache == b"stale"
    await settle(enricher)
    assert [dict(headers) for headers, _ in upstream.asked] == [{"traceparent": "00-x"}, {}]


async def test_a_timeout_of_the_upstream_is_not_remembered(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """A slow upstream is asked again at once by the next who comes, unless a stale answer stands in."""
    upstream.answers.extend([TimedOut("late"), says("one")])
    await ask(enricher, asking(), clock)
    assert (await ask(enricher, asking(), clock))[0] == "miss"


async def test_a_refresh_s_failure_for_want_of_time_is_nobody_else_s(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """Who waited for a fetch behind the answers' backs that ran out of time asks for itself."""
    hurried = UpstreamError("no", 503)
    hurried.deadline_bound = True
    said = "max-age=10, stale-while-revalidate=60, stale-if-error=0"
    upstream.answers.extend([says("one", said), hurried, says("two")])
    await ask(enricher, asking(), clock)
    clock.now += 11
    assert (await ask(enricher, asking(), clock))[0] == "stale"
    await asyncio.sleep(0)
    state, shared = await ask(enricher, asking(max_age=5.0), clock)
    assert (state, b'"two"' in shared) == ("miss", True)


async def test_a_refresh_that_fails_where_no_failure_is_covered_has_a_rest_too(
    enricher: Enricher, upstream: Upstream, clock: Clock
) -> None:
    """An answer served while it is fetched anew does not have a failing upstream asked with every request."""
    said = "max-age=10, stale-while-revalidate=60, stale-if-error=0"
    upstream.answers.extend([says("one", said), Unreachable("gone"), Unreachable("gone")])
    await ask(enricher, asking(), clock)
    clock.now += 11
    for _ in range(3):
        assert (await ask(enricher, asking(), clock))[0] == "stale"
        await settle(enricher)
    assert upstream.calls == 2


@pytest.mark.parametrize("name", ["Authorization", "cookie"])
async def test_an_answer_for_somebody_s_credentials_stays_in_the_worker(
    upstream: Upstream, enricher: Enricher, name: str
) -> None:
    """RFC 9111, section 3.5: it is a hit for the same request again, and is written nowhere where others read."""
    lower = LowerTier()
    enricher._cache.lower = [lower]
    upstream.answers.append(says("one"))
    request = asking(headers={name: "secret"})
    assert (await enricher.answer(request, {})).cache == b"miss"
    assert (await enricher.answer(request, {})).cache == b"hit"
    await settle(enricher)
    assert lower.kept == {}
