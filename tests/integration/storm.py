"""An upstream that misbehaves at random, and remembers what it did, so that every answer can be held against it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import time
from collections import defaultdict
from typing import Any, NamedTuple, Self

from aiohttp import web

HANG = 30.0
"""Seconds that it hangs: longer than any deadline of the test."""
BOMB = gzip.compress(b"[" + b"0," * 400_000 + b"0]")

CACHE_CONTROLS: dict[str | None, tuple[float, float, float | None] | None] = {
    # what it says, and the seconds for which that is fresh, served while revalidated, and served instead of a failure
    # (None: as long as its source allows)
    None: (2.0, 0.0, None),
    "max-age=1": (1.0, 0.0, None),
    "max-age=1, stale-while-revalidate=2": (1.0, 2.0, None),
    "max-age=1, stale-if-error=2": (1.0, 0.0, 2.0),
    "max-age=1, must-revalidate": (1.0, 0.0, 0.0),
    "no-cache": (0.0, 0.0, 0.0),
    "no-store": None,
}
FAILURES = {
    "503": "upstream_error",
    "429": "upstream_error",
    "404": "upstream_error",
    "garbage": "invalid_document",
    "bad gzip": "invalid_document",
    "bomb": "too_large",
    "broken off": "unreachable",
    "hang": "timeout",
    "drip": "timeout",
}
WEIGHTS = {"200": 60, "503": 8, "429": 1, "404": 4, "garbage": 4, "bad gzip": 1, "bomb": 1, "broken off": 5, "hang": 3,
           "drip": 2}  # fmt: skip


class Deed(NamedTuple):
    """What it did at one time: `what` is a kind of failure, `200` or `304`; `version` is the document's."""

    at: float
    what: str
    version: int
    cache_control: str | None


class Storm:
    """Opened with `async with`. `/<path>` gives a document that names its path, the account that asked, a version."""

    def __init__(self, seed: int, addresses: int, tokens: dict[str, str]) -> None:
        self.seed = seed
        self._accounts = {f"Bearer {token}": name for name, token in tokens.items()}
        self._draw = random.Random(seed)
        self._addresses = addresses
        self.deeds: defaultdict[tuple[str, str], list[Deed]] = defaultdict(list)
        self._current: dict[tuple[str, str], int] = {}
        self._versions = 0
        self.calm = False

    def origin(self, number: int) -> str:
        """Return the origin by which it is host `number`, from 0."""
        return f"http://127.0.0.{number % self._addresses + 1}:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        for number in range(1, self._addresses):
            await web.TCPSite(self._runner, f"127.0.0.{number + 1}", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        place = f"{request.host}{request.path}", self._accounts.get(request.headers.get("Authorization", ""), "nobody")
        what = "200" if self.calm else self._draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        await asyncio.sleep(self._draw.choice((0, 0, 0, 0.01, 0.05)))
        if what == "200":
            return self._document(request, place)
        self._note(place, what, 0, None)
        return await getattr(self, "_" + what.replace(" ", "_"), self._status)(request, what)

    def _note(self, place: tuple[str, str], what: str, version: int, cache_control: str | None) -> None:
        self.deeds[place].append(Deed(time.time(), what, version, cache_control))

    def _document(self, request: web.Request, place: tuple[str, str]) -> web.Response:
        cache_control = self._draw.choice(list(CACHE_CONTROLS))
        headers = {} if cache_control is None else {"Cache-Control": cache_control}
        asked = request.headers.get("If-None-Match")
        if asked is not None and asked == f'"{self._current.get(place)}"' and self._draw.random() < 0.7:
            self._note(place, "304", self._current[place], cache_control)
            return web.Response(status=304, headers={"ETag": asked, **headers})
        self._versions += 1
        self._current[place] = self._versions
        if self._draw.random() < 0.7:
            headers["ETag"] = f'"{self._versions}"'
        self._note(place, "200", self._versions, cache_control)
        document: dict[str, Any] = {"place": place[0], "account": place[1], "version": self._versions}
        return web.json_response(document, headers=headers)

    async def _status(self, _: web.Request, what: str) -> web.Response:
        return web.Response(status=int(what), headers={"Retry-After": "1"} if what == "429" else {})

    async def _garbage(self, _: web.Request, __: str) -> web.Response:
        return web.Response(text='{"place": "no', content_type="application/json")

    async def _bad_gzip(self, _: web.Request, __: str) -> web.Response:
        return web.Response(body=b"\x1f\x8b no gzip", headers={"Content-Encoding": "gzip"})

    async def _bomb(self, _: web.Request, __: str) -> web.Response:
        return web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})

    async def _hang(self, request: web.Request, _: str) -> web.Response:
        await asyncio.sleep(HANG)
        return web.Response(text=request.path)

    async def _broken_off(self, request: web.Request, _: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"place":')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _drip(self, request: web.Request, _: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            for _second in range(int(HANG)):
                await response.write(b" ")
                await asyncio.sleep(1)
        return response
