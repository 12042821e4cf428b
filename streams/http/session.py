"""aiohttp's session with its automatic behaviour off and with bounds on responses."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp

from streams.http.auth import Signed
from streams.http.content import ACCEPT_ENCODING
from streams.http.once import send_once
from streams.http.policy import CONNECT_TIMEOUT, UpstreamPolicy
from streams.http.protocol import MAX_FIELD, MAX_FIELDS
from streams.http.request import OutgoingRequest
from streams.http.response import IncomingResponse

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept for the next request."""
DNS_TTL = 30
"""Seconds that a resolved name is kept."""
DNS_NAMES = 1_000
"""Resolved names kept, the least recently used out first."""
CONNECTING: dict[str, Any] = {
    "ttl_dns_cache": DNS_TTL,
    "dns_cache_max_size": DNS_NAMES,
    "keepalive_timeout": KEEPALIVE,
}
"""Options of every pool of connections."""


def session_of(connector: aiohttp.BaseConnector, connect: float | None = None) -> aiohttp.ClientSession:
    """Return a session on a pool; `connect` is in seconds for a connection, a tunnel included."""
    return aiohttp.ClientSession(
        connector=connector,
        headers={"Accept-Encoding": ACCEPT_ENCODING},  # aiohttp would list the codings that happen to be installed
        skip_auto_headers=("Content-Type",),  # aiohttp sends one without a body
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),  # the default jar would share one request's cookies with another
        timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=CONNECT_TIMEOUT),
        trust_env=False,
        middlewares=(send_once,),
        max_line_size=MAX_FIELD,
        max_field_size=MAX_FIELD,
        max_headers=MAX_FIELDS,
    )


class Session:
    """Sends requests by aiohttp's session, which goes through proxies, and depends on no private part of aiohttp."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.pool = session.connector

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(self, hop: OutgoingRequest, signed: Signed, policy: UpstreamPolicy) -> IncomingResponse:
        """Send a request once and return its response as soon as the head is there.

        Raises Unsent without a connection, Broken if it ended without a response, and other errors of aiohttp's.
        """
        options = options_of(hop, policy)
        return await self._session.request(
            hop.method, signed.url, headers=signed.headers, data=hop.data, allow_redirects=False, **options
        )


def options_of(hop: OutgoingRequest, policy: UpstreamPolicy) -> dict[str, Any]:
    """Return a request's options beyond the session's: usually none."""
    if policy.timeout is None and policy.tls is None and policy.proxy is None:
        return {}
    options = {"timeout": policy.timeout, "ssl": policy.tls if hop.own else None, "proxy": policy.proxy}
    return {name: value for name, value in options.items() if value is not None}
