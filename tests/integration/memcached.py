"""Memcached processes on free loopback ports, a server that only looks like one, and caches over them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import pytest
import uvloop

from streams.cache.memcached import COUNTED, MemcachedCache
from streams.config.cache_url import MemcachedTier

PATIENCE = 10.0
"""Seconds that a process may take to start."""

TIMEOUT = 1.0
"""Seconds that a call may take in a test whose server hangs; elsewhere PATIENCE, so that a busy machine is no hang."""
SLACK = 0.9
"""Seconds that a busy machine may add to a time-out."""
HANG_UP = b"\0hang up\0"


class Memcached:
    """A memcached process. Its port stays its own over a restart; `options` are its command line's."""

    def __init__(self, *options: str, host: str = "127.0.0.1") -> None:
        self.host = host
        self.options = options
        self.port = free_port(host)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        found = shutil.which("memcached")
        if found is None:
            if os.environ.get("CI"):
                pytest.fail("memcached is not on PATH", pytrace=False)
            pytest.skip("needs memcached on PATH")
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = await asyncio.create_subprocess_exec(
            found, *user, "-l", self.host, "-p", str(self.port), "-U", "0", "-m", "64", *self.options
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    await self.ask(b"version\r\n")
                    return
                assert self._process.returncode is None, "memcached ended"
                await asyncio.sleep(0.01)

    async def ask(self, question: bytes) -> bytes:
        """Return the first line that it answers to raw protocol."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(question)
            return await reader.readline()
        finally:
            writer.transport.abort()

    async def holds(self, key: bytes) -> bool:
        return (await self.ask(b"get %b\r\n" % key)).startswith(b"VALUE")

    def hang(self) -> None:
        """Stop the process; it says nothing more once this returns."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """Wake the process, if there is one."""
        if self._process is not None:
            self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End the process at once and wait until it is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class Fake:
    """A server that answers each line with what `answer` makes of it; None is no answer, HANG_UP at its end the end.

    `answer` may be a coroutine function. `connections` counts those accepted so far, `most` those open at once.
    """

    def __init__(self, answer: Callable[[bytes], bytes | Awaitable[bytes | None] | None]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.connections = 0
        self.open = self.most = 0
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return "127.0.0.1", port

    def say(self, text: bytes) -> None:
        """Send something unasked over every connection."""
        for writer in self._writers:
            writer.write(text)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(handler)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                self.asked.append(line)
                said = self.answer(line)
                if isinstance(said, Awaitable):
                    said = await said
                writer.write((said or b"").removesuffix(HANG_UP))
                if said is not None and said.endswith(HANG_UP):
                    return
        except OSError:
            pass
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()


def free_port(host: str) -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def on_both_loops(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test on asyncio's loop and on uvloop's. Its fixtures must be plain ones."""

    @functools.wraps(test)
    def run(loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(test(**fixtures))

    wanted = inspect.signature(test)
    first = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = wanted.replace(parameters=[first, *wanted.parameters.values()])  # type: ignore[attr-defined]
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop", loops, ids=["asyncio", "uvloop"])(run)


class Clock:
    """A clock that stands still unless moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    *servers: Memcached | Fake,
    clock: Callable[[], float] = time.monotonic,
    prefix: str = "mr",
    timeout: float = PATIENCE,
) -> AsyncIterator[MemcachedCache]:
    """Open a cache over servers, and see at the end that every count is a documented one."""
    tier = MemcachedTier(tuple(server.address for server in servers), prefix=prefix, timeout=timeout)
    async with MemcachedCache(tier, clock=clock) as cache:
        yield cache
    assert set(cache.counts) <= set(COUNTED)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """See that what is done within takes no longer."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds + SLACK


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def key(number: int = 0) -> bytes:
    """Return a key of the form that the cache is made for."""
    return b"0123abcd-0123456789abcdef-%040x" % number


def found(name: bytes, data: bytes, *, length: int | None = None, flags: int = 0) -> bytes:
    """Return what a server says that has a value, or says it has."""
    return b"VALUE mr:%b %d %d\r\n%b\r\nEND\r\n" % (name, flags, len(data) if length is None else length, data)
