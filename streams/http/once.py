"""Connections to upstreams, so that what is sent leaves once and never on a connection that its upstream has closed.

aiohttp by itself sends an idempotent request a second time when a connection ends without an answer, which neither
limits nor attempts would know of; `send_once` ends that. And its pool knows of a connection what the event loop has
been told: after a loop that was busy, one whose end lies in the socket already would be used for a POST, which then may
not be sent again. `Pool` looks at the socket.
"""

from __future__ import annotations

import select
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp

from streams.http.connector import Connector

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MAX_FIELD = 32_768
"""Bytes of a status line, or of a name or value, in the head of an answer."""
MAX_FIELDS = 256
"""Fields of it: with as much in each as may be, it is no more than a body may have."""

_reused: ContextVar[bool] = ContextVar("reused")


class Unsent(aiohttp.ClientError):
    """There was no connection, so nothing of the request was sent. Its cause is aiohttp's."""


class Broken(aiohttp.ClientError):
    """The connection ended without an answer; the request may have been received. Its cause is aiohttp's.

    `reused`: it had answered before, so its upstream may have closed it for being idle (RFC 9112, section 9.3.1).
    """

    def __init__(self, *, reused: bool) -> None:
        super().__init__()
        self.reused = reused


class Pool(Connector):
    """Gives out no connection that was used before and has something to read: its end, or bytes that answer nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._met: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection for a request. Raises Unsent if there is none to be had."""
        while True:
            try:
                connection = await super().connect(req, traces, timeout)
            except (aiohttp.ClientError, OSError) as exc:  # TimeoutError is an OSError
                raise Unsent from exc
            reused = connection.protocol in self._met
            if not reused or not _readable(connection):
                break
            connection.close()
        assert connection.protocol is not None
        self._met.add(connection.protocol)
        _reused.set(reused)
        return connection


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request (a middleware of aiohttp's). Raises Broken for what aiohttp would answer by sending it again."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise Broken(reused=_reused.get(False)) from exc


def _readable(connection: Connection) -> bool:
    assert connection.transport is not None
    look = select.poll()
    look.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(look.poll(0))
