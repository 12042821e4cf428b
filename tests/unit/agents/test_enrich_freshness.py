"""What the cache answers when it should: fresh, stale instead of a failure, failures for a moment."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from agents import enrich
from agents.enrich import Enricher
from agents.known import Known, know
from models.documents import Body
from models.errors import AnswerError, Overloaded, TooLarge, Unreachable, UpstreamError
from models.request import Request
from streams.cache.freshness import NEGATIVE_TTL, STALE_IF_ERROR
from streams.cache.memory import MemoryCache
from streams.http.client import Response
from streams.tiers import MemoryTier


class Clock:
    """Both of the clocks that the cache goes by."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Upstream:
    """A client whose answers the test lays out in order."""

    def __init__(self) -> None:
        self.answers: deque[Response | AnswerError] = deque()
        self.calls = 0

    async def fetch(self, *_: Any, **__: Any) -> Response:
        self.calls += 1
        answer = self.answers.popleft()
        if isinstance(answer, AnswerError):
            raise answer
        return answer


def says(text: str, cache_control: str | None = None) -> Response:
    return Response(200, Body(text.encode(), "text/plain"), cache_control)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(enrich.time, "time", clock)
    return clock


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def enricher(upstream: Upstream, clock: Clock) -> Enricher:
    cache = MemoryCache(MemoryTier(ttl=60), clock=clock)
    return Enricher(upstream, cache, None, 30)  # type: ignore[arg-type]


def asking(**fields: Any) -> Known:
    return know(Request(url="http://h/", schema="text", **fields))


async def ask(enricher: Enricher, known: Known, clock: Clock) -> tuple[str, bytes]:
    """Ask as the agent does: the cache first; returns the cache state and the shared part."""
    entry = enricher.peek(known, clock.now)
    if entry is not None:
        return "hit", entry.shared
    enriched = await enricher.answer(known, {})
    return enriched.cache.decode(), enriched.shared


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
    clock.now += STALE_IF_ERROR
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
