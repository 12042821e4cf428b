"""One memcached server: complete replies to the cache's own commands, within a time, or none; and a pause after each
failure.

The protocol is aiomcache's. This module corrects what aiomcache 0.8.2 gets wrong: it reuses a connection whose caller
was cancelled in mid-reply, reads for ever from a connection that ended in mid-line (without a yield, so that no timeout
fires), and treats a reply for another key as a miss.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, ParamSpec, TypeVar

import aiomcache
from aiomcache.exceptions import ClientException
from aiomcache.pool import Connection, MemcachePool

from streams.config.cache_url import MIB

CONNECTIONS = 8
"""Most connections to a server; idle ones stay open."""
FIRST_REST = 1.0
"""Seconds that a server pauses after a failure; each failed attempt doubles them, a success resets them."""
LONGEST_REST = 30.0
"""Longest pause in seconds."""
LINE_END = b"\r\n"
LARGEST_BLOCK = MIB + len(LINE_END)
"""Largest value in bytes with its line end: memcached's own limit of an item."""
REASON_LIMIT = 200
"""Characters of a failure that are logged: garbage may be long."""
REFUSALS = (
    b"SERVER_ERROR object too large for cache",
    b"SERVER_ERROR out of memory storing object",
    b"SERVER_ERROR Out of memory during read",
)
"""What a healthy server replies to a value that it refuses."""

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class ServerUnavailable(Exception):
    """The server does not reply now: it pauses, failed or was too slow. That is counted already."""


class Reader(asyncio.StreamReader):
    """A stream that returns only complete lines and blocks, and knows whether a reply was read to its end."""

    settled = True

    @property
    def silent(self) -> bool:
        """Whether the connection is open and has no unexpected data."""
        return not (self._buffer or self.at_eof() or self.exception())  # type: ignore[attr-defined]  # no public way

    async def readline(self) -> bytes:
        """Read up to a line end. Raises IncompleteReadError if the connection ends before."""
        return await self.readuntil(LINE_END)

    async def readexactly(self, n: int) -> bytes:
        """Read a value and the line end that must follow it."""
        if n > LARGEST_BLOCK:
            msg = f"a value of {n - len(LINE_END)} bytes"
            raise ClientException(msg)
        block = await super().readexactly(n)
        if not block.endswith(LINE_END):
            msg = "a value is longer than its length says"
            raise ClientException(msg)
        return block


class Connections(MemcachePool):
    """At most CONNECTIONS connections, each reused only after a complete reply."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, minsize=1, maxsize=CONNECTIONS)
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(CONNECTIONS)

    async def acquire(self) -> Connection:
        """Return an idle connection or a new one, as soon as there are fewer than CONNECTIONS."""
        await self._free.acquire()
        try:
            connection = self._reuse() or await self._open()
        except BaseException:
            self._free.release()
            raise
        _reader(connection).settled = False
        self._in_use.add(connection)
        return connection

    def release(self, conn: Connection) -> None:
        """Take a connection back: it becomes idle if its reply was read to the end, else it is cut."""
        self._free.release()
        acquired = conn in self._in_use
        self._in_use.discard(conn)
        if acquired and _reader(conn).settled:
            self._idle.append(conn)
        else:
            conn.writer.transport.abort()  # a close would first send what is left of a half-sent set

    def cut(self) -> None:
        """Cut the idle connections now, and those in use as they come back."""
        self._in_use.clear()
        for connection in self._idle:
            connection.writer.transport.abort()
        self._idle.clear()

    async def clear(self) -> None:
        """Close as aiomcache's client does."""
        self.cut()

    def _reuse(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if _reader(connection).silent:
                return connection
            connection.writer.transport.abort()
        return None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        reader = Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, self._host, self._port)
        return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


class Client(aiomcache.FlagClient[None]):
    """aiomcache's get, set and delete over connections that never have a reply left over."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, get_flag_handler=_nothing)
        self._pool: Connections = Connections(host, port)

    def cut(self) -> None:
        """Close the idle connections at once, and those in use once they are free."""
        self._pool.cut()

    async def _execute_simple_command(self, conn: Connection, raw_command: bytes) -> bytes:
        line = await super()._execute_simple_command(conn, raw_command)
        _settle(conn)
        return b"NOT_STORED" if line in REFUSALS else line

    async def _multi_get(self, conn: Connection, *keys: bytes, with_cas: Any = True) -> Any:
        found, tokens = await super()._multi_get(conn, *keys, with_cas=with_cas)
        if found.keys() - set(keys):
            msg = "a reply for another key"
            raise ClientException(msg)
        _settle(conn)
        return found, tokens


class Server:
    """A server, its client, and whether it pauses. `counts` is the cache's; `clock` gives monotonic seconds."""

    def __init__(
        self, address: tuple[str, int], *, timeout: float, counts: Counter[str], clock: Callable[[], float]
    ) -> None:
        host, self.port = address
        self.host = host
        self.name = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.mark = self.name.encode()
        self.resting = False
        self.client = Client(host, self.port)
        self._timeout = timeout
        self._counts = counts
        self._clock = clock
        self._rest = FIRST_REST
        self._until = 0.0
        self._trying = False
        self._closed = False
        self._era = 0

    async def run(self, command: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a client's method. Raises ServerUnavailable, after `timeout` seconds at the latest."""
        era, trial = self._admit()
        try:
            async with asyncio.timeout(self._timeout):
                reply = await command(*args, **kwargs)
        except TimeoutError as exc:
            self._fail(era, "timeouts", f"no answer within {self._timeout:g} s")
            raise ServerUnavailable from exc
        except Exception as exc:  # invalid replies make aiomcache fail in many ways
            self._fail(era, "failures", (str(exc) or type(exc).__name__)[:REASON_LIMIT])
            raise ServerUnavailable from exc
        finally:
            if trial:
                self._trying = False
        if trial:
            self._recover()
        return reply

    def close(self) -> None:
        """Close all connections; later calls raise ServerUnavailable."""
        self._closed = True
        self.client.cut()

    def _admit(self) -> tuple[int, bool]:
        if not (self.resting or self._closed):
            return self._era, False
        if self._closed or self._trying or self._clock() < self._until:
            self._counts["resting"] += 1
            raise ServerUnavailable
        self._trying = True
        return self._era, True

    def _fail(self, era: int, kind: Literal["timeouts", "failures"], reason: str) -> None:
        """Pause the server. Of calls in progress together only the first does: the others report the same failure."""
        self._counts[kind] += 1
        if era != self._era or self._closed:
            return
        self._era += 1
        self._rest = min(2 * self._rest, LONGEST_REST) if self.resting else FIRST_REST
        self._until = self._clock() + self._rest
        self.client.cut()  # idle connections may be dead too, and would fail one attempt after another
        if not self.resting:
            logger.warning("memcached %s pauses after failures, its keys are misses: %s", self.name, reason)
        self.resting = True

    def _recover(self) -> None:
        self.resting = False
        logger.warning("memcached %s is back", self.name)


def _reader(connection: Connection) -> Reader:
    assert isinstance(connection.reader, Reader)
    return connection.reader


def _settle(connection: Connection) -> None:
    reader = _reader(connection)
    if reader._buffer:  # type: ignore[attr-defined]
        msg = "an unexpected reply"
        raise ClientException(msg)
    reader.settled = True


async def _nothing(_value: bytes, _flags: int) -> None:
    """Treat an entry with flags as missing: we write none, so another program did."""
