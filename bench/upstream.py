"""The upstream: answers `/doc/<n>` with a small document after a while, on several loopback addresses."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

HOSTS = 8
"""Loopback addresses to serve: clients see as many hosts."""


async def main(port: int, delay: float) -> None:
    async def document(request: web.Request) -> web.Response:
        await asyncio.sleep(delay)
        number = int(request.match_info["n"])
        return web.json_response({"n": number, "name": f"document {number}", "tags": ["a", "b"], "price": number / 7})

    app = web.Application()
    app.router.add_get(r"/doc/{n:\d+}", document)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for number in range(1, HOSTS + 1):
        await web.TCPSite(runner, f"127.0.0.{number}", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
