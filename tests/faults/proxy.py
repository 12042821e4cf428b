"""A TCP proxy that a test makes slow, deaf or torn while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Self

CHUNK = 1 << 16


@dataclass(slots=True)
class Weather:
    """What becomes of bytes: `delay` in seconds a way, `rate` in bytes a second, `piece` the most passed at once.

    `lost_up` and `lost_down`: bytes towards the server, and from it, go nowhere while the connection stays open.
    """

    delay: float = 0.0
    rate: float | None = None
    piece: int | None = None
    lost_up: bool = False
    lost_down: bool = False


class Proxy:
    """Opened with `async with`: listens on `port` of loopback, any unless given, and passes on to the target's port."""

    def __init__(self, target: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self._target = target
        self._host = host
        self.port = port
        self.weather = Weather()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hung: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Listen no more, and cut what is open."""
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Cut every connection that is open, without a word."""
        for writer in self._open:
            writer.transport.abort()

    def hang(self) -> None:
        """Lose all bytes of the connections that are open, both ways, without closing them; new ones work."""
        self._hung |= self._tasks

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # by `close`, and streams log a task that ends so
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
        else:
            self._open.add(out)
            try:
                ways = (
                    asyncio.create_task(self._pass(task, reader, out, up=True)),
                    asyncio.create_task(self._pass(task, there, writer, up=False)),
                )
                _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in pending:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            finally:
                self._open.discard(out)
                out.close()
                writer.close()
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            self._hung.discard(task)

    async def _pass(
        self, connection: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self.weather.piece or CHUNK):
                weather = self.weather
                if weather.delay:
                    await asyncio.sleep(weather.delay)
                if weather.rate:
                    await asyncio.sleep(len(data) / weather.rate)
                if connection in self._hung or (weather.lost_up if up else weather.lost_down):
                    continue
                writer.write(data)
                await writer.drain()
