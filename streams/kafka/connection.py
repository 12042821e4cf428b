"""A connection of aiokafka to one broker, that every client of this process opens in place of aiokafka's own.

The kernel notices when a broker's machine is gone, or a firewall has forgotten the connection: aiokafka would after
40 s, and then wait for the next broker; it may not be told to wait less, since an answer takes long over a slow
network. And sending over a connection that was reset a moment ago raises what aiokafka expects, on uvloop as on
asyncio's loop.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import aiokafka.conn
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.api import Request

SILENCE = 20.0
"""Seconds that a broker's machine may be silent: that connecting to it may take, that bytes may stay unacknowledged,
and probes of an idle connection unanswered."""
PROBE_AFTER, PROBE_EVERY = 10, 5
"""Seconds of idleness before a connection's first probe, and between two."""


class Connection(AIOKafkaConnection):
    """Raises OSError, TimeoutError among them, or KafkaError, and nothing else: another error would end the task in
    which aiokafka looks up brokers, and its client would wait for a coordinator for ever.
    """

    async def connect(self) -> Any:
        """Connect within SILENCE, and have the kernel probe the connection."""
        try:
            async with asyncio.timeout(SILENCE):
                opened = await super().connect()
        except (OSError, KafkaError):
            raise
        except Exception as exc:
            msg = f"Connection at {self.host}:{self.port} failed: {exc!r}"
            raise KafkaError(msg) from exc
        # The broker may have closed it meanwhile; aiokafka sees that when it sends something.
        if self._writer is not None and (connected := self._writer.get_extra_info("socket")) is not None:
            with suppress(OSError, ValueError):  # uvloop raises ValueError for a closed one
                probe(connected)
        return opened

    def send(self, request: Request[Any], expect_response: bool = True) -> Any:  # noqa: FBT001, FBT002  aiokafka's
        """Send a request; raises KafkaConnectionError at once if the connection is lost.

        aiokafka hears of a reset two turns of the loop later. Until then asyncio's transport takes what is written, and
        uvloop's raises RuntimeError.
        """
        if self._writer is not None and self._writer.is_closing():
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            msg = f"Connection at {self.host}:{self.port} closed"
            raise KafkaConnectionError(msg)
        return super().send(request, expect_response)


def probe(connected: Any) -> None:
    """Set the options of a TCP socket that close it after SILENCE, as far as the system has them: Linux has all."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", PROBE_AFTER), ("TCP_KEEPINTVL", PROBE_EVERY),
                        ("TCP_USER_TIMEOUT", int(SILENCE * 1000))):  # fmt: skip
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


aiokafka.conn.AIOKafkaConnection = Connection
