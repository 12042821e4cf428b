"""`/events`: one stream of server-sent events a page. `overview` comes once a second, `results` with `?tail=1`.

An event is encoded once and handed to all clients. A client that does not keep up loses the oldest events that wait for
it, and gets their number (`dropped`); one that takes nothing for long is disconnected. Events have no ids: a client
that comes back with a Last-Event-ID gets the present state, not what it missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from aiohttp import web

from agents.web.sample import LiveFilter, Sampler, encode
from streams.tasks import start
from streams.web.problems import Problem, not_ready
from streams.web.security import no_time_limit

logger = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two events `overview`; `alive`, with the reason, comes in its place when there is none."""
TAKING = 20.0
"""Seconds without reading after which a client is disconnected."""
MAX_CLIENTS = 400
MAX_WAITING = 16
"""Events that wait for one client."""
RECENT = 2
"""Minutes in each `overview`; a client's first one has all of them."""
RETRY = b"retry: 2000\n\n"
"""Milliseconds after which a browser that lost the stream connects again."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""A proxy must pass each event on at once."""

Overview = Callable[[], Awaitable[Mapping[str, Any]]]


class _Client:
    """One open stream, with the events that wait to be written to it."""

    def __init__(self, chosen: LiveFilter | None) -> None:
        self.chosen = chosen
        self.since: float | None = None
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._woken = asyncio.Event()

    def put(self, event: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(event)
        self._woken.set()

    async def take(self) -> bytes:
        """Wait for an event, and return all that wait."""
        await self._woken.wait()
        self._woken.clear()
        if self._dropped:
            self._waiting.append(encode("dropped", {"events": self._dropped}))
            self._dropped = 0
        taken = b"".join(self._waiting)
        self._waiting.clear()
        return taken


class Events:
    """Opened with `async with`, after the server that has its route, so that it and its streams close first."""

    def __init__(self, overview: Overview, sampler: Sampler) -> None:
        self._overview = overview
        self._sampler = sampler
        self._clients: dict[_Client, asyncio.Task[Any] | None] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._whole = b""
        self._open = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        return [web.get("/events", no_time_limit(self.events), allow_head=False)]

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False
        tasks = [task for task in (self._ticking, *self._clients.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Write events until the client goes."""
        if not self._open or len(self._clients) >= MAX_CLIENTS:
            raise not_ready("not started yet, or too many streams are open", 5)
        client = _Client(LiveFilter.of(request.query) if request.query.get("tail") == "1" else None)
        response = web.StreamResponse(headers=_HEADERS)
        response.content_type = "text/event-stream"
        self._clients[client] = asyncio.current_task()
        client.put(RETRY + self._whole)
        try:
            if client.chosen is not None:
                self._sampler.join(client.chosen, client.put)
            await response.prepare(request)
            self._tick_on()
            await self._write(client, response)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            del self._clients[client]
            if client.chosen is not None:
                self._sampler.leave(client.chosen, client.put)
        return response

    async def _write(self, client: _Client, response: web.StreamResponse) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken = await client.take()
            client.since = loop.time()
            await response.write(taken)
            client.since = None

    def _tick_on(self) -> None:
        if self._ticking is None or self._ticking.done():
            self._ticking = start(self._tick(), "sending live events", means="pages do not update")

    async def _tick(self) -> None:
        """Send an event to all clients once a second, as long as there are any."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._clients:
            event = await self._changed()
            for client, task in tuple(self._clients.items()):
                if client.since is not None and loop.time() - client.since > TAKING and task is not None:
                    task.cancel()
                else:
                    client.put(event)
            due = max(due + TICK, loop.time())
            await asyncio.sleep(due - loop.time())
        self._whole = b""

    async def _changed(self) -> bytes:
        first = not self._whole
        try:
            overview = dict(await self._overview())
        except Problem as problem:
            return encode("alive", {"problem": problem.detail})
        except Exception:
            logger.exception("cannot make the overview: live pages do not update; report this fault")
            return encode("alive", {"problem": "an internal error: the worker's log has the traceback"})
        self._whole = encode("overview", overview)
        if first:
            return self._whole
        return encode("overview", overview | {"minutes": list(overview.get("minutes", ()))[-RECENT:]})
