"""The worker's HTTP server: `/livez` (the event loop turns), `/readyz` (assigned, recovered and publishing;
`?verbose` says which of them is not), and the routes it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from aiohttp import web

from models.errors import SettingsError
from streams.web.security import token_needed

logger = logging.getLogger(__name__)

Readiness = Callable[[], Mapping[str, str]]
"""Returns, for each thing that readiness needs, `ok` or what is wrong with it."""


class Server:
    """Opened with `async with`; `port` is the real one afterwards, also when 0 was asked for."""

    def __init__(
        self,
        host: str,
        port: int,
        readiness: Readiness,
        routes: Sequence[web.RouteDef] = (),
        token: str | None = None,
    ) -> None:
        self._host = host
        self.port = port
        self._readiness = readiness
        self._routes = routes
        self._token = token
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[token_needed(self._token)])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_routes(self._routes)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self.port)
        try:
            await site.start()
        except OSError as exc:
            await runner.cleanup()
            msg = f"MILLRACE_WEB_PORT: cannot listen on {self._host}:{self.port}: {exc.strerror or exc}"
            raise SettingsError(msg) from exc
        self._runner = runner
        self.port = runner.addresses[0][1]
        logger.info("web on http://%s:%d", self._host, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        parts = self._readiness()
        ready = all(state == "ok" for state in parts.values())
        lines = [f"{name}: {state}" for name, state in parts.items()] if "verbose" in request.query else []
        text = "\n".join([*lines, "ready" if ready else "not ready", ""])
        return web.Response(text=text, status=200 if ready else 503)
