"""What kubelets, load balancers and Prometheus ask: `/livez` (the event loop turns), `/readyz` (assigned, recovered and
publishing; `?verbose` says which of them is not), and `/metrics`. Counts this server's requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streams.telemetry.metrics import Exporter

Readiness = Callable[[], Mapping[str, str]]
"""Returns, for each thing that readiness needs, `ok` or what is wrong with it."""
Requests = Counter[tuple[str, str, str]]
"""Requests by route, method and class of status."""

UNKNOWN = "unknown"
"""The route of a request that matches none."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class Probes:
    """`/livez` and `/readyz`."""

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


def metrics_route(exporter: Exporter) -> web.RouteDef:
    """Return the route of `/metrics`."""

    async def expose(request: web.Request) -> web.Response:
        body, content_type = exporter.expose(request.headers.get("Accept"))
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    return web.get("/metrics", expose)


def counted(requests: Requests) -> Middleware:
    """Return a middleware that counts requests. It comes first, so that it also counts what the others refuse."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = UNKNOWN if resource is None else resource.canonical
        method = request.method if request.method in _METHODS else "other"
        status = "5xx"  # any other exception is a fault
        try:
            response = await handler(request)
            status = f"{response.status // 100}xx"
        except web.HTTPException as exc:
            status = f"{exc.status // 100}xx"
            raise
        finally:
            requests[route, method, status] += 1
        return response

    return count
