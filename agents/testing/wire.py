"""Connections that lead to the upstream of a test: aiohttp writes its request and reads an answer, byte for byte as
over a network, but nothing is resolved or dialled.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from agents.testing.upstream import Asked, Reply, Upstream, normal
from streams.http.once import Unsent

CHUNK = 65_536
"""Bytes that arrive at once."""


class Connector(aiohttp.BaseConnector):
    """What a session connects by. Each connection serves one request."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__(limit=0)
        self._upstream = upstream

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ARG002
        protocol = ResponseHandler(self._loop)
        protocol.connection_made(_Transport(protocol, req, self._upstream, self._loop))
        return protocol


class _Transport(asyncio.Transport):
    """Our end of a connection."""

    def __init__(
        self, protocol: ResponseHandler, request: Any, upstream: Upstream, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__()
        self._protocol, self._upstream, self._loop = protocol, upstream, loop
        self._origin, self._connection_key = request.url.origin(), request.connection_key
        self._written = bytearray()
        self._coming = b""
        self._answered = self._paused = self._closing = self._lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a part of the request; once it is whole, it is answered in the loop's next turn."""
        self._written += data
        asked = None if self._answered else _read(bytes(self._written), self._origin)
        if asked is not None:
            self._answered = True
            self._loop.call_soon(self._answer, asked)

    def _answer(self, asked: Asked) -> None:
        reply = self._upstream.reply(asked)
        if isinstance(reply, Reply):
            self._coming = reply.encode(asked.method)
            self._arrive()
        else:
            self._protocol.set_exception(_as_aiohttp(reply, self._connection_key))
            self._lose()

    def _arrive(self) -> None:
        """Hand over what is coming, as long as it is wanted; then the connection ends."""
        while self._coming and not (self._paused or self._lost):
            chunk, self._coming = self._coming[:CHUNK], self._coming[CHUNK:]
            self._protocol.data_received(chunk)
        if self._answered and not self._paused and not self._coming:
            self._lose()

    def _lose(self) -> None:
        self._closing = True
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(None)

    def pause_reading(self) -> None:
        """Hold what is coming."""
        self._paused = True

    def resume_reading(self) -> None:
        """Let it come again."""
        self._paused = False
        self._loop.call_soon(self._arrive)

    def is_closing(self) -> bool:
        """Whether nothing more can be asked."""
        return self._closing

    def close(self) -> None:
        """End the connection: nothing more comes."""
        if not self._closing:
            self._closing, self._coming = True, b""
            self._loop.call_soon(self._lose)

    abort = close

    def get_write_buffer_size(self) -> int:
        """Return 0: what is written is with the upstream at once."""
        return 0


def _read(written: bytes, origin: URL) -> Asked | None:
    """Return the request that has been written, None until it is whole."""
    head, end, body = written.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if len(body) < int(headers.get("content-length", 0)):
        return None
    method, target, _ = first.split(" ")
    url = URL(f"{origin}{target}" if target.startswith("/") else target, encoded=True)
    return Asked(method, normal(url), headers, body)


def _as_aiohttp(exc: Exception, key: Any) -> Exception:
    """Return what aiohttp raises where a network raises this."""
    if isinstance(exc, aiohttp.ClientError | TimeoutError):
        return exc
    if isinstance(exc, socket.gaierror):
        return _unsent(aiohttp.ClientConnectorDNSError(key, exc))
    if isinstance(exc, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return aiohttp.ClientOSError(*exc.args)
    if isinstance(exc, ConnectionRefusedError) and not exc.args:
        exc = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return _unsent(aiohttp.ClientConnectorError(key, exc)) if isinstance(exc, OSError) else exc


def _unsent(cause: Exception) -> Unsent:
    unsent = Unsent()
    unsent.__cause__ = cause
    return unsent
