"""The rules of freshness against their model, whatever happens: time passes, the upstream changes its mind, the worker
is another one (only the lower tier is left), somebody asks with any max_age.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.answer.parsed_requests import parse_request
from models import strictjson
from models.documents import Body
from models.request import Request
from models.source import CachePolicy
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.http.response import Response
from tests.fakes import LowerTier
from tests.unit.agents.freshness_model import FAILURES, Got, Model, Says, unchanged

pytestmark = pytest.mark.slow


class World:
    """The real thing: a worker's enricher over an upstream that is of the model's mind."""

    def __init__(self, model: Model, *, shared: bool) -> None:
        self.model = model
        self.tier = LowerTier() if shared else None
        self.asked: list[dict[str, str]] = []
        self.restart()

    def restart(self) -> None:
        self.cache = Cache((MemoryTier(),), clock=self.model.clock)
        self.cache.memory._clock = self.model.clock
        if self.tier is not None:
            self.cache.lower = [self.tier]
        self.enricher = Enricher(Fetcher(self, None, {}), None, self.cache, 30.0, self.model.policy)  # type: ignore[arg-type]

    async def fetch(self, *_: Any, validators: Mapping[str, str], **__: Any) -> Response:
        self.asked.append(dict(validators))
        mind = self.model.mind
        if isinstance(mind, str):
            kind, arguments = FAILURES[mind][:2]
            raise kind(*arguments)
        headers = mind.headers(self.model.version, self.model.now)
        if not unchanged(validators, headers):
            return Response(200, Body(str(self.model.version).encode(), "application/json"), CIMultiDict(headers))
        if mind.silent_304:
            headers = {name: value for name, value in headers.items() if name not in ("Cache-Control", "Expires")}
        return Response(304, Body(b""), CIMultiDict(headers))

    async def ask(self, max_age: float | None) -> Got:
        """Ask as the agent does, and let everything that this begins come to its end."""
        self.asked.clear()
        known = parse_request(Request(url="http://h/", max_age=max_age))
        entry = self.enricher.peek(known, self.model.now)
        if entry is None:
            found = await self.enricher.answer(known, {})
        else:
            found = EncodedAnswer(entry.shared, b"hit", entry.as_of, entry.error)
        while self.enricher._refreshes or self.cache._writes:
            await asyncio.sleep(0)
        members = strictjson.loads(b"{" + found.shared + b"}")
        what = members["document"] if members["outcome"] == "ok" else members["outcome"]
        what = "not_found" if members.get("status") == 404 else what
        return Got(found.cache.decode(), what, None if found.as_of is None else self.model.now - found.as_of)


class Turn(NamedTuple):
    """What happens before a request, and how old an answer it takes. `fresh_mind`: with a new document or the same."""

    wait: float
    mind: Says | str | None
    same_document: bool
    restart: bool
    max_age: float | None


async def play(policy: CachePolicy, turns: list[Turn], *, shared: bool) -> None:
    """Have the model and the real thing live through the same, and compare them at every request."""
    model = Model(policy, shared=shared)
    with mock.patch.object(time, "time", model.clock):
        world = World(model, shared=shared)
        for number, turn in enumerate(turns):
            model.now += turn.wait
            if turn.mind is not None:
                model.mind = turn.mind
                model.version += not turn.same_document
            if turn.restart and shared:
                model.restart()
                world.restart()
            found, expected = await world.ask(turn.max_age), model.ask(turn.max_age)
            place = f"turn {number}"
            assert (found.state, found.what) == (expected.state, expected.what), place
            assert found.age == pytest.approx(expected.age, abs=0.001), place
            assert world.asked == model.asked, place


SECONDS = st.sampled_from([0, 1, 10, 30, 90, 1_000])
BARE = ["no-store", "private", "no-cache", "must-revalidate", "proxy-revalidate", "public"]
TIMED = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"]
DIRECTIVES = st.dictionaries(st.sampled_from(TIMED), SECONDS, max_size=3).flatmap(
    lambda timed: st.sampled_from([{}, {}, {}, *({name: None} for name in BARE)]).map(lambda bare: timed | bare)
)
MINDS = st.builds(
    Says,
    DIRECTIVES,
    expires_in=st.none() | st.sampled_from([-5, 0, 20, 90]),
    age=st.none() | st.sampled_from([0, 5, 50]),
    any_vary=st.sampled_from([False] * 9 + [True]),
    etag=st.booleans(),
    modified=st.booleans(),
    silent_304=st.booleans(),
    expires_at=st.none(),
) | st.sampled_from(sorted(FAILURES))
POLICIES = st.builds(
    CachePolicy,
    ttl=st.sampled_from([10.0, 60.0]),
    stale_while_revalidate=st.none() | st.sampled_from([0.0, 20.0]),
    stale_if_error=st.none() | st.sampled_from([0.0, 40.0, 600.0]),
    refresh_ahead=st.booleans(),
    negative_ttl=st.sampled_from([{}, {"not_found": 0.0}, {"unreachable": 20.0, "upstream_error": 2.0}]),
)


WAITS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0, 4.5, 6.0, 9.0, 11.0, 50.0, 55.0, 250.0, 3_000.0])
ANY_AGE = st.sampled_from([None, None, None, None, 0.0, 3.0, 20.0, 100.0])
RARELY = st.sampled_from([False, False, False, True])


def turns_of(max_ages: st.SearchStrategy[float | None], minds: st.SearchStrategy[Says | str]) -> Any:
    """Draw a life."""
    turn = st.builds(Turn, WAITS, st.none() | minds, st.booleans(), RARELY, max_ages)
    return st.lists(turn, min_size=3, max_size=12)


def tamed(turn: Turn) -> Turn:
    """Leave out what a test marked as failing in test_enrich_freshness.py is about."""
    return turn._replace(max_age=None) if turn.restart and turn.max_age == 0 else turn


@settings(deadline=None, max_examples=400)
@given(POLICIES, turns_of(ANY_AGE, MINDS), st.booleans())
def test_every_request_gets_what_the_rules_say(policy: CachePolicy, turns: list[Turn], shared: bool) -> None:
    """Whatever happens, state, document, age and what the upstream is asked are those of the model."""
    asyncio.run(play(policy, [tamed(turn) for turn in turns], shared=shared))
