"""Who may do what over HTTP: everybody may look, only who has the token may change something."""

from __future__ import annotations

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_LOOKING = frozenset({"GET", "HEAD"})


def token_needed(token: str | None) -> Middleware:
    """Return a middleware that refuses what is not GET or HEAD without `Authorization: Bearer <token>`."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in _LOOKING:
            if not token:
                return web.Response(status=403, text="MILLRACE_WEB_TOKEN is not set: nothing can be changed here\n")
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {token}".encode()):
                challenge = {"WWW-Authenticate": "Bearer"}
                return web.Response(status=401, headers=challenge, text="the token is missing or wrong\n")
        return await handler(request)

    return check
