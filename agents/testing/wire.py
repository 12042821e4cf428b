"""Connections to the upstream of a test: aiohttp writes its request and reads a response, byte for byte as over a
network, but nothing is resolved or dialled. And an event loop without sockets, even the pair by which others wake up
themselves: tests often forbid all of them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from agents.testing.upstream import Reply, Upstream, UpstreamRequest, normal
from streams.http.once import Unsent

CHUNK = 65_536
"""Bytes that arrive at once."""


class Connector(aiohttp.BaseConnector):
    """The connector of a session. Each connection serves one request."""

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
        """Take a part of the request; once it is complete, it is answered in the loop's next turn."""
        self._written += data
        request = None if self._answered else _read(bytes(self._written), self._origin)
        if request is not None:
            self._answered = True
            self._loop.call_soon(self._answer, request)

    def _answer(self, request: UpstreamRequest) -> None:
        reply = self._upstream.reply(request)
        if isinstance(reply, Reply):
            self._coming = reply.encode(request.method)
            self._arrive()
        else:
            self._protocol.set_exception(_as_aiohttp(reply, self._connection_key))
            self._lose()

    def _arrive(self) -> None:
        """Deliver the response, unless reading is paused; then close the connection."""
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
        """Hold back the rest of the response."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver the rest of the response."""
        self._paused = False
        self._loop.call_soon(self._arrive)

    def is_closing(self) -> bool:
        """Whether the connection is closing."""
        return self._closing

    def close(self) -> None:
        """Close the connection: nothing more is delivered."""
        if not self._closing:
            self._closing, self._coming = True, b""
            self._loop.call_soon(self._lose)

    abort = close

    def get_write_buffer_size(self) -> int:
        """Return 0: the upstream has everything at once."""
        return 0


def _read(written: bytes, origin: URL) -> UpstreamRequest | None:
    """Return the request that has been written, None until it is complete."""
    head, end, body = written.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if len(body) < int(headers.get("content-length", 0)):
        return None
    method, target, _ = first.split(" ")
    url = URL(f"{origin}{target}" if target.startswith("/") else target, encoded=True)
    return UpstreamRequest(method, normal(url), CIMultiDictProxy(CIMultiDict(headers)), body)


def _as_aiohttp(exc: Exception, key: Any) -> Exception:
    """Return the error that aiohttp would raise for a network error."""
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


class _Selector(selectors.BaseSelector):
    """Waits for threads and timers only."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until something wakes the loop, or for `timeout` seconds."""
        if timeout is None or timeout > 0:
            self.woken.wait(timeout)
        self.woken.clear()
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> NoReturn:  # noqa: ARG002
        """Raise RuntimeError: a connection would bypass the upstream."""
        msg = "a worker under test opens no connections: the test's upstream answers its requests"
        raise RuntimeError(msg)

    def unregister(self, fileobj: Any) -> NoReturn:
        """Raise KeyError: nothing was registered."""
        raise KeyError(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return nothing: nothing was registered."""
        return {}


class Loop(asyncio.SelectorEventLoop):
    """An event loop without sockets."""

    def __init__(self) -> None:
        self._idle = _Selector()
        super().__init__(self._idle)

    def _make_self_pipe(self) -> None:
        """Create none: threads wake the selector."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        self._idle.woken.set()
