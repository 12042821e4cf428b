"""One memcached server as the cache asks it: whole answers to its own questions, within a time, or none; and a rest
after each failure.

The protocol is aiomcache's. What aiomcache 0.8.2 does not do is done here: it hands a connection on whose caller was
cancelled in mid-answer, asks a connection that has ended for the rest of a line for ever (without ever yielding, so
that no time-out fires), and takes an answer for another key for a miss.
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
"""Connections to a server at most; idle ones stay open."""
FIRST_REST = 1.0
"""Seconds that a server rests after a failure; each failed try doubles them, a success resets them."""
LONGEST_REST = 30.0
"""Seconds that a server rests at most."""
LINE_END = b"\r\n"
LARGEST_BLOCK = MIB + len(LINE_END)
"""Bytes of a value that are read at most, its line end included: memcached's own limit of an item."""
REASON_LIMIT = 200
"""Characters of a failure that are logged: garbage may be long."""
REFUSALS = (
    b"SERVER_ERROR object too large for cache",
    b"SERVER_ERROR out of memory storing object",
    b"SERVER_ERROR Out of memory during read",
)
"""What a healthy server says to a value that it does not take."""

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class ServerUnavailable(Exception):
    """The server gives no answer now: it rests, failed or was too slow. It is counted by then."""


class Reader(asyncio.StreamReader):
    """A stream that only gives whole lines and whole blocks, and knows whether an answer was read to its end."""

    settled = True

    @property
    def silent(self) -> bool:
        """Whether the connection is open and nothing came that nobody asked for."""
        return not (self._buffer or self.at_eof() or self.exception())  # type: ignore[attr-defined]  # no public way

    async def readline(self) -> bytes:
        """Read up to a line end. Raises IncompleteReadError where the connection ends before."""
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
    """At most CONNECTIONS connections, each kept only after the whole answer to its question."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, minsize=1, maxsize=CONNECTIONS)
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(CONNECTIONS)

    async def acquire(self) -> Connection:
        """Return an idle connection, else a new one, as soon as there is a place for it."""
        await self._places.acquire()
        try:
            connection = self._reuse() or await self._open()
        except BaseException:
            self._places.release()
            raise
        _reader(connection).settled = False
        self._in_use.add(connection)
        return connection

    def release(self, conn: Connection) -> None:
        """Take a connection back: into the idle ones if its answer was read to the end, else it is cut."""
        self._places.release()
        known = conn in self._in_use
        self._in_use.discard(conn)
        if known and _reader(conn).settled:
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
    """aiomcache's get, set and delete over connections of which no answer is left behind."""

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
            msg = "an answer for another key"
            raise ClientException(msg)
        _settle(conn)
        return found, tokens


class Server:
    """A server, its client, and whether it may be asked. `counts` is the cache's; `clock` gives monotonic seconds."""

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

    async def run(self, question: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the answer of one of the client's methods. Raises Away, after `timeout` seconds at the latest."""
        era, trial = self._admit()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await question(*args, **kwargs)
        except TimeoutError as exc:
            self._fail(era, "timeouts", f"no answer within {self._timeout:g} s")
            raise ServerUnavailable from exc
        except Exception as exc:  # garbage makes aiomcache stumble in ways that no list holds
            self._fail(era, "failures", (str(exc) or type(exc).__name__)[:REASON_LIMIT])
            raise ServerUnavailable from exc
        finally:
            if trial:
                self._trying = False
        if trial:
            self._recover()
        return answer

    def close(self) -> None:
        """Close all connections; whatever is asked after is Away."""
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
        """Rest. Of calls that were under way together only the first does it: the others tell nothing new."""
        self._counts[kind] += 1
        if era != self._era or self._closed:
            return
        self._era += 1
        self._rest = min(2 * self._rest, LONGEST_REST) if self.resting else FIRST_REST
        self._until = self._clock() + self._rest
        self.client.cut()  # what lies idle may be as dead, and would fail one try after another
        if not self.resting:
            logger.warning("memcached %s rests, its keys are misses: %s", self.name, reason)
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
        msg = "more than was asked for"
        raise ClientException(msg)
    reader.settled = True


async def _nothing(_value: bytes, _flags: int) -> None:
    """Read an entry with flags as none: we write none, so another program did."""
