"""One process of the pool, as its parent sees it. Calls are sent over a socket, outcomes come back; a shared page holds
the number and the start of the running call, so that the culprit is known whatever ends the process.
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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from models import strictjson
from models.checks import MAX_VALUE_BYTES, CheckOutcome
from models.process import (
    CALL,
    DONE,
    FAILED,
    OUTCOME,
    PREPARATION,
    RESTING,
    RUNNING,
    RUNNING_AT,
    SINCE,
    SINCE_AT,
    VALUE,
)  # fmt: skip

MEMORY = 512 << 20
"""Bytes of memory for checks in one process, beyond what it has after importing the plugins."""
MAX_ANSWER_BYTES = {VALUE: MAX_VALUE_BYTES, FAILED: MAX_VALUE_BYTES, DONE: 1 << 30}
"""Longest content of an outcome, in bytes by kind; if a child announces more, a check has written to its socket."""
SLICE = 256 << 10
"""Bytes to hand to the socket at once: megabytes in one go would be copied, in 10 to 70 ms of the event loop."""
LONGEST_PAUSE = 0.1
"""Longest pause between two looks at whether a process has ended, in seconds."""

# With the parent's path, its children find the same plugins.
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from models.process import main
main(*map(int, sys.argv[2:]))
"""


NumberedOutcome = tuple[int, CheckOutcome]
"""The number of a call, and its outcome."""


class Child(asyncio.Protocol):
    """Started by `start`; `gone` must be awaited in the end.

    Calls `on_outcomes` with outcomes and the `time.thread_time` at which decoding them began, and `on_end` once, when
    nothing more comes from the process.
    """

    def __init__(
        self, on_outcomes: Callable[[Sequence[NumberedOutcome], float], None], on_end: Callable[[], None]
    ) -> None:
        self._on_outcomes, self._on_end = on_outcomes, on_end
        self._buffer = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._paused = False
        self.closed = self.sent_garbage = False
        """Whether nothing more comes from it, and whether it was killed for sending something else than outcomes."""
        self._last = RESTING, 0.0
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sign_of_life = self.started = time.monotonic()
        """When it last sent something, or was given a call while idle (monotonic seconds)."""

    @property
    def pid(self) -> int:
        """Return the process id, which is also that of its group."""
        return self._process.pid

    def start(self) -> None:
        """Start the process; `gone` must be awaited from now on. Raises OSError."""
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
                    start_new_session=True,  # Ctrl-C is for the parent; the group ends with all its processes
                )
            except BaseException:
                os.close(self._life)
                self._ours.close()
                raise
            finally:
                os.close(life)

    async def prepare(self, plugins: Sequence[str]) -> str:
        """Send the process what to import; returns "" once it is ready, or the reason why it cannot run checks."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=self._ours)
        preparation = {"path": sys.path, "plugins": list(plugins), "memory": MEMORY}
        self.send([(PREPARATION, json.dumps(preparation).encode())])
        return await self._ready

    def send(self, calls: Iterable[tuple[int, bytes]], content: bytes = b"") -> None:
        """Send numbered calls, encoded by `encode`, and behind a single one the large value that it is about."""
        self.sign_of_life = time.monotonic()
        head = b"".join(CALL.pack(number, len(call), len(content)) + call for number, call in calls)
        for data in filter(None, (head, content)):
            whole = memoryview(data)
            self._unsent.extend(whole[start : start + SLICE] for start in range(0, len(whole), SLICE))
        self._send_on()

    def _send_on(self) -> None:
        assert self._transport is not None
        while self._unsent and not self._paused:
            self._transport.write(self._unsent.popleft())

    def running(self) -> tuple[int, float]:
        """Return the number of the running call, or RESTING or SENDING, and when that began (monotonic seconds).

        For a process that has ended: what it was running.
        """
        if self._page.closed:
            return self._last
        number: int = RUNNING.unpack_from(self._page, RUNNING_AT)[0]
        since: float = SINCE.unpack_from(self._page, SINCE_AT)[0]
        credible = self.started <= since <= time.monotonic()  # a check can write there, even NaN
        return number, since if credible else self.sign_of_life

    def kill(self) -> None:
        """Kill the process and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the socket, which tells the process to end."""
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
        self.kill()  # its children; until it is reaped, no other process can have its group id
        os.close(self._life)
        self._last = self.running()
        self._page.close()  # it holds a file descriptor
        return self._process.wait()

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    # -- asyncio's side

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self._send_on()

    def data_received(self, data: bytes) -> None:
        """Decode outcomes; invalid data ends the process, as a check has written to its socket."""
        began = time.thread_time()
        self.sign_of_life = time.monotonic()
        self._buffer += data
        outcomes: list[NumberedOutcome] = []
        try:
            for number, elapsed, kind, content in self._received():
                if number != PREPARATION:
                    outcomes.append((number, _outcome(elapsed, content, kind)))
                elif not self._ready.done():
                    self._ready.set_result(content.decode())
        except ValueError:  # invalid JSON, UTF-8 or length
            self.sent_garbage = True
            self.kill()
        if outcomes:
            self._on_outcomes(outcomes, began)

    def _received(self) -> Iterator[tuple[int, float, int, bytes]]:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= OUTCOME.size:
            number, elapsed, kind, length = OUTCOME.unpack_from(buffer, start)
            if length > MAX_ANSWER_BYTES.get(kind, 0) or not 0.0 <= elapsed < math.inf:
                msg = "not an outcome"
                raise ValueError(msg)
            end = start + OUTCOME.size + length
            if len(buffer) < end:
                break
            yield number, elapsed, kind, bytes(memoryview(buffer)[start + OUTCOME.size : end])
            start = end
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """The socket is closed: nothing more comes from the process."""
        self.closed = True
        self._unsent.clear()
        if not self._ready.done():
            self._ready.set_result("its process ended at once")
        self._on_end()


def encode(call: tuple[str, Any, Any]) -> bytes:
    """Return a call as bytes. Raises whatever pickle raises for values that are not plain."""
    return pickle.dumps(call, pickle.HIGHEST_PROTOCOL)


def _outcome(elapsed: float, content: bytes, kind: int) -> CheckOutcome:
    if kind == FAILED:
        return CheckOutcome(error=content.decode(), elapsed=elapsed)
    if kind == DONE:
        return CheckOutcome(value=content, elapsed=elapsed)
    if content in _PLAIN:
        return CheckOutcome(value=_PLAIN[content], elapsed=elapsed)
    small = len(content) <= _DIGITS and content.isdigit()
    return CheckOutcome(value=int(content) if small else strictjson.loads(content), elapsed=elapsed)


_PLAIN = {b"true": True, b"false": False, b"null": None}
_DIGITS = 19
"""Digits of a number that `int` parses: most values are as short, and the parser takes ten times as long."""


@contextlib.contextmanager
def _shared_page() -> Iterator[int]:
    """Create a page that a child can map: in memory where the system supports that, as disks may be read-only."""
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
