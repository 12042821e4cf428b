"""Connections to upstreams: each request is sent once, and never on a connection that the upstream has closed.

By itself, aiohttp sends an idempotent request again when a connection ends without a response, which neither limits
nor attempts would count; `send_once` prevents that. And its pool learns of the end of a connection only from the event
loop: after a busy loop, a POST may go out on a closed connection, and may not be sent again. `Pool` polls the socket.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from streams.http.connector import Connector

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from streams.http.protocol import AnswerProtocol

_reused: ContextVar[bool] = ContextVar("reused")


class Unsent(aiohttp.ClientError):
    """There was no connection, so nothing of the request was sent. The cause is aiohttp's error."""


class Broken(aiohttp.ClientError):
    """The connection ended without a response; the request may have been received. The cause is aiohttp's error.

    `reused`: it was used before, so the upstream may have closed it for being idle (RFC 9112, section 9.3.1).
    """

    def __init__(self, *, reused: bool) -> None:
        super().__init__()
        self.reused = reused


class Pool(Connector):
    """Discards used connections with something to read: their end, or bytes that belong to no response."""

    async def connect(self, req: Any, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        """Return a connection for a request of aiohttp's session. Raises Unsent if there is none."""
        connection = await self.connection(req, traces, timeout)
        _reused.set(cast("AnswerProtocol", connection.protocol).used)
        return connection

    async def connection(self, req: Any, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        """Return a connection for a request. Raises Unsent if there is none."""
        while True:
            try:
                connection = await self._get(req.connection_key, traces) or await super().connect(req, traces, timeout)
            except (aiohttp.ClientError, OSError) as exc:  # TimeoutError is an OSError
                raise Unsent from exc
            protocol = cast("AnswerProtocol", connection.protocol)
            if not protocol.used or not protocol.has_input():
                return connection
            connection.close()


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request (a middleware of aiohttp's). Raises Broken for errors after which aiohttp would send it again."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise Broken(reused=_reused.get(False)) from exc
