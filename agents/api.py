"""What a worker tells of its cache, its upstreams and its checks over HTTP, and the purge of its cache."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from agents.known import matching
from models import strictjson
from models.errors import PurgeError
from streams.cache.front import Cache
from streams.http.client import Client
from streams.pool import CheckPool


class Api:
    """`GET /api/cache`, `DELETE /api/cache?url=…|source=…|all=true`, `GET /api/hosts`, `GET /api/pool`; 503 until
    `serve` was called.
    """

    def __init__(self) -> None:
        self._cache: Cache | None = None
        self._client: Client | None = None
        self._pool: CheckPool | None = None

    def serve(self, cache: Cache, client: Client, pool: CheckPool) -> None:
        """Have something to tell from now on."""
        self._cache, self._client, self._pool = cache, client, pool

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        return [
            web.get("/api/cache", self._figures),
            web.delete("/api/cache", self._purge),
            web.get("/api/hosts", self._hosts),
            web.get("/api/pool", self._checks),
        ]

    async def _figures(self, _: web.Request) -> web.Response:
        return _json(await _there(self._cache).figures())

    async def _hosts(self, _: web.Request) -> web.Response:
        return _json(_there(self._client).hosts.figures())

    async def _checks(self, _: web.Request) -> web.Response:
        return _json(_there(self._pool).figures())

    async def _purge(self, request: web.Request) -> web.Response:
        query = request.query
        if len(query) != 1 or not query.keys() <= {"url", "source", "all"} or query.get("all", "true") != "true":
            return _json({"error": "give one of url=…, source=… and all=true"}, 400)
        try:
            removed = await _there(self._cache).purge(matching(query.get("url"), query.get("source")))
        except PurgeError as exc:
            return _json({"error": str(exc), "removed": exc.removed}, 502)
        return _json({"removed": removed})


def _there(part: Any) -> Any:
    if part is None:
        raise web.HTTPServiceUnavailable(text="starting\n", headers={"Retry-After": "1"})
    return part


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=strictjson.dumps(value) + b"\n", status=status, content_type="application/json")
