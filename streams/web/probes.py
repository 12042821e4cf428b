"""`/livez` (the event loop turns) and `/readyz` (assigned, recovered and publishing; `?verbose` says which of them
is not).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

Readiness = Callable[[], Mapping[str, str]]
"""Returns, for each thing that readiness needs, `ok` or what is wrong with it."""


class Probes:
    """What kubelets and load balancers ask."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        return [web.get("/livez", self._livez), web.get("/readyz", self._readyz)]

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        parts = self._readiness()
        ready = all(state == "ok" for state in parts.values())
        lines = [f"{name}: {state}" for name, state in parts.items()] if "verbose" in request.query else []
        text = "\n".join([*lines, "ready" if ready else "not ready", ""])
        return web.Response(text=text, status=200 if ready else 503)
