"""One client's connection: how many there may be, how long each may keep us waiting, and the response to what is not
HTTP. aiohttp bounds the wait for a request's head (`keepalive_timeout`); the rest is here.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from streams.files import MAX_WEB, share
from streams.web.problems import Problem
from streams.web.security import HEADERS

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = MAX_WEB
"""Connections at once, but no more than the web server's share of files."""
IDLE_LIMIT = 30.0
"""Seconds from a connection's beginning, or its last answer, to the end of the next request's head."""
TAKING_LIMIT = 30.0
"""Seconds that a client may take to read a response."""


class Connection(RequestHandler):
    """aiohttp's, with limits. The overridden methods are public names of a class that aiohttp calls internal."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room first: close the connection idle the longest, or else refuse the new one."""
        most = min(MAX_CONNECTIONS, share().web)
        if self._manager is not None and len(self._manager.connections) >= most:
            idle = next((each for each in self._manager.connections if each._waiter is not None), None)
            if idle is None:
                self._force_close = True
                cast("asyncio.Transport", transport).abort()
                return
            idle.force_close()
        super().connection_made(transport)

    async def finish_response(self, request: Any, resp: Any, start_time: Any) -> tuple[web.StreamResponse, bool]:
        """Send the rest of a response, within TAKING_LIMIT."""
        try:
            async with asyncio.timeout(TAKING_LIMIT):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            return resp, True

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is not HTTP with problem details like any other error, without a log entry."""
        if request.writer.output_size > 0:
            fault = "the response is half sent"
            raise ConnectionError(fault) from exc
        detail = "invalid HTTP request" if status == HTTPStatus.BAD_REQUEST else "internal error"
        response = Problem(status, detail, headers=HEADERS).response()
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """Makes connections of our kind."""

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """aiohttp's, over connections of our kind."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return ConnectionServer(made.request_handler, request_factory=made.request_factory,
                                handler_cancellation=made.handler_cancellation, **made._kwargs)  # fmt: skip
