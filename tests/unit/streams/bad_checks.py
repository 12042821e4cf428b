"""A plugin of checks that do what checks must not do. Imported by the pool's children."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from models.checks import check


@check
def bad_pid(value):
    return os.getpid()


@check
def bad_modules(value):
    return sorted(sys.modules)


@check
def bad_spin(value):
    while True:
        pass


@check
def bad_exit(value):
    os._exit(3)


@check
def bad_segfault(value):
    ctypes.string_at(0)


@check
def bad_eat(value):
    return len(bytearray(1 << 30))


@check
def bad_raise(value):
    raise {"l": LookupError, "s": SystemExit, "k": KeyboardInterrupt, "r": RecursionError}[value]("no such thing")


@check
def bad_return(value):
    return {"lambda": lambda: None, "huge": "x" * 10_000_000, "nan": float("nan"), "set": {1}}[value]


@check
def bad_print(value):
    print("hello", value)


@check
def bad_fork(value):
    {
        "run": lambda: subprocess.run(["true"], check=False),
        "system": lambda: os.system("true"),
        "fork": os.fork,
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "context": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    }[value]()


@check
def bad_signal(value):
    os.kill({"self": os.getpid(), "parent": os.getppid()}[value], signal.SIGSTOP)


@check
def bad_stop(value):
    ctypes.CDLL(None).kill(ctypes.c_int(os.getpid()), ctypes.c_int(signal.SIGSTOP))


@check
def bad_close(value):
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@check
def bad_garbage(value):
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff" * 4096)


@check
def bad_burn(value, seconds: float = 0.01):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return value


@check
def bad_size(value):
    return len(value)
