"""aiohttp's pool of connections, with a bound on idle ones and on open files.

Its own limits count busy connections only: there would be an idle one, for 30 s, for each host.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from streams.http.protocol import AnswerProtocol

MAX_IDLE = 1_000
"""Idle connections of all hosts; the longest idle one is closed first."""
IDLE_SHARE = 4
"""Idle connections may have one in so many of our files."""


def plain_socket(info: Any) -> socket.socket:
    """Make the socket for an address about to be dialled."""
    family, kind, protocol, *_ = info
    return socket.socket(family, kind, protocol)


class Connector(aiohttp.TCPConnector):
    """`files`: the file number from which on dialling raises OSError (EMFILE). A new file has the lowest free number,
    so the number shows how many are open in the process. `make` makes the socket for an address.
    """

    def __init__(self, files: int, make: Callable[[Any], socket.socket] = plain_socket, **options: Any) -> None:
        super().__init__(limit=0, socket_factory=self._socket, **options)
        protocol: type[ResponseHandler] = AnswerProtocol
        self._factory = partial(protocol, loop=self._loop)
        self._files = files
        self._make = make
        self._max_idle = min(MAX_IDLE, files // IDLE_SHARE)
        self._idle: OrderedDict[ResponseHandler, None] = OrderedDict()

    async def _get(self, *arguments: Any) -> Connection | None:
        connection = await super()._get(*arguments)
        if connection is not None and connection.protocol is not None:
            self._idle.pop(connection.protocol, None)
        return connection

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if protocol.is_connected():
            self._idle[protocol] = None
            while len(self._idle) > self._max_idle:
                self._close_oldest()

    def _close_oldest(self) -> bool:
        """Close the longest idle connection; False if it was closed already."""
        protocol, _ = self._idle.popitem(last=False)
        was_open = protocol.is_connected()
        protocol.abort()  # not `close`: the end of TLS would be waited for, and nothing is under way
        return was_open

    def _socket(self, info: Any) -> socket.socket:
        made = self._make(info)
        if made.fileno() < self._files:
            return made
        while self._idle:
            if self._close_oldest():
                return made
        made.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
