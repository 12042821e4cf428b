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
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

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
LONGEST_LINE = 512
"""Bytes of a value's first line: its key of up to 250 bytes, flags and length."""
READ_AHEAD = 2 * MIB
"""Bytes that arrive before they are read: with asyncio's 64 KiB, every second turn of a busy loop brings nothing."""
READ_BYTES = 256 << 10
"""Most bytes that are read at once."""
REASON_LIMIT = 200
"""Characters of a failure that are logged: garbage may be long."""
REFUSALS = (
    b"SERVER_ERROR object too large for cache",
    b"SERVER_ERROR out of memory storing object",
    b"SERVER_ERROR Out of memory during read",
)
"""What a healthy server replies to a value that it refuses."""
_WORDS = 4
"""Words in a value's first line."""

logger = logging.getLogger(__name__)
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

    async def some(self) -> bytes:
        """Read what is there, at least a byte. Raises IncompleteReadError if the connection has ended."""
        data = await self.read(READ_BYTES)
        if not data:
            raise asyncio.IncompleteReadError(data, None)
        return data


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
        reader = Reader(limit=READ_AHEAD, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, self._host, self._port)
        return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


class Client(aiomcache.FlagClient[None]):
    """aiomcache's set and delete, and reads of ours, over connections that never have a reply left over."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._pool: Connections = Connections(host, port)

    def cut(self) -> None:
        """Close the idle connections at once, and those in use once they are free."""
        self._pool.cut()

    async def _execute_simple_command(self, conn: Connection, raw_command: bytes) -> bytes:
        line = await super()._execute_simple_command(conn, raw_command)
        _settle(conn)
        return b"NOT_STORED" if line in REFUSALS else line

    async def values(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Return the values of different keys that the server has, None for one of another program, in one exchange.

        Raises ClientException for anything but a whole reply to this question.
        """
        connection = await self._pool.acquire()
        try:
            connection.writer.write(b"get %b\r\n" % b" ".join(keys))
            found = await _read_values(_reader(connection), frozenset(keys))
            _settle(connection)
        finally:
            self._pool.release(connection)
        return found


async def _read_values(reader: Reader, keys: frozenset[bytes]) -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    data, at = b"", 0
    while True:
        while (end := data.find(LINE_END, at, at + LONGEST_LINE)) < 0:
            if len(data) - at >= LONGEST_LINE:
                msg = "a line without an end"
                raise ClientException(msg)
            data, at = data[at:] + await reader.some(), 0
        line, at = data[at:end], end + len(LINE_END)
        if line == b"END":
            break
        key, flags, size = _head_of(line)
        if key not in keys or key in found:
            msg = "a reply for another key"
            raise ClientException(msg)
        missing = at + size - len(data)
        if missing > 0:
            data, at = data[at:] + await reader.readexactly(missing), 0
        block, at = data[at : at + size], at + size
        if not block.endswith(LINE_END):
            msg = "a value is longer than its length says"
            raise ClientException(msg)
        found[key] = block[: -len(LINE_END)] if flags == 0 else None
    if at != len(data):
        msg = "an unexpected reply"
        raise ClientException(msg)
    return found


def _head_of(line: bytes) -> tuple[bytes, int, int]:
    """Return the key, the flags and the bytes, with the line end, of a value. We write no flags: others do."""
    words = line.split(b" ")
    if len(words) != _WORDS or words[0] != b"VALUE" or not (words[2].isdigit() and words[3].isdigit()):
        msg = "get failed"
        raise ClientException(msg, line)
    size = int(words[3]) + len(LINE_END)
    if size > LARGEST_BLOCK:
        msg = f"a value of {size - len(LINE_END)} bytes"
        raise ClientException(msg)
    return words[1], int(words[2]), size


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

    async def run(self, command: Callable[..., Awaitable[T]], *args: Any, calls: int = 1) -> T:
        """Return the result of a client's method. Raises ServerUnavailable, after `timeout` seconds at the latest.

        It counts as so many `calls`.
        """
        era, trial = self._admit(calls)
        try:
            async with asyncio.timeout(self._timeout):
                reply = await command(*args)
        except TimeoutError as exc:
            self._fail(era, "timeouts", f"no answer within {self._timeout:g} s", calls)
            raise ServerUnavailable from exc
        except Exception as exc:  # invalid replies make aiomcache fail in many ways
            self._fail(era, "failures", (str(exc) or type(exc).__name__)[:REASON_LIMIT], calls)
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

    def _admit(self, calls: int) -> tuple[int, bool]:
        if not (self.resting or self._closed):
            return self._era, False
        if self._closed or self._trying or self._clock() < self._until:
            self._counts["resting"] += calls
            raise ServerUnavailable
        self._trying = True
        return self._era, True

    def _fail(self, era: int, kind: Literal["timeouts", "failures"], reason: str, calls: int) -> None:
        """Pause the server. Of calls in progress together only the first does: the others report the same failure."""
        self._counts[kind] += calls
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
