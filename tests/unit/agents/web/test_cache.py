"""What a worker tells over HTTP of its cache and hosts, and who may purge."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from types import SimpleNamespace

import aiohttp
import pytest

from agents.answer.parsed_requests import parse_request
from agents.web.api.query import Query
from agents.web.api.routes import open_api
from models.errors import PurgeError
from models.request import Request
from models.source import Source, Sources
from models.template import UrlTemplate
from streams.cache.entry import fresh_entry
from streams.cache.freshness import Freshness
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.config.settings import Settings
from streams.pool import CheckPool
from streams.web.server import Server

TOKEN = "a-token"
URLS = "http://a.example/", "http://b.example/"
SOURCES = Sources({"quotes": Source("quotes", UrlTemplate("http://a.example/"), identity="x")})


@pytest.fixture
async def cache():
    async with Cache([MemoryTier()]) as opened:
        yield opened


@pytest.fixture
async def serve(cache):
    """Start a server over the cache and return its URL's maker."""
    async with AsyncExitStack() as stack:

        async def start(token=TOKEN, *, ready=True):
            own = SimpleNamespace(resources=SimpleNamespace(cache=cache, pool=CheckPool(3)) if ready else None)
            query = await stack.enter_async_context(Query("w1", own))
            api = await stack.enter_async_context(open_api(Settings(), SOURCES, query))
            server = Server("127.0.0.1", 0, dict, api.routes(), token=token)
            await stack.enter_async_context(server)
            return f"http://127.0.0.1:{server.port}/api"

        yield start


def fill(cache):
    """Keep an answer for each URL, and one for the source whose URL is the first."""
    known = [parse_request(Request(url=url)) for url in URLS] + [
        parse_request(Request(source="quotes", schema=""), SOURCES)
    ]
    for each in known:
        cache.put(each.key, fresh_entry(b'"outcome":"ok"', time.time(), Freshness(60, 0, 0)))
    return [each.key for each in known]


async def ask(method, url, token=None):
    headers = {} if token is None else {"Authorization": token}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
        text = await response.text()
        return response.status, (json.loads(text) if "json" in response.content_type else text)


async def test_the_pool_tells_its_figures(serve):
    """GET /api/pool says how many processes there are, and what was counted."""
    status, told = await ask("GET", await serve() + "/pool")
    assert status == 200
    assert (told["processes"], told["alive"], told["queued"], told["timeouts"]) == (3, 0, 0, 0)


async def test_the_cache_tells_its_figures(serve, cache):
    """GET /api/cache says how many entries and bytes each tier holds."""
    fill(cache)
    status, told = await ask("GET", await serve() + "/cache")
    assert status == 200
    assert told["tiers"][0] | {"bytes": 0} == {"tier": "memory", "entries": 3, "bytes": 0, "evictions": 0}
    assert told["tiers"][0]["bytes"] > 0


@pytest.mark.parametrize(
    ("query", "left"),
    [("url=http://a.example/", [1]), ("source=quotes", [0, 1]), ("all=true", []), ("url=http://c.example/", [0, 1, 2])],
)
async def test_a_purge_removes_what_it_names(serve, cache, query, left):
    """By URL (its source's answers too), by source, or all; and it says how many that were."""
    keys = fill(cache)
    status, told = await ask("DELETE", f"{await serve()}/cache?{query}", f"Bearer {TOKEN}")
    assert (status, told) == (200, {"removed": 3 - len(left)})
    assert [number for number, key in enumerate(keys) if cache.peek(key)] == left


@pytest.mark.parametrize("query", ["", "url=a&all=true", "all=false", "key=x", "url=a&url=b"])
async def test_an_unclear_purge_removes_nothing(serve, cache, query):
    """Not exactly one of the three is refused with 400."""
    fill(cache)
    status, _ = await ask("DELETE", f"{await serve()}/cache?{query}", f"Bearer {TOKEN}")
    assert (status, len(cache.memory)) == (400, 3)


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer nope", TOKEN, f"Basic {TOKEN}", "Bearer a-tokenx", "é"])
async def test_without_the_token_nothing_is_purged(serve, cache, given):
    """Missing or wrong, the answer is 401 and everything stays."""
    fill(cache)
    status, _ = await ask("DELETE", await serve() + "/cache?all=true", given)
    assert (status, len(cache.memory)) == (401, 3)


async def test_a_worker_without_a_token_cannot_be_changed(serve, cache):
    """Where MILLRACE_WEB_TOKEN is not set, no token is right, the empty one neither."""
    fill(cache)
    status, told = await ask("DELETE", await serve(None) + "/cache?all=true", "Bearer ")
    assert (status, len(cache.memory)) == (403, 3)
    assert "MILLRACE_WEB_TOKEN" in told["detail"]


async def test_a_tier_that_cannot_be_purged_is_said(serve, cache, monkeypatch):
    """502 with what was removed all the same."""

    async def fail(_):
        msg = "memcached a:11211 cannot be reached"
        raise PurgeError(msg, 2)

    monkeypatch.setattr(cache, "purge", fail)
    status, told = await ask("DELETE", await serve() + "/cache?all=true", f"Bearer {TOKEN}")
    assert (status, told["removed"], told["detail"]) == (502, 2, "memcached a:11211 cannot be reached")


async def test_a_worker_that_is_starting_says_so(serve):
    """Before the cache is open the answer is 503, not an empty one."""
    assert (await ask("GET", await serve(ready=False) + "/cache"))[0] == 503
