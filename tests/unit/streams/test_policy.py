"""What a source says of how it is asked, against real upstreams: statuses, time-outs, sizes, limits, conditions."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack

import pytest
from aiohttp import web

from models.errors import AnswerError, Overloaded, TimedOut, TooLarge, UpstreamError
from models.source import Limits, Retries, Source
from streams.http.breaker import MIN_REQUESTS
from streams.http.client import Client
from streams.http.policy import policy_of
from tests.unit.streams.test_client import LIMIT, LOOPBACK, ONCE, at

pytestmark = pytest.mark.slow

PATIENCE = 5.0
"""Seconds after which a test that hangs has failed."""
VALIDATORS = {"If-None-Match": '"1"', "If-Modified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.fixture
async def client(upstream):
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        yield client


async def ask(client, url, method="GET", *, deadline=None, validators=None, **source):
    """Fetch on the policy of a source that is tried once unless it says more."""
    policy = policy_of(Source("s", **({"retry": ONCE} | source)), client.policy, client.post)
    async with asyncio.timeout(PATIENCE):
        return await client.fetch(method, url, {}, policy=policy, deadline=deadline, validators=validators)


async def refused(client, url, error, method="GET", **options):
    with pytest.raises(error) as caught:
        await ask(client, url, method, **options)
    assert type(caught.value) is error
    return caught.value


# -- statuses


@pytest.mark.parametrize("status", [200, 404, 410, 500, 302])
async def test_a_status_that_the_source_calls_a_success_is_one(client, upstream, status):
    """Its body is the answer, be it an error's or a redirect's, which is not followed then."""
    upstream.answers["/"] = {"status": status, "body": b"x", "headers": {"Location": "/elsewhere", "Retry-After": "9"}}
    response = await ask(client, at(upstream), success=frozenset({status}), retry=Retries(first_pause=0.0))
    assert (response.status, response.body.content, len(upstream.seen)) == (status, b"x", 1)
    assert client.hosts.stats()[0]["held_seconds"] == 0


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_a_status_that_the_source_does_not_name_is_none(client, upstream, status):
    """Where a source says what is a success, 2xx is none by itself."""
    upstream.answers["/"] = {"status": status}
    error = await refused(client, at(upstream), UpstreamError, success=frozenset({206, 404}))
    assert (error.status, error.retryable) == (status, False)


@pytest.mark.parametrize("status", [404, 409, 503])
async def test_the_source_says_which_statuses_are_tried_again(client, upstream, status):
    """As often as it says, and only those."""
    upstream.answers["/"] = {"status": status}
    retry = Retries(frozenset({404, 503}), attempts=3, first_pause=0.0)
    error = await refused(client, at(upstream), UpstreamError, retry=retry)
    asked = 1 if status == 409 else 3
    assert (error.status, error.attempts, len(upstream.seen), error.retryable) == (status, asked, asked, asked > 1)


async def test_a_503_is_not_tried_again_where_the_source_does_not_say_so(client, upstream):
    """The usual statuses hold for who names none."""
    upstream.answers["/"] = {"status": 503}
    error = await refused(client, at(upstream), UpstreamError, retry=Retries(frozenset({500}), first_pause=0.0))
    assert (error.retryable, len(upstream.seen)) == (False, 1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_no_status_makes_a_request_sent_twice_that_may_not_be(client, upstream, method):
    """A method that is not idempotent is sent once whatever its source would try again."""
    upstream.answers["/"] = {"status": 503}
    error = await refused(client, at(upstream), UpstreamError, method, retry=Retries(first_pause=0.0))
    assert (error.attempts, len(upstream.seen)) == (1, 1)


async def test_one_source_s_failure_is_not_another_s_try(client, upstream):
    """A plain request keeps the worker's own policy beside a source's."""
    upstream.answers["/"] = {"status": 404}
    await refused(client, at(upstream), UpstreamError, retry=Retries(frozenset({404}), attempts=2, first_pause=0.0))
    with pytest.raises(UpstreamError):
        await client.fetch("GET", at(upstream), {})
    assert len(upstream.seen) == 3


# -- bounds


@pytest.mark.parametrize("sends", ["nothing", "a part"])
async def test_an_upstream_that_is_silent_for_too_long_is_timed_out(client, upstream, sends):
    """`read_timeout` bounds the wait for the next bytes, of the head as of the body."""

    async def hang(request):
        if sends == "a part":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
        await asyncio.Event().wait()

    upstream.answers["/"] = hang
    error = await refused(client, at(upstream), TimedOut, read_timeout=0.05)
    assert (str(error), error.retryable) == ("127.0.0.1 did not answer in time", True)


async def test_a_slow_upstream_that_is_never_silent_for_long_is_waited_for(client, upstream):
    """It is the silence that is bounded, not the whole."""

    async def drip(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(6):
            await response.write(b"x")
            await asyncio.sleep(0.1)  # the upstream's own pace, well below the bound and in all above it
        return response

    upstream.answers["/"] = drip
    assert (await ask(client, at(upstream), read_timeout=0.5)).body.content == b"xxxxxx"


async def test_a_connection_that_takes_too_long_is_given_up(client):
    """`connect_timeout` bounds the handshake with a host whose backlog is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        error = await refused(client, f"http://127.0.0.1:{full.getsockname()[1]}/", TimedOut, connect_timeout=0.05)
    assert str(error) == "127.0.0.1 did not answer in time"


@pytest.mark.parametrize(("cap", "size", "taken"), [(10, 10, True), (10, 11, False), (LIMIT * 2, LIMIT + 1, False)])
async def test_the_smaller_cap_on_bodies_holds(client, upstream, cap, size, taken):
    """A source may take less than the worker does, not more."""
    upstream.answers["/"] = {"body": b"x" * size}
    if taken:
        assert len((await ask(client, at(upstream), max_bytes=cap)).body.content) == size
    else:
        error = await refused(client, at(upstream), TooLarge, max_bytes=cap)
        assert str(error) == f"the body has {size} bytes; at most {min(cap, LIMIT)} are taken"


# -- limits


async def test_a_source_has_so_many_in_flight_and_its_host_others_beside(client, upstream):
    """Ten of a source that allows two go two by two; a plain request to the same host does not wait behind them."""
    under_way, most = 0, 0
    go_on, two = asyncio.Event(), asyncio.Event()

    async def count(_):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if most == 2:
            two.set()
        await go_on.wait()
        under_way -= 1
        return web.Response()

    upstream.answers["/"] = count
    policy = policy_of(Source("s", limits=Limits(concurrency=2)), client.policy, client.post)
    fetching = [asyncio.ensure_future(client.fetch("GET", at(upstream), {}, policy=policy)) for _ in range(10)]
    await asyncio.wait_for(two.wait(), PATIENCE)
    assert (await client.fetch("GET", at(upstream, "/plain"), {})).status == 200
    go_on.set()
    await asyncio.gather(*fetching)
    assert most == 2


async def test_a_worker_has_so_many_in_flight_over_all_hosts(serve):
    """`max_in_flight` bounds the requests under way, whichever hosts they go to."""
    here, there = await serve(), await serve()
    go_on, arrived = asyncio.Event(), asyncio.Event()

    async def wait(_):
        arrived.set()
        await go_on.wait()
        return web.Response()

    here.answers["/"] = wait
    async with Client(LIMIT, LOOPBACK, retry=ONCE, max_in_flight=1) as client:
        first = asyncio.ensure_future(ask(client, at(here), limits=Limits()))
        await asyncio.wait_for(arrived.wait(), PATIENCE)
        second = asyncio.ensure_future(ask(client, at(there)))
        _, waiting = await asyncio.wait({first, second}, timeout=0.05)
        assert (len(waiting), there.seen) == (2, [])
        go_on.set()
        await asyncio.gather(first, second)
    assert len(there.seen) == 1


async def test_hosts_that_hang_leave_places_for_others(serve):
    """Four hosts that together ask for all places and more get their share of them; the next host finds some free."""
    hanging, good = [await serve() for _ in range(4)], await serve()
    go_on = asyncio.Event()

    async def wait(_):
        await go_on.wait()
        return web.Response()

    for each in hanging:
        each.answers["/"] = wait
    async with Client(LIMIT, LOOPBACK, retry=ONCE, max_in_flight=16) as client:
        asking = [asyncio.ensure_future(ask(client, at(each))) for _ in range(16) for each in hanging]
        await asyncio.wait(asking, timeout=0.05)
        assert 8 <= client.in_flight < 16
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ask(client, at(good)) for _ in range(50)))
        go_on.set()
        await asyncio.gather(*asking)
        assert client.in_flight == 0


async def test_a_turn_past_the_deadline_is_overloaded(client, upstream):
    """A source of one request in a thousand seconds answers one, and refuses the next without sending it."""
    policy = policy_of(Source("s", limits=Limits(rate=0.001)), client.policy, client.post)
    await client.fetch("GET", at(upstream), {}, policy=policy)
    with pytest.raises(Overloaded, match=r"takes 0\.001 requests a second at most"):
        await client.fetch("GET", at(upstream), {}, policy=policy, deadline=time.monotonic() + 60)
    await client.fetch("GET", at(upstream), {}, deadline=time.monotonic() + 60)
    assert len(upstream.seen) == 2


async def test_a_redirect_elsewhere_is_within_the_limits_of_there(client, serve, upstream):
    """The source's own limits are those of its origin; elsewhere it is one of the host's guests."""
    there = await serve()
    upstream.redirect("/", 302, at(there))
    policy = policy_of(Source("s", limits=Limits(concurrency=1, rate=0.001)), client.policy, client.post)
    async with asyncio.timeout(PATIENCE):
        await client.fetch("GET", at(upstream), {}, policy=policy)
    assert (len(there.seen), policy.bulkhead.in_flight) == (1, 0)


@pytest.mark.parametrize("status", [404, 429, 503])
async def test_a_pause_asked_of_one_source_holds_for_all_who_ask_the_host(client, upstream, status):
    """Retry-After of any refusal: other sources and plain requests wait, or are refused where they have no time."""
    upstream.answers["/busy"] = {"status": status, "headers": {"Retry-After": "60"}}
    await refused(client, at(upstream, "/busy"), UpstreamError, limits=Limits(concurrency=1))
    for source in ({}, {"limits": Limits()}):
        error = await refused(client, at(upstream), Overloaded, deadline=time.monotonic() + 30, **source)
        assert str(error).startswith(f"127.0.0.1:{upstream.url.port} requested a pause of ")
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("how", ["status", "silence"])
async def test_the_failures_of_a_source_open_the_host_s_breaker_for_all(client, upstream, how):
    """Whoever fails one source half of the time is left alone by the others too."""
    upstream.answers["/"] = {"status": 503} if how == "status" else lambda _: asyncio.Event().wait()
    timeout = None if how == "status" else 0.02
    fetches = (ask(client, at(upstream), limits=Limits(), read_timeout=timeout) for _ in range(MIN_REQUESTS))
    await asyncio.gather(*fetches, return_exceptions=True)
    with pytest.raises(Overloaded, match="fails too often"):
        await client.fetch("GET", at(upstream, "/other"), {})
    assert len(upstream.seen) == MIN_REQUESTS


async def breaker_after(client, upstream, status, **source):
    """Return the state of the host's breaker after so many answers as it takes to open it."""
    upstream.answers["/"] = {"status": status}
    for _ in range(MIN_REQUESTS):
        with pytest.raises(AnswerError):
            await ask(client, at(upstream), **source)
    return client.hosts.stats()[0]["breaker"]


@pytest.mark.parametrize("status", [400, 404, 410, 429])
async def test_refusals_do_not_open_the_breaker(client, upstream, status):
    """A host that refuses does its part; one that is asked too much says nothing of its health."""
    assert await breaker_after(client, upstream, status) == "closed"


async def test_what_one_source_tries_again_is_no_failure_of_the_host(client, upstream):
    """A source that awaits a document asks for 404 again: its host is well, and other sources must not lose it."""
    retry = Retries(frozenset({404}), attempts=1)
    assert await breaker_after(client, upstream, 404, retry=retry) == "closed"


async def test_what_one_source_does_not_try_again_is_a_failure_all_the_same(client, upstream):
    """A host that answers nothing but 500 is left alone, and a 500 never closes its breaker."""
    assert await breaker_after(client, upstream, 500, retry=Retries(frozenset(), attempts=1)) == "open"


# -- conditions


async def test_with_validators_not_modified_is_an_answer(client, upstream):
    """They are sent as they are, and a 304 comes back as such, with its headers and no body."""
    upstream.answers["/"] = {"status": 304, "headers": {"ETag": '"1"', "Cache-Control": "max-age=5"}}
    response = await ask(client, at(upstream), validators=VALIDATORS)
    assert (response.status, response.body.content, response.headers["ETag"]) == (304, b"", '"1"')
    assert {name: upstream.seen[0].headers[name] for name in VALIDATORS} == VALIDATORS


@pytest.mark.parametrize("validators", [None, {}])
async def test_without_validators_not_modified_is_an_error(client, upstream, validators):
    """Who has nothing at hand is not helped by hearing that it still holds."""
    upstream.answers["/"] = {"status": 304}
    error = await refused(client, at(upstream), UpstreamError, validators=validators)
    assert (error.status, error.retryable) == (304, False)


async def test_a_changed_document_answers_a_condition(client, upstream):
    """What is not as it was comes whole."""
    upstream.answers["/"] = {"body": b"new"}
    response = await ask(client, at(upstream), validators=VALIDATORS)
    assert (response.status, response.body.content) == (200, b"new")


@pytest.mark.parametrize("way", ["within", "away", "back"])
async def test_conditions_stay_with_the_address_that_they_are_about(client, serve, upstream, way):
    """They speak of what the first address has: not sent to another path or origin, nor back; a 304 answers nothing."""
    there = await serve()
    upstream.redirect("/", 302, "/last" if way == "within" else at(there))
    there.redirect("/", 302, at(upstream if way == "back" else there, "/last"))
    last = there if way == "away" else upstream
    last.answers["/last"] = {"status": 304}
    error = await refused(client, at(upstream), UpstreamError, validators=VALIDATORS)
    assert error.status == 304
    assert last.seen[-1].path == "/last"
    for seen in (*there.seen, *upstream.seen[1:]):
        assert [name for name in VALIDATORS if name in seen.headers] == []


async def test_a_request_s_own_conditions_go_along_within_an_origin(client, upstream):
    """What a request asks for in its own headers is the request's business, as any other header."""
    upstream.redirect("/", 302, "/new")
    await client.fetch("GET", at(upstream), VALIDATORS)
    assert {name: upstream.seen[1].headers[name] for name in VALIDATORS} == VALIDATORS


async def test_an_answer_by_way_of_a_redirect_has_no_validators(client, upstream):
    """What it could be asked about is not what was asked for: what decides on caching has none of them."""
    headers = {"ETag": '"1"', "Last-Modified": VALIDATORS["If-Modified-Since"], "Cache-Control": "max-age=5"}
    upstream.redirect("/", 302, "/new")
    upstream.answers["/new"] = {"headers": headers}
    direct, redirected = [await ask(client, at(upstream, path)) for path in ("/new", "/")]
    assert {name: direct.trail()[-1].headers[name] for name in headers} == headers
    assert {name: redirected.trail()[-1].headers.get(name) for name in headers} == {
        "ETag": None, "Last-Modified": None, "Cache-Control": "max-age=5",
    }  # fmt: skip


async def test_conditions_are_made_anew_at_each_try(client, upstream):
    """A request that is tried again asks on the same conditions."""

    async def flaky(_):
        return web.Response(status=503 if len(upstream.seen) == 1 else 304)

    upstream.answers["/"] = flaky
    response = await ask(client, at(upstream), validators=VALIDATORS, retry=Retries(first_pause=0.0))
    assert (response.status, response.attempts) == (304, 2)
    assert all(seen.headers["If-None-Match"] == '"1"' for seen in upstream.seen)


# -- sources of one host, apart


async def test_sources_of_one_host_with_keys_of_their_own_are_told_apart(client, upstream):
    """With `per = "source"` a pause that one's key has earned holds for that source alone; without, for the host."""

    async def answer(request):
        return web.Response(status=429, headers={"Retry-After": "120"}) if "first" in request.query else web.Response()

    upstream.answers["/"] = answer

    def policy(name, **limits):
        source = Source(name, retry=ONCE, limits=Limits(**limits) if limits else None)
        return policy_of(source, client.policy, client.post)

    async def ask(name, query="", **limits):
        soon = time.monotonic() + PATIENCE
        return await client.fetch("GET", at(upstream, f"/?{query}"), {}, policy=policy(name, **limits), deadline=soon)

    with pytest.raises(UpstreamError):
        await ask("a", "first", per="source")
    assert (await ask("b", per="source")).status == 200
    assert (await ask("c")).status == 200
    with pytest.raises(Overloaded, match="requested a pause"):
        await ask("a", per="source")
    with pytest.raises(UpstreamError):
        await ask("c", "first")
    with pytest.raises(Overloaded, match="requested a pause"):
        await ask("d")
    assert (await ask("b", per="source")).status == 200
    host = f"127.0.0.1:{upstream.url.port}"
    assert {figure["host"] for figure in client.hosts.stats()} == {f"{host} (a)", f"{host} (b)", host}


async def test_a_breaker_apart_opens_for_its_source_alone(client, upstream):
    """What one source's key makes fail says nothing to another's."""
    upstream.answers["/bad"] = {"status": 500}
    apart = {"limits": Limits(per="source")}
    for _ in range(MIN_REQUESTS):
        await refused(client, at(upstream, "/bad"), UpstreamError, **apart)
    await refused(client, at(upstream, "/"), Overloaded, **apart)
    assert (await ask(client, at(upstream, "/"))).status == 200


async def test_limits_apart_are_a_source_s_alone(client, serve):
    """One API of a gateway hangs with all its places taken: another, and plain requests, are answered meanwhile, and
    each one's figures are its own.
    """
    gateway, begun, released = await serve(), asyncio.Semaphore(0), asyncio.Event()

    async def hang(request):
        begun.release()
        await released.wait()
        return web.Response()

    gateway.answers["/slow"] = hang
    slow, quick = (policy_of(Source(name, limits=Limits(2, per="source")), client.policy, client.post) for name in "ab")
    hanging = [asyncio.ensure_future(client.fetch("GET", at(gateway, "/slow"), {}, policy=slow)) for _ in range(5)]
    for _ in range(2):
        await asyncio.wait_for(begun.acquire(), PATIENCE)
    for policy in (quick, None):
        soon = time.monotonic() + PATIENCE
        assert (await client.fetch("GET", at(gateway), {}, policy=policy, deadline=soon)).status == 200
    stats = {each["host"].partition(" ")[2]: each for each in client.hosts.stats()}
    assert [(stats[name]["users"], stats[name]["in_flight"], stats[name]["limit"]) for name in ("(a)", "(b)", "")] == [
        (5, 2, 2), (0, 0, 2), (0, 0, 32),
    ]  # fmt: skip
    released.set()
    await asyncio.gather(*hanging)


# -- redirects


@pytest.mark.parametrize(("redirects", "hops"), [(None, 5), (7, 7), (1, 1), (20, 20)])
async def test_a_source_says_how_many_redirects_are_followed(client, upstream, redirects, hops):
    """Its own number, or the worker's."""
    for hop in range(30):
        upstream.redirect(f"/{hop}", 302, f"/{hop + 1}")
    error = await refused(client, at(upstream, "/0"), UpstreamError, redirects=redirects)
    assert (str(error), len(upstream.seen)) == (
        f"127.0.0.1: more than {hops} redirects (see MILLRACE_MAX_REDIRECTS)", hops + 1,
    )  # fmt: skip


async def test_without_redirects_one_is_an_answer_like_any_other(client, upstream):
    """At 0 the status is told, and a source that calls it a success has its body."""
    upstream.redirect("/", 302, "/next")
    assert (await refused(client, at(upstream), UpstreamError, redirects=0)).status == 302
    assert (await ask(client, at(upstream), redirects=0, success=frozenset({302}))).status == 302
    assert [seen.path for seen in upstream.seen] == ["/", "/"]
