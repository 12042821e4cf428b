"""What is kept of real answers, by the rules of docs/cache.md: asked of a server on loopback, in one worker and in two
that share a tier.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.answer.parsed_requests import ParsedRequest, parse_request
from models.request import Request
from models.source import CachePolicy, Retries, Source, Sources
from models.template import UrlTemplate
from streams.cache.changes import CLOCK_SLACK
from streams.cache.front import Cache
from streams.config.cache_url import parse_tiers
from streams.config.validators import parse_networks, parse_ports
from streams.functions import FunctionCaller
from streams.http.bodies import kept_until_answered
from streams.http.client import Client
from streams.http.guard import Guard
from streams.http.policy import policy_of

pytestmark = pytest.mark.slow

LOOPBACK = Guard(parse_networks("127.0.0.0/8"), parse_ports("1-65535"))
PATIENCE = 5.0
"""Seconds after which what should have happened has not."""
CHANGES = ["PUT", "POST", "PATCH", "DELETE"]
Answers = Callable[[web.Request], Awaitable[web.Response]]


class Upstream:
    """A server whose document is a count: of all requests that it was sent. `answers` are by method and path."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, list[Any]] = {}
        self.gate: asyncio.Event | None = None
        self._came = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        place = f"{request.method} {request.rel_url.raw_path_qs}"
        self.seen.append(place)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        number = len(self.seen)
        self._came.set()
        answers = self.answers.get(place, [{}])
        answer = dict(answers.pop(0) if len(answers) > 1 else answers[0])
        if self.gate is not None and request.method == "GET":
            await self.gate.wait()
        answer.setdefault("text", None if answer.get("status") in (204, 304) else str(number))
        return web.Response(**answer)

    def says(self, place: str, *answers: dict[str, Any]) -> None:
        """Answer to `METHOD /path` with these, the last one again and again."""
        self.answers[place] = list(answers)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.seen) < count:
                self._came.clear()
                await self._came.wait()


def head(cache_control: str | None = None, status: int = 200, **headers: str) -> dict[str, Any]:
    """Make an answer; of headers given by name, `_` stands for a hyphen."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"status": status, "headers": given | ({"Cache-Control": cache_control} if cache_control else {})}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def upstream(stack: AsyncExitStack) -> Upstream:
    upstream = Upstream()
    runner = web.ServerRunner(web.Server(upstream, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return upstream


class Worker:
    """As much of a worker as answers."""

    def __init__(self, upstream: Upstream, enricher: Enricher, cache: Cache) -> None:
        self.upstream, self.enricher, self.cache = upstream, enricher, cache

    def known(self, path: str = "/a", method: str = "GET", **fields: Any) -> ParsedRequest:
        return parse_request(Request(url=self.upstream.url + path, method=method, schema="text", **fields))

    async def ask(self, path: str = "/a", method: str = "GET", **fields: Any) -> str:
        """Ask as the agent does: the cache first; return the result's `cache`."""
        return await self.ask_known(self.known(path, method, **fields))

    async def ask_known(self, known: ParsedRequest) -> str:
        if self.enricher.peek(known, time.time()) is not None:
            return "hit"
        return (await self.enricher.answer(known, {})).cache.decode()

    async def settle(self) -> None:
        """Let writes behind the answers' backs end."""
        async with asyncio.timeout(PATIENCE):
            while self.cache._writes:
                await asyncio.wait(self.cache._writes)


Start = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start(stack: AsyncExitStack, upstream: Upstream) -> Start:
    """Start workers over one upstream."""

    async def start(tiers: str = "memory://", negative_ttl: float = 5.0, **sources: CachePolicy) -> Worker:
        client = await stack.enter_async_context(Client(100_000, LOOPBACK, retry=Retries(attempts=1)))
        cache = await stack.enter_async_context(Cache(parse_tiers(tiers)))
        caller = await stack.enter_async_context(FunctionCaller(100_000))
        made = {name: source_of(upstream, name, policy) for name, policy in sources.items()}
        policies = {name: policy_of(source, client.policy, client.post) for name, source in made.items()}
        enricher = Enricher(Fetcher(client, caller, policies), None, cache, PATIENCE, negative_ttl=negative_ttl)  # type: ignore[arg-type]
        return Worker(upstream, await stack.enter_async_context(enricher), cache)

    return start


@pytest.fixture
async def worker(start: Start) -> Worker:
    return await start()


def source_of(upstream: Upstream, name: str, policy: CachePolicy, method: str = "GET") -> Source:
    return Source(name, UrlTemplate(upstream.url + "/a"), schema="text", cache=policy, method=method)


# -- changes (RFC 9111, section 4.4)


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize("status", [200, 201, 204, 303])
async def test_a_change_invalidates_what_is_kept(upstream: Upstream, worker: Worker, method: str, status: int) -> None:
    """Whatever else is in the key: method, headers, schema, or how the URL is written."""
    upstream.says(f"{method} /a", head(status=status, Location="/elsewhere"))
    kinds: list[dict[str, Any]] = [{}, {"headers": {"Accept": "text/x"}}, {"method": "HEAD"}]
    assert [await worker.ask(**kind) for kind in kinds] == ["miss"] * 3
    assert [await worker.ask("/b"), await worker.ask("/a?x")] == ["miss"] * 2
    assert [await worker.ask(**kind) for kind in kinds] == ["hit"] * 3
    await worker.ask("/a#b", method)
    assert [await worker.ask(**kind) for kind in kinds] == ["miss"] * 3
    assert [await worker.ask("/b"), await worker.ask("/a?x")] == ["hit"] * 2


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 503])
async def test_a_failed_change_invalidates_nothing(upstream: Upstream, worker: Worker, status: int) -> None:
    """An error status says that nothing was changed."""
    upstream.says("PUT /a", head(status=status, Location="/b"))
    assert [await worker.ask("/a"), await worker.ask("/b")] == ["miss", "miss"]
    await worker.ask("/a", "PUT")
    assert [await worker.ask("/a"), await worker.ask("/b")] == ["hit", "hit"]


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "GET"])
async def test_what_is_safe_invalidates_nothing(worker: Worker, method: str) -> None:
    """RFC 9110, section 9.2.1."""
    await worker.ask("/a")
    await worker.ask("/a", method, headers={"X": "y"})
    assert await worker.ask("/a") == "hit"


@pytest.mark.parametrize("name", ["Location", "Content_Location"])
@pytest.mark.parametrize(
    ("value", "invalidated"),
    [
        ("/b", True),
        ("b", True),
        ("{url}/b", True),
        ("http://127.0.0.1:1/b", False),
        ("//127.0.0.2/b", False),
        ("http://[", False),
    ],
)
async def test_a_change_invalidates_what_it_names_too(
    upstream: Upstream, worker: Worker, name: str, value: str, *, invalidated: bool
) -> None:
    """Location and Content-Location, if they are of the same origin: nobody may empty another's entries."""
    upstream.says("POST /a", head(status=201, **{name: value.format(url=upstream.url)}))
    await worker.ask("/b")
    others = [
        parse_request(Request(url=url, schema="text")).key or b""
        for url in ("http://127.0.0.1:1/b", "http://127.0.0.2/b")
    ]
    for other in others:
        worker.cache.put(other, worker.cache.peek(worker.known("/b").key or b""))
    await worker.ask("/a", "POST")
    assert await worker.ask("/b") == ("miss" if invalidated else "hit")
    assert None not in [worker.cache.peek(other) for other in others]


async def test_a_change_whose_answer_is_of_no_use_is_a_change(upstream: Upstream, worker: Worker) -> None:
    """Its body does not load, or where it points to fails: the upstream has taken it all the same."""
    upstream.says("POST /a", head() | {"text": "{"}, head(status=303, Location="/gone"))
    upstream.says("GET /gone", head(status=404))
    for _ in range(2):
        assert await worker.ask("/a") == "miss"
        known = parse_request(Request(url=upstream.url + "/a", method="POST"))
        assert (await worker.enricher.answer(known, {})).error is not None
    assert await worker.ask("/a") == "miss"


async def test_a_change_that_is_sent_on_changes_both(upstream: Upstream, worker: Worker) -> None:
    """307: where it was asked for, and where it arrived."""
    upstream.says("PUT /a", head(status=307, Location="/b"))
    assert [await worker.ask("/a"), await worker.ask("/b")] == ["miss", "miss"]
    await worker.ask("/a", "PUT")
    assert upstream.seen[-1] == "PUT /b"
    assert [await worker.ask("/a"), await worker.ask("/b")] == ["miss", "miss"]


async def test_a_failure_is_forgotten_by_a_change(upstream: Upstream, worker: Worker) -> None:
    """404, then a PUT, then it is there."""
    upstream.says("GET /a", head(status=404), head())
    assert [await worker.ask("/a"), await worker.ask("/a")] == ["miss", "hit"]
    await worker.ask("/a", "PUT")
    assert await worker.ask("/a") == "miss"


@pytest.mark.parametrize("status", [200, 404])
async def test_what_was_under_way_when_the_change_came_is_not_kept(
    upstream: Upstream, worker: Worker, status: int
) -> None:
    """Who waited gets it, who comes after the change asks anew, and what that brings is kept, whichever ends last."""
    upstream.says("GET /a", head(status=status), head())
    upstream.gate = gate = asyncio.Event()
    before = [asyncio.create_task(worker.ask("/a")) for _ in range(2)]
    await upstream.until(1)
    upstream.gate = None
    await worker.ask("/a", "PUT")
    assert await worker.ask("/a") == "miss"
    gate.set()
    assert sorted(await asyncio.gather(*before)) == ["coalesced", "miss"]
    assert (await worker.ask("/a"), len(upstream.seen)) == ("hit", 3)
    entry = worker.cache.peek(worker.known("/a").key or b"")
    assert b'"document":"3"' in entry.shared


async def test_a_source_s_entries_are_of_their_url(start: Start, upstream: Upstream) -> None:
    """A plain change reaches what a source has of the same URL."""
    worker = await start(s=CachePolicy())
    known = parse_request(Request(source="s", schema=""), Sources({"s": source_of(upstream, "s", CachePolicy())}))
    assert [await worker.ask_known(known), await worker.ask_known(known)] == ["miss", "hit"]
    await worker.ask("/a", "DELETE")
    assert await worker.ask_known(known) == "miss"


@pytest.mark.parametrize(("ttl", "reads"), [(60.0, True), (0.0, False)])
async def test_a_source_whose_posts_are_kept_reads(
    start: Start, upstream: Upstream, ttl: float, *, reads: bool
) -> None:
    """A search by POST does not invalidate what it has found; one with a `ttl` of 0 is a change like any other."""
    policy = CachePolicy(ttl=ttl, methods_too=True)
    worker = await start(s=policy)
    known = parse_request(Request(source="s", schema=""), Sources({"s": source_of(upstream, "s", policy, "POST")}))
    await worker.ask("/a")
    await worker.ask_known(known)
    assert await worker.ask("/a") == ("hit" if reads else "miss")


async def test_workers_that_share_a_tier_share_changes(start: Start, upstream: Upstream, tmp_path: Path) -> None:
    """What one has written there from before another's change is not used by any, nor written after it."""
    tiers = f"memory:// file://{tmp_path}/cache"
    one, two = await start(tiers), await start(tiers)
    assert await one.ask("/a") == "miss"
    await one.settle()
    three = await start(tiers)
    assert await three.ask("/a") == "hit"
    await two.ask("/a", "PUT")
    await two.settle()
    assert await two.ask("/a") == "miss"
    await two.settle()
    four = await start(tiers)
    assert (await four.ask("/a"), four.cache.counts["outdated"]) == ("miss", 1)
    # Their own memory is theirs: until what they have there ends.
    assert [await one.ask("/a"), await three.ask("/a")] == ["hit", "hit"]


async def test_what_was_asked_for_before_another_worker_s_change_is_of_no_use(
    start: Start, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is written after it; what is asked for later than clocks may differ is."""
    tiers = f"memory:// file://{tmp_path}/cache"
    one, two = await start(tiers), await start(tiers)
    upstream.gate = asyncio.Event()
    slow = asyncio.create_task(one.ask("/a"))
    await upstream.until(1)
    await two.ask("/a", "PUT")
    await two.settle()
    upstream.gate.set()
    assert await slow == "miss"
    await one.settle()
    assert await (await start(tiers)).ask("/a") == "miss"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + CLOCK_SLACK + 0.5)
    later = await start(tiers)
    for key in later.cache.memory.keys():  # noqa: SIM118  a method of ours, no dict
        later.cache.memory.drop(key)
    assert await later.ask("/a", max_age=0.0) == "bypass"
    await later.settle()
    assert await (await start(tiers)).ask("/a") == "hit"


# -- answers that nobody else may have


@pytest.mark.parametrize("said", ["no-store", "private", "no-cache", "max-age=0", None])
async def test_each_who_asks_at_once_asks_for_itself(upstream: Upstream, worker: Worker, said: str | None) -> None:
    """Those who waited for the first do not wait for one another, and the next do not wait at all."""
    upstream.says("GET /a", head(said, status=202 if said is None else 200))
    for round_ in (1, 2):
        upstream.gate = asyncio.Event()
        asking = [asyncio.create_task(worker.ask("/a")) for _ in range(4)]
        await upstream.until(4 * round_ - (3 if round_ == 1 else 0))
        upstream.gate.set()
        upstream.gate = None if round_ == 1 else upstream.gate
        assert await asyncio.gather(*asking) == ["miss"] * 4
    assert len(upstream.seen) == 8


async def test_who_waited_in_vain_asks_at_the_same_time(upstream: Upstream, worker: Worker) -> None:
    """Three more requests are under way at once when the first has brought what is not theirs."""
    upstream.says("GET /a", head("no-store"))
    upstream.gate = first = asyncio.Event()
    asking = [asyncio.create_task(worker.ask("/a")) for _ in range(4)]
    await upstream.until(1)
    upstream.gate = asyncio.Event()
    first.set()
    await upstream.until(4)
    upstream.gate.set()
    assert await asyncio.gather(*asking) == ["miss"] * 4


@pytest.mark.parametrize("status", [200, 404])
async def test_a_source_may_share_one_answer_among_all(start: Start, upstream: Upstream, status: int) -> None:
    """`coalesce`: whatever the upstream says of it; it is not kept all the same."""
    policy = CachePolicy(coalesce=True)
    worker = await start(s=policy)
    upstream.says("GET /a", head("no-store", status))
    upstream.gate = asyncio.Event()
    known = parse_request(Request(source="s", schema=""), Sources({"s": source_of(upstream, "s", policy)}))
    asking = [asyncio.create_task(worker.ask_known(known)) for _ in range(4)]
    await upstream.until(1)
    upstream.gate.set()
    assert sorted(await asyncio.gather(*asking)) == ["coalesced"] * 3 + ["miss"]
    assert await worker.ask_known(known) == "miss"


async def test_who_asks_at_once_shares_again_once_the_upstream_lets_it(upstream: Upstream, worker: Worker) -> None:
    """One answer that may be kept, and the next four have one request."""
    upstream.says("GET /a", head("no-store"), head("max-age=60"), head("max-age=60"))
    assert [await worker.ask("/a"), await worker.ask("/a")] == ["miss", "miss"]
    for key in worker.cache.memory.keys():  # noqa: SIM118  a method of ours, no dict
        worker.cache.memory.drop(key)
    asking = [asyncio.create_task(worker.ask("/a")) for _ in range(4)]
    assert sorted(await asyncio.gather(*asking)) == ["coalesced"] * 3 + ["miss"]


# -- failures


@pytest.mark.parametrize(
    ("default", "said", "again"),
    [
        (5.0, {}, "hit"),
        (0.0, {}, "miss"),
        (5.0, {"cache_control": "no-store"}, "miss"),
        (5.0, {"cache_control": "private"}, "miss"),
        (5.0, {"cache_control": "no-cache"}, "miss"),
        (5.0, {"cache_control": "max-age=0"}, "miss"),
        (5.0, {"Expires": "0"}, "miss"),
        (0.0, {"cache_control": "max-age=60"}, "hit"),
        (0.0, {"Expires": formatdate(time.time() + 3600, usegmt=True)}, "hit"),
        (5.0, {"cache_control": "max-age=60", "Age": "60"}, "miss"),
    ],
)
@pytest.mark.parametrize("status", [404, 410, 403, 500, 503])
async def test_a_failure_is_kept_as_it_says(  # noqa: PLR0917  a table's columns and two fixtures
    start: Start, upstream: Upstream, default: float, said: dict[str, str], again: str, status: int
) -> None:
    """What says nothing is remembered for as long as the worker says, 5 s unless it is told otherwise."""
    worker = await start(negative_ttl=default)
    upstream.says("GET /a", head(status=status, **said))
    assert [await worker.ask("/a"), await worker.ask("/a")] == ["miss", again]


async def test_a_failure_outlasts_the_five_seconds_if_it_says_so(
    upstream: Upstream, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """404 with max-age=60 is a failure for 60 s."""
    upstream.says("GET /a", head("max-age=60", 404))
    assert await worker.ask("/a") == "miss"
    now = time.time
    for wait, state in ((50.0, "hit"), (61.0, "miss")):
        monkeypatch.setattr(time, "time", lambda wait=wait: now() + wait)
        assert await worker.ask("/a") == state


async def test_a_failure_is_kept_without_the_heads_that_it_came_with(upstream: Upstream, worker: Worker) -> None:
    """They may have megabytes, which no bound of the cache counts."""
    upstream.says("GET /a", head("max-age=60", 404, Long="x" * 7_000))
    known = worker.known()
    assert await worker.ask_known(known) == "miss"
    entry = worker.cache.peek(known.key or b"")
    assert entry is not None
    assert entry.error is not None
    assert entry.error.trail == ()


async def test_a_refresh_gives_back_its_room(
    upstream: Upstream, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large answer that is fetched behind a request's back takes no room once it is there."""
    monkeypatch.setattr("streams.http.client.arrived", lambda *_: None)  # as if it came in pieces
    large = {"text": "x" * 90_000, "headers": {"Cache-Control": "max-age=0, stale-while-revalidate=60"}}
    upstream.says("GET /a", large)
    for state in ("miss", "stale"):
        with kept_until_answered():
            assert await worker.ask() == state
    await upstream.until(2)
    async with asyncio.timeout(PATIENCE):
        while worker.enricher._refreshes:
            await asyncio.wait(worker.enricher._refreshes.values())
            await asyncio.sleep(0)
    assert worker.enricher._fetcher._client.bodies.taken == 0


async def test_an_invalid_document_that_must_not_be_kept_is_not(upstream: Upstream, worker: Worker) -> None:
    """What an upstream says of an answer holds for what becomes of it."""
    upstream.says("GET /a", head("no-store") | {"text": "{"})
    known = parse_request(Request(url=upstream.url + "/a"))
    assert [await worker.ask_known(known), await worker.ask_known(known)] == ["miss", "miss"]


# -- redirects, statuses, ages


@pytest.mark.parametrize(
    ("status", "said", "again"),
    [
        (302, "no-store", "miss"),
        (302, None, "miss"),
        (307, "max-age=60", "hit"),
        (301, None, "hit"),
        (308, "private", "miss"),
    ],
)
async def test_what_came_by_a_redirect_is_kept_if_that_may_be(
    upstream: Upstream, worker: Worker, status: int, said: str | None, again: str
) -> None:
    """`/latest` points elsewhere tomorrow, though what it points to today is good for a year."""
    upstream.says("GET /a", head(said, status, Location="/file"))
    upstream.says("GET /file", head("max-age=31536000"))
    assert [await worker.ask("/a"), await worker.ask("/a")] == ["miss", again]


async def test_an_answer_that_is_not_ready_is_asked_for_again(upstream: Upstream, worker: Worker) -> None:
    """202 twice, then 200, without a word about caches."""
    upstream.says("GET /a", head(status=202), head(status=202), head())
    assert [await worker.ask("/a") for _ in range(4)] == ["miss", "miss", "miss", "hit"]


async def test_a_part_is_kept_of_nothing_and_is_no_answer_unless_asked_for(upstream: Upstream, worker: Worker) -> None:
    """206 without Range is an error (RFC 9110, section 15.3.7), with it an answer, kept in neither case."""
    upstream.says("GET /a", head("max-age=60", 206, Content_Range="bytes 0-0/9"))
    known = worker.known("/a", headers={"Range": "bytes=0-0"})
    assert [await worker.ask_known(known), await worker.ask_known(known)] == ["miss", "miss"]
    error = (await worker.enricher.answer(worker.known("/a"), {})).error
    assert str(error) == "127.0.0.1 answered 206 Partial Content to a request without Range"
    assert (await worker.enricher.answer(worker.known("/a"), {})).cache == b"hit"  # a failure that says max-age=60


async def test_age_counts_on_from_the_upstream_s(upstream: Upstream, worker: Worker) -> None:
    """In a result's `age`, of the first as of a hit, and against a request's `max_age`."""
    upstream.says("GET /a", head("max-age=100000", Age="1800"))
    first = await worker.enricher.answer(worker.known("/a"), {})
    assert time.time() - (first.as_of or 0) == pytest.approx(1800, abs=PATIENCE)
    assert await worker.ask("/a") == "hit"
    assert await worker.ask("/a", max_age=2_000.0) == "hit"
    assert await worker.ask("/a", max_age=600.0) == "miss"


# -- revalidation


@pytest.mark.parametrize(
    ("kept", "said", "holds"),
    [
        ({"ETag": '"a"'}, {"ETag": '"a"'}, True),
        ({"ETag": '"a"'}, {}, True),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, False),
        ({"ETag": 'W/"a"'}, {"ETag": '"a"'}, True),
        ({"ETag": '"a"'}, {"ETag": 'W/"b"'}, False),
        ({"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, {}, True),
        ({"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, {"ETag": '"b"'}, False),
        ({"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, {"ETag": 'W/"b"'}, True),
        ({"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, {"Last_Modified": "Fri, 02 Jan 2026 00:00:00 GMT"}, False),
    ],
)
async def test_a_304_is_about_the_version_that_it_names(
    upstream: Upstream, worker: Worker, kept: dict[str, str], said: dict[str, str], *, holds: bool
) -> None:
    """RFC 9111, section 4.3.4: of another version it updates nothing, and the answer is fetched without conditions."""
    upstream.says("GET /a", head("no-cache", **kept), head("no-cache", 304, **said), head("no-cache", ETag='"b"'))
    assert await worker.ask("/a") == "miss"
    again = await worker.enricher.answer(worker.known("/a"), {})
    assert again.cache == (b"revalidated" if holds else b"miss")
    assert again.document() == ("1" if holds else "3")
    if not holds:
        assert not {"if-none-match", "if-modified-since"} & upstream.headers[-1].keys()


# -- what a request wishes (RFC 9111, section 5.2.1)


@pytest.mark.parametrize(
    ("wish", "state"),
    [
        ({"Cache-Control": "no-cache"}, "bypass"),
        ({"Cache-Control": "no-store"}, "bypass"),
        ({"Cache-Control": "max-age=0"}, "bypass"),
        ({"Cache-Control": "max-age=600"}, "miss"),
        ({"Cache-Control": "max-age=2000"}, "hit"),
        ({"Cache-Control": "min-fresh=30"}, "hit"),
        ({"cache-control": "min-fresh=90"}, "miss"),
        ({"Cache-Control": "max-stale=5"}, "hit"),
        ({"Cache-Control": "only-if-cached"}, "hit"),
        ({"Cache-Control": "max-age=soon, x=y"}, "hit"),
        ({"Pragma": "no-cache"}, "bypass"),
        ({"Pragma": "no-cache", "Cache-Control": "max-age=2000"}, "hit"),
    ],
)
async def test_a_request_s_own_headers_are_wishes(
    upstream: Upstream, worker: Worker, wish: dict[str, str], state: str
) -> None:
    """They choose among what is kept, rather than being kept apart, and go to the upstream as they are."""
    upstream.says("GET /a", head("max-age=1860", Age="1800"))
    assert await worker.ask("/a") == "miss"
    assert await worker.ask("/a", headers=wish) == state
    if state != "hit":
        assert upstream.headers[-1].items() >= {name.lower(): value for name, value in wish.items()}.items()


async def test_what_is_only_to_come_from_the_cache_is_not_fetched(upstream: Upstream, worker: Worker) -> None:
    """A failure of status 504 that is nobody else's, also of those who wait for a fetch under way."""
    wish = {"Cache-Control": "only-if-cached"}
    upstream.gate = asyncio.Event()
    fetching = asyncio.create_task(worker.ask("/a"))
    await upstream.until(1)
    missing = await worker.enricher.answer(worker.known("/a", headers=wish), {})
    assert (getattr(missing.error, "status", None), len(upstream.seen)) == (504, 1)
    upstream.gate.set()
    assert [await fetching, await worker.ask("/a", headers=wish)] == ["miss", "hit"]


async def test_an_answer_to_no_store_is_not_kept(worker: Worker) -> None:
    """Neither for itself nor for others."""
    assert await worker.ask("/a", headers={"Cache-Control": "no-store"}) == "bypass"
    assert await worker.ask("/a") == "miss"
