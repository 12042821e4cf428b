"""One process of the pool, as its parent sees it. Calls go out over a socket of its own, verdicts come back; a page
that both see says which call is running and since when, so that the one to blame is known whatever ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from models import strictjson
from models.checks import MAX_VALUE_BYTES, CheckOutcome
from models.process import (
    CALL,
    DONE,
    FAILED,
    PREPARATION,
    RESTING,
    RUNNING,
    RUNNING_AT,
    SINCE,
    SINCE_AT,
    VALUE,
    VERDICT,
)  # fmt: skip

MEMORY = 512 << 20
"""Bytes that checks may take in one process, beyond what it has after importing the plugins."""
MAX_ANSWER_BYTES = {VALUE: MAX_VALUE_BYTES, FAILED: MAX_VALUE_BYTES, DONE: 1 << 30}
"""Bytes of what may follow a verdict, by its kind; a child that announces more is not speaking for itself."""
LONGEST_PAUSE = 0.1
"""Seconds between two looks whether a process that was ended is gone."""

# The path is the parent's: a plugin that it finds, its children find.
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from models.process import main
main(*map(int, sys.argv[2:]))
"""


Heard = tuple[int, CheckOutcome]
"""The number of a call, and what came of it."""


class Child(asyncio.Protocol):
    """Started by `start`; `gone` must be awaited in the end.

    `heard` is called with verdicts, and with when taking them apart began (`time.thread_time`); `ended` once, when the
    process can say no more.
    """

    def __init__(self, heard: Callable[[Sequence[Heard], float], None], ended: Callable[[], None]) -> None:
        self._heard, self._ended = heard, ended
        self._buffer = bytearray()
        self.closed = self.sent_garbage = False
        """Whether nothing more is heard of it, and whether it was ended because what was heard was no verdict."""
        self._last = RESTING, 0.0
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sign_of_life = self.started = time.monotonic()
        """When it last said something, or was given something to do while idle (monotonic seconds)."""

    @property
    def pid(self) -> int:
        """Return the process id, which is its group's as well."""
        return self._process.pid

    def start(self) -> None:
        """Start the process; `gone` must be awaited from now on. Raises OSError if there can be none."""
        self._ours, theirs = socket.socketpair()
        with _shared_page() as page, theirs:
            life, self._life = os.pipe()
            try:
                self._page = mmap.mmap(page, mmap.PAGESIZE)
                self._process = subprocess.Popen(  # noqa: S603  1 ms; a new interpreter of ours
                    [sys.executable, "-c", _BOOT, json.dumps(sys.path), *map(str, (theirs.fileno(), page, life))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), page, life),
                    start_new_session=True,  # Ctrl-C is for us, and whatever a check starts ends with it
                )
            except BaseException:
                os.close(self._life)
                self._ours.close()
                raise
            finally:
                os.close(life)

    async def prepare(self, plugins: Sequence[str]) -> str:
        """Tell the process what to import; returns "" once it is ready, or the reason why it cannot serve."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=self._ours)
        preparation = {"path": sys.path, "plugins": list(plugins), "memory": MEMORY}
        self.send([(PREPARATION, json.dumps(preparation).encode())])
        return await self._ready

    def send(self, calls: Iterable[tuple[int, bytes]]) -> None:
        """Send numbered calls, encoded by `encode`."""
        self.sign_of_life = time.monotonic()
        assert self._transport is not None
        self._transport.write(b"".join(CALL.pack(number, len(call)) + call for number, call in calls))

    def running(self) -> tuple[int, float]:
        """Return the number of the running call, or RESTING or SENDING, and when that began (monotonic seconds).

        Of a process that has ended: what it ran then.
        """
        if self._page.closed:
            return self._last
        number: int = RUNNING.unpack_from(self._page, RUNNING_AT)[0]
        since: float = SINCE.unpack_from(self._page, SINCE_AT)[0]
        credible = self.started <= since <= time.monotonic()  # a check can write there, not a number even
        return number, since if credible else self.sign_of_life

    def kill(self) -> None:
        """End the process and all that it has started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Tell the process that there is nothing more to do."""
        if self._transport is not None:
            self._transport.close()
        else:
            self._ours.close()

    async def gone(self, deadline: float) -> int:
        """Wait until the process has ended; returns its exit code, or minus the signal that ended it.

        After `deadline` seconds it is killed.
        """
        began, pause = time.monotonic(), 0.001
        while not self._has_ended():
            if time.monotonic() - began > deadline:
                self.kill()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self.kill()  # what it has started: while it is not waited for, its group is no other's
        os.close(self._life)
        self._last = self.running()
        self._page.close()  # it holds a file descriptor
        return self._process.wait()

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    # -- asyncio's side

    def data_received(self, data: bytes) -> None:
        """Take verdicts apart; what is none ends the process: a check has written to what is not its own."""
        began = time.thread_time()
        self.sign_of_life = time.monotonic()
        self._buffer += data
        heard: list[Heard] = []
        try:
            for number, elapsed, kind, said in self._verdicts():
                if number != PREPARATION:
                    heard.append((number, _verdict(elapsed, said, kind)))
                elif not self._ready.done():
                    self._ready.set_result(said.decode())
        except ValueError:  # no JSON, no UTF-8, no length
            self.sent_garbage = True
            self.kill()
        if heard:
            self._heard(heard, began)

    def _verdicts(self) -> Iterator[tuple[int, float, int, bytes]]:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= VERDICT.size:
            number, elapsed, kind, length = VERDICT.unpack_from(buffer, start)
            if length > MAX_ANSWER_BYTES.get(kind, 0) or not 0.0 <= elapsed < math.inf:
                msg = "no verdict"
                raise ValueError(msg)
            end = start + VERDICT.size + length
            if len(buffer) < end:
                break
            yield number, elapsed, kind, bytes(buffer[start + VERDICT.size : end])
            start = end
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """One end is closed: nothing more is heard of the process."""
        self.closed = True
        if not self._ready.done():
            self._ready.set_result("its process ended at once")
        self._ended()


def encode(call: tuple[str, Any, Any]) -> bytes:
    """Return a call as it travels. Raises whatever pickling raises for values that are not plain."""
    return pickle.dumps(call, pickle.HIGHEST_PROTOCOL)


def _verdict(elapsed: float, said: bytes, kind: int) -> CheckOutcome:
    if kind == FAILED:
        return CheckOutcome(error=said.decode(), elapsed=elapsed)
    if kind == DONE:
        return CheckOutcome(value=said, elapsed=elapsed)
    if said in _PLAIN:
        return CheckOutcome(value=_PLAIN[said], elapsed=elapsed)
    small = len(said) <= _DIGITS and said.isdigit()
    return CheckOutcome(value=int(said) if small else strictjson.loads(said), elapsed=elapsed)


_PLAIN = {b"true": True, b"false": False, b"null": None}
_DIGITS = 19
"""Digits of numbers that need no parser: most answers are as short, and it takes ten times as long."""


@contextlib.contextmanager
def _shared_page() -> Iterator[int]:
    """Make a page of memory that a child can map: in memory where the system has that, since disks may be read-only."""
    if hasattr(os, "memfd_create"):
        page = os.memfd_create("millrace-check")
    else:
        with tempfile.TemporaryFile() as file:
            page = os.dup(file.fileno())
    try:
        os.ftruncate(page, mmap.PAGESIZE)
        yield page
    finally:
        os.close(page)
