"""`GET /metrics`, and how many requests of what kind this server has answered."""

from __future__ import annotations

from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streams.telemetry.metrics import Exporter

UNKNOWN = "unknown"
"""Stands for the route of what has none."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})

Requests = Counter[tuple[str, str, str]]
"""Requests by route, method and class of status."""


def counted(requests: Requests) -> Middleware:
    """Return a middleware that counts; the first one, so that it sees what the others refuse."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = UNKNOWN if resource is None else resource.canonical
        method = request.method if request.method in _METHODS else "other"
        status = "5xx"  # whatever is raised here is no answer of ours
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


def routes(exporter: Exporter) -> list[web.RouteDef]:
    """Return the route for the server."""

    async def tell(request: web.Request) -> web.Response:
        body, content_type = exporter.expose(request.headers.get("Accept"))
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    return [web.get("/metrics", tell)]
