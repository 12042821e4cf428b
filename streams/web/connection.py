"""One client's connection: how many there may be, how long each may keep us waiting, and what it is told when it
does not speak HTTP. aiohttp bounds the wait for a request's head (`keepalive_timeout`); the rest is here.
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
"""Connections kept at once, and no more than the web server's share of files."""
IDLE_LIMIT = 30.0
"""Seconds from a connection's beginning, or its last answer, to the end of the next request's head."""
TAKING_LIMIT = 30.0
"""Seconds that a client may take to take an answer."""


class Connection(RequestHandler):
    """aiohttp's, with limits. Its overridden parts are public names of a class that aiohttp calls internal."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room first: the longest idle connection gives way, else the new one does."""
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
        """Send what is left of an answer, for so long."""
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
        """Tell who does not speak HTTP so, in the form of every other error, and without an entry in the log."""
        if request.writer.output_size > 0:
            fault = "the answer is half sent"
            raise ConnectionError(fault) from exc
        detail = "this is no HTTP request that is read here" if status == HTTPStatus.BAD_REQUEST else "a fault"
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
