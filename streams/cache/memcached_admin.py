"""What a command needs from a memcached server beside get and set: its statistics, and the deletion of matching keys.

No client offers the listing of keys (`lru_crawler metadump`, memcached 1.4.31 and later), so this speaks over plain
connections of its own. Unlike the cache it raises errors, for the user of the command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import unquote_to_bytes

from models.errors import MillraceError
from streams.config.cache_url import MIB

STATS_TIMEOUT = 2.0
"""Seconds that a server may take to return its statistics."""
STATS_LINES = 1_000
"""Most lines of statistics to read; memcached has about a hundred."""
LISTING_TIMEOUT = 60.0
"""Seconds that listing and deleting the keys of one server may take together."""
LISTING_BYTES = 256 * MIB
"""Most bytes of a listing to read: about two million keys."""
BUSY_PAUSE = 0.1
"""Seconds before the next try while the server's crawler is busy."""
BATCH = 500
"""Deletes that are sent before their replies are read."""
STATS = {
    "items": b"curr_items",
    "bytes": b"bytes",
    "get_hits": b"get_hits",
    "get_misses": b"get_misses",
    "evictions": b"evictions",
}
"""The statistics that are shown, and memcached's names of them. They count everything on the server."""

NO_MEMCACHED = "it does not speak memcached's protocol"


class AdminConnection:
    """A connection for commands and replies, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, text: bytes) -> None:
        """Send commands, each with its line end."""
        self._writer.write(text)
        await self._writer.drain()

    async def line(self) -> bytes:
        """Read a line without its end, which is a bare line feed in a listing. Raises MillraceError at the end."""
        try:
            line = await self._reader.readline()
        except ValueError as exc:
            msg = f"{NO_MEMCACHED}: a line without an end"
            raise MillraceError(msg) from exc
        if not line.endswith(b"\n"):
            msg = "the connection ended in mid-answer"
            raise MillraceError(msg)
        return line.rstrip(b"\r\n")


async def read_stats(host: str, port: int) -> dict[str, str | int]:
    """Return the version and the FIGURES of a server. Raises MillraceError if it is not reachable or no memcached."""
    stats: dict[bytes, bytes] = {}
    async with _connected(host, port, STATS_TIMEOUT) as plain:
        await plain.send(b"stats\r\n")
        for _ in range(STATS_LINES):
            line = await plain.line()
            if line == b"END":
                break
            word, name, value = [*line.split(b" ", 2), b"", b""][:3]
            if word != b"STAT":
                raise _unexpected_reply(line)
            stats[name] = value
    try:
        figures = {ours: int(stats[theirs]) for ours, theirs in STATS.items()}
        return {"version": stats[b"version"].decode(), **figures}
    except (KeyError, ValueError) as exc:
        msg = f"{NO_MEMCACHED}: figures are missing"
        raise MillraceError(msg) from exc


async def remove(host: str, port: int, matches: Callable[[bytes], bool]) -> int:
    """Delete the stored keys that match; returns how many there were. Raises MillraceError."""
    async with _connected(host, port, LISTING_TIMEOUT) as plain:
        keys = await _list(plain, matches)
        while keys is None:
            await asyncio.sleep(BUSY_PAUSE)
            keys = await _list(plain, matches)
        removed = 0
        for start in range(0, len(keys), BATCH):
            removed += await _delete(plain, keys[start : start + BATCH])
        return removed


async def _list(plain: AdminConnection, matches: Callable[[bytes], bool]) -> list[bytes] | None:
    """Return the keys that match, None while the crawler is busy."""
    keys: list[bytes] = []
    read = 0
    await plain.send(b"lru_crawler metadump all\r\n")
    while (line := await plain.line()) != b"END":
        if line.startswith(b"BUSY"):
            return None
        if not line.startswith(b"key="):
            msg = f"it does not list its keys, which needs memcached 1.4.31 and its LRU crawler: it says {line[:80]!r}"
            raise MillraceError(msg)
        read += len(line)
        if read > LISTING_BYTES:
            msg = f"its keys take more than {LISTING_BYTES} bytes to list"
            raise MillraceError(msg)
        key = unquote_to_bytes(line[4:].partition(b" ")[0])
        if matches(key):
            keys.append(key)
    return keys


async def _delete(plain: AdminConnection, keys: list[bytes]) -> int:
    await plain.send(b"".join(b"delete %b\r\n" % key for key in keys))
    answers = [await plain.line() for _ in keys]
    for answer in answers:
        if answer not in (b"DELETED", b"NOT_FOUND"):
            raise _unexpected_reply(answer)
    return answers.count(b"DELETED")


@asynccontextmanager
async def _connected(host: str, port: int, timeout: float) -> AsyncIterator[AdminConnection]:
    """Open a connection for `timeout` seconds. Every failure within becomes a MillraceError."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                yield AdminConnection(reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError as exc:
        msg = f"no answer within {timeout:g} s"
        raise MillraceError(msg) from exc
    except OSError as exc:
        msg = f"not reachable: {exc.strerror or exc}"
        raise MillraceError(msg) from exc


def _unexpected_reply(line: bytes) -> MillraceError:
    return MillraceError(f"{NO_MEMCACHED}: {line[:80]!r}")
