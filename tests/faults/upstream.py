"""An upstream that also answers as none should."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web

from tests.integration.stage import Upstream

DRIP_EVERY = 0.5
"""Seconds between two bytes of an answer that drips."""
BOMB = gzip.compress(b" " * (64 << 20))
"""64 MiB of blanks."""


class BadUpstream(Upstream):
    """`/doc/<n>` as its parent's; `/hang`, `/drip`, `/bomb`, `/close` and `/busy` are what their names say."""

    def __init__(self) -> None:
        super().__init__()
        for answer in (self.hang, self.drip, self.bomb, self.close, self.busy):
            self.app.router.add_get(f"/{answer.__name__}", answer)

    async def hang(self, _: web.Request) -> web.Response:
        """Answer after a minute."""
        await asyncio.sleep(60)
        return web.Response()

    async def drip(self, request: web.Request) -> web.StreamResponse:
        """Send a byte at a time, too slowly to end in time."""
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(120):
            await response.write(b" ")
            await asyncio.sleep(DRIP_EVERY)
        return response

    async def bomb(self, _: web.Request) -> web.Response:
        """Send a little that is much more when it is decoded."""
        return web.Response(body=BOMB, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    async def close(self, request: web.Request) -> web.Response:
        """Hang up in place of an answer."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def busy(self, _: web.Request) -> web.Response:
        """Answer 429, and ask for a second of patience."""
        return web.Response(status=429, headers={"Retry-After": "1"})
