"""How requests to the worker's server are counted, on a real one."""

from __future__ import annotations

from collections import Counter

import aiohttp
from aiohttp import web

from streams.web.probes import counted


async def served(requests, middlewares=()):
    """Start a server with handlers that answer, refuse and fail."""

    async def answer(_):
        return web.Response(status=204)

    async def refuse(_):
        raise web.HTTPForbidden

    async def fail(_):
        raise KeyError

    app = web.Application(middlewares=[counted(requests), *middlewares])
    app.router.add_route("*", "/things/{name}", answer)
    app.router.add_get("/refused", refuse)
    app.router.add_get("/failing", fail)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


async def test_requests_are_counted_by_route_method_and_class_of_status(caplog):
    """A route counts under its pattern, whatever stands in its places; what has none is unknown, a method that is not
    usual is other, and a handler that fails is a 5xx.
    """
    requests = Counter()
    runner = await served(requests)
    url = "http://127.0.0.1:%d" % runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        for asked in ("GET /things/a", "GET /things/b?x=1", "POST /things/a", "PROPFIND /things/a", "GET /refused",
                      "GET /failing", "GET /no/such", "GET /none/either"):  # fmt: skip
            method, _, path = asked.partition(" ")
            async with session.request(method, url + path):
                pass
    await runner.cleanup()
    assert requests == {
        ("/things/{name}", "GET", "2xx"): 2, ("/things/{name}", "POST", "2xx"): 1,
        ("/things/{name}", "other", "2xx"): 1, ("/refused", "GET", "4xx"): 1, ("/failing", "GET", "5xx"): 1,
        ("unknown", "GET", "4xx"): 2,
    }  # fmt: skip
