"""A connection to one broker: what the kernel is told of it, and what it raises once it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import aiokafka.client
import pytest
import uvloop
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from streams.kafka.connection import SILENCE, Connection, probe

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
VERSIONS = struct.pack(">hihhhhhh", 0, 2, 3, 0, 5, 18, 0, 0)
"""The answer to ApiVersions: no error, and two kinds of request, Metadata 0 to 5 and ApiVersions 0."""


@contextlib.asynccontextmanager
async def broker():
    """A broker that says which requests it takes, and nothing else; its host and port."""
    handlers = []

    async def answer(reader, writer):
        handlers.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
                frame = request[4:8] + VERSIONS
                writer.write(len(frame).to_bytes(4) + frame)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()
        await asyncio.gather(*handlers)
        await asyncio.sleep(0)  # the transport's own turn to close


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has the option")
def test_the_kernel_closes_a_connection_that_nobody_answers_on():
    """A broker whose machine is gone is noticed after 20 s, idle or not, not after aiokafka's 40 s."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as opened:
        probe(opened)
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENCE * 1000
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < SILENCE


async def test_a_broker_that_does_not_answer_is_given_up_in_time(monkeypatch):
    """Aiokafka's clients connect through ours, and one that accepts and says nothing ends that."""
    monkeypatch.setattr("streams.kafka.connection.SILENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        with pytest.raises(TimeoutError):
            await aiokafka.client.create_conn(host, port, client_id="test", request_timeout_ms=10_000)


@LOOPS
def test_a_connection_that_is_closed_at_once_ends_no_task_of_aiokafka(monkeypatch, run):
    """Options that cannot be set any more raise nothing, on either loop: aiokafka knows what to do with few errors."""

    async def connect(self):
        _, self._writer = await asyncio.open_connection(self.host, self.port)
        self._writer.transport.abort()
        while self._writer.get_extra_info("socket").fileno() >= 0:
            await asyncio.sleep(0)

    async def opened():
        async with broker() as place:
            return await aiokafka.client.create_conn(*place)

    monkeypatch.setattr(Connection.__base__, "connect", connect)
    assert run(opened())._writer.transport.is_closing()


async def test_whatever_fails_while_connecting_is_an_error_that_aiokafka_understands(monkeypatch):
    """As a login that gets no thread any more: aiokafka logs it, and goes on looking up brokers."""

    async def connect(_):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(Connection.__base__, "connect", connect)
    with pytest.raises(KafkaError, match=r"127\.0\.0\.1:9 failed: RuntimeError.*new thread"):
        await aiokafka.client.create_conn("127.0.0.1", 9)


@LOOPS
def test_what_is_sent_over_a_lost_connection_raises_what_aiokafka_understands(run):
    """Between the loss and the moment at which aiokafka hears of it, a request fails as one to a broker that is away,
    on either loop; whoever looks after the connections hears that this one is broken.
    """
    heard = []

    async def send():
        async with broker() as place:
            opened = await aiokafka.client.create_conn(*place, on_close=lambda _, reason: heard.append(reason.name))
            assert isinstance(opened, Connection)
            opened._writer.transport.abort()
            await asyncio.sleep(0)
            assert opened._writer is not None
            with pytest.raises(KafkaConnectionError, match="closed"):
                await opened.send(MetadataRequest([]))

    run(send())
    assert heard == ["CONNECTION_BROKEN"]
