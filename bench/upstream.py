"""The upstream: answers `/doc/<n>` with a small document after a while, and counts its calls at `/calls`."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def main(port: int, delay: float) -> None:
    calls = 0

    async def document(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        await asyncio.sleep(delay)
        number = int(request.match_info["n"])
        return web.json_response({"n": number, "name": f"document {number}", "tags": ["a", "b"], "price": number / 7})

    async def count(_: web.Request) -> web.Response:
        return web.json_response(calls)

    app = web.Application()
    app.router.add_get(r"/doc/{n:\d+}", document)
    app.router.add_get("/calls", count)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
