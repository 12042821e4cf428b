"""The main program of a child of the process pool: calls in, outcomes out, over one socket, one after the other.

It is started as a new interpreter, never forked, and imports only `models` and the plugins. While a check runs,
printing, opening processes and sending signals raise PermissionError, and memory is capped. That contains mistakes; it
is no sandbox for malicious code.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import json
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn, TypeAlias

CALL = struct.Struct(">QII")
"""Before each call: its number, and the bytes of what follows, a pickled (name, value, arguments) and a large value."""
OUTCOME = struct.Struct(">QdBI")
"""Before each outcome: the call's number, seconds, the kind of what follows, and its bytes."""
VALUE, FAILED, DONE = range(3)
"""Kinds: a check's value as JSON, an error message, or the result of work on a large value."""
PREPARATION = 0
"""Number of the first call, which lists as JSON what to import, and of its outcome."""
RUNNING, SINCE = struct.Struct("=Q"), struct.Struct("=d")
RUNNING_AT, SINCE_AT = 0, 8
"""Offsets in the shared page of the number of the running call, and of its start (monotonic seconds)."""
RESTING, SENDING = 0, (1 << 64) - 1
"""Instead of a number while no call is running: idle, or sending outcomes."""
FLUSH_AFTER = 0.001
"""Seconds that an outcome may wait to be sent with others."""
RECEIVED = 1 << 18
"""Bytes to receive at once."""

_Call: TypeAlias = tuple[int, bytes, bytes]
_BANNED = ("subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn",
         "os.kill", "os.killpg", "pty.spawn")  # fmt: skip


class DiscardOutput(io.TextIOBase):
    """A standard output that refuses text: no reader of a result would see what a check prints."""

    def write(self, text: str) -> NoReturn:
        """Raise PermissionError."""
        msg = f"printed {text[:80]!r}: a check returns its value, or logs"
        raise PermissionError(msg)


class _ProcessBan:
    """Forbids to start and signal processes while `active`."""

    def __init__(self) -> None:
        self.active = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: tuple[Any, ...]) -> None:
        if self.active and event in _BANNED:
            msg = f"{event}: a check opens no processes and sends no signals"
            raise PermissionError(msg)


def main(calls: int, page: int, life: int) -> None:
    """Serve until the socket `calls` ends. `page` is a file descriptor of the shared page, `life` of a pipe that ends
    with the parent.
    """
    _die_with(life)
    with socket.socket(fileno=calls) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(connection, mmap.mmap(page, mmap.PAGESIZE))


def _die_with(pipe: int) -> None:
    """Let the kernel end this process when the other end of the pipe closes, whatever a check is doing."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _serve(connection: socket.socket, page: mmap.mmap) -> None:
    received = _calls(connection)
    preparation = next(received)
    assert preparation is not None
    try:
        _prepare(**json.loads(preparation[1]))
    except BaseException as exc:  # noqa: BLE001  a plugin may raise anything
        reason = f"{type(exc).__name__}: {exc}"[:2000].encode(errors="replace")
        connection.sendall(OUTCOME.pack(PREPARATION, 0.0, FAILED, len(reason)) + reason)
        return
    connection.sendall(OUTCOME.pack(PREPARATION, 0.0, VALUE, 0))
    _answer(connection, received, page)


def _answer(connection: socket.socket, received: Iterator[_Call | None], page: mmap.mmap) -> None:
    from models import checks, large, strictjson  # noqa: PLC0415  after _prepare, which reports a failed import

    ban = _ProcessBan()
    sys.stdout = DiscardOutput()
    written, flushed = bytearray(), time.monotonic()
    heavy = False
    for each in received:
        now = time.monotonic()
        if written and (each is None or now - flushed > FLUSH_AFTER):
            _show(page, SENDING, now)
            connection.sendall(written)
            _show(page, RESTING, now)
            written.clear()
            flushed = now
        if each is None:
            if heavy:  # this process may have nothing else to do for hours
                call = content = value = done = answer = None
                large.trim()
                heavy = False
            continue
        number, call, content = each
        heavy = heavy or len(content) > large.LARGE
        _show(page, number, now)
        name, value, arguments = pickle.loads(call)  # noqa: S301  from our parent
        ban.active = True
        if name in large.TASKS:
            done, reason, elapsed = large.run(name, content, value)
            kind, answer = (FAILED, reason.encode(errors="replace")) if done is None else (DONE, done)
        else:
            outcome = checks.run(name, value, arguments)
            kind, value, elapsed = VALUE, outcome.value, outcome.elapsed
            if outcome.error is not None:
                kind, answer = FAILED, outcome.error.encode()
            else:
                answer = b"%d" % value if type(value) is int else strictjson.dumps(value)  # a quarter of the time
        ban.active = False
        written += OUTCOME.pack(number, elapsed, kind, len(answer)) + answer


def _show(page: mmap.mmap, number: int, now: float) -> None:
    SINCE.pack_into(page, SINCE_AT, now)  # first: a reader of the number must find its time
    RUNNING.pack_into(page, RUNNING_AT, number)


def _prepare(path: list[str], plugins: list[str], memory: int) -> None:
    sys.path[:] = path
    from models.plugins import load_all  # noqa: PLC0415  the path is known only now

    load_all(plugins)
    gc.collect()
    gc.freeze()
    _cap_memory(memory)


def _cap_memory(room: int) -> None:
    """Limit memory to `room` bytes beyond what this process has already. Only Linux enforces it."""
    import resource  # noqa: PLC0415  by now no plugin needs more

    taken = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        taken = int(file.read().split()[5]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_DATA, (taken + room, taken + room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _calls(connection: socket.socket) -> Iterator[_Call | None]:
    """Yield the calls as they come, and None whenever the next one has not come yet."""
    buffer = bytearray()
    while True:
        start = 0
        while len(buffer) - start >= CALL.size:
            number, length, content = CALL.unpack_from(buffer, start)
            middle = start + CALL.size + length
            end = middle + content
            if len(buffer) < end:
                break
            yield number, bytes(buffer[start + CALL.size : middle]), bytes(memoryview(buffer)[middle:end])
            start = end
        del buffer[:start]
        if start:
            yield None
        received = connection.recv(RECEIVED)
        if not received:
            return
        buffer += received
