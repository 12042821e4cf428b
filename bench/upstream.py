"""The upstream, on several loopback addresses: answers `/doc/<n>` with a small document after a while, or one of
`?size=` bytes more, and `/doc/many?n=1,2` with several of them; `/doc/calls` with how many of the latter there were.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from aiohttp import web

from agents.entry import EntryPoint

HOSTS = 8
"""Loopback addresses to serve: clients see as many hosts."""


def made(number: int) -> dict[str, Any]:
    """Return a document."""
    return {"n": number, "name": f"document {number}", "tags": ["a", "b"], "price": number / 7}


async def main(port: int, delay: float) -> None:
    counted = 0

    async def document(request: web.Request) -> web.Response:
        await asyncio.sleep(delay)
        more = {"text": "x" * int(size)} if (size := request.query.get("size")) else {}
        return web.json_response(made(int(request.match_info["n"])) | more)

    async def documents(request: web.Request) -> web.Response:
        nonlocal counted
        counted += 1
        await asyncio.sleep(delay)
        return web.json_response({"docs": [made(int(number)) for number in request.query["n"].split(",")]})

    async def calls(_: web.Request) -> web.Response:
        return web.json_response(counted)

    app = web.Application()
    app.router.add_get(r"/doc/{n:\d+}", document)
    app.router.add_get("/doc/many", documents)
    app.router.add_get("/doc/calls", calls)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for number in range(1, HOSTS + 1):
        await web.TCPSite(runner, f"127.0.0.{number}", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = EntryPoint("bench.upstream", __doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("delay", type=float, help="seconds before each answer")
    options = parser.begin()
    uvloop.run(main(options.port, options.delay))
