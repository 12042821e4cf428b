"""The worker's HTTP server: the middleware before every handler, and the routes that it is given."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from aiohttp import web

from models.errors import SettingsError
from streams.config.settings import EVERYWHERE
from streams.web.connection import IDLE_LIMIT, Runner
from streams.web.probes import Probes, Readiness, Requests, counted
from streams.web.problems import ERROR_PAGE, Problem, problems
from streams.web.security import check_binding, harden, named, timely, token_needed

logger = logging.getLogger(__name__)

MAX_BODY = 1 << 20
"""Bytes of a body: those of the largest request."""
MAX_TARGET = 64 << 10
"""Bytes of a request's first line: the cursor of a long key is long."""
LINGER = 2.0
"""Seconds for which the rest of a refused body is read, so that the client sees the response."""
STOP_LIMIT = 1.0
"""Seconds that responses in progress may take once the worker stops."""


def place(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server:
    """Opened with `async with`; afterwards `port` is the real one, also for 0.

    `names` are the allowed host names beside loopback ones. `error_page` makes the page of a problem for browsers.
    Raises SettingsError for an address that is not allowed, or that it cannot listen on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        readiness: Readiness,
        routes: Sequence[web.AbstractRouteDef] = (),
        *,
        token: str | None = None,
        names: Iterable[str] = (),
        error_page: Callable[[Problem], web.Response] | None = None,
    ) -> None:
        check_binding(host, token)
        self._host = host
        self.port = port
        self._routes = [*Probes(readiness).routes(), *routes]
        self._token = token
        self._names = names
        self._error_page = error_page
        self.requests: Requests = Counter()
        self._runner: Runner | None = None

    async def __aenter__(self) -> Self:
        before = [counted(self.requests), problems, named(self._host, self._names), token_needed(self._token), timely]
        app = web.Application(middlewares=before, client_max_size=MAX_BODY)
        if self._error_page is not None:
            app[ERROR_PAGE] = self._error_page
        app.on_response_prepare.append(harden)
        app.router.add_routes(self._routes)
        runner = Runner(app, access_log=None, handle_signals=False, keepalive_timeout=IDLE_LIMIT,
                        max_line_size=MAX_TARGET, lingering_time=LINGER, shutdown_timeout=STOP_LIMIT)  # fmt: skip
        await runner.setup()
        try:
            await self._site(runner).start()
        except OSError as exc:
            await runner.cleanup()
            msg = f"MILLRACE_WEB_PORT: cannot listen on {place(self._host, self.port)}: {exc.strerror or exc}"
            raise SettingsError(msg) from exc
        self._runner = runner
        self.port = runner.addresses[0][1]
        logger.info("web on http://%s", place(self._host, self.port))
        return self

    def _site(self, runner: Runner) -> web.BaseSite:
        """Return where to listen. Raises OSError."""
        if self._host != EVERYWHERE:
            return web.TCPSite(runner, self._host, self.port)
        # One socket for both families, so that both have the same port, also for port 0.
        if socket.has_dualstack_ipv6():
            listening = socket.create_server(("::", self.port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            listening = socket.create_server(("0.0.0.0", self.port))  # noqa: S104  what `*` asks for
        return web.SockSite(runner, listening)

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
