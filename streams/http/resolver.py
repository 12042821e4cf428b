"""Resolves names in threads of its own, so that slow ones do not delay others.

The event loop's own look-ups are few at a time: libuv has four threads, and gives half of them to these; eight names
that took 0.5 s each took 2.0 s together.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

RESOLVER_THREADS = 256
"""Concurrent look-ups: as many as fetches, as a name whose servers do not respond takes a thread for some 10 s. An idle
thread takes some 30 KiB."""


class Resolver(AbstractResolver):
    """Uses the system's resolver. `close` does not wait for look-ups in progress."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a name's addresses. Raises OSError (gaierror) if it has none."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)

    async def close(self) -> None:
        """Start no more look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    try:
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError as exc:  # a label of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, str(exc)) from exc
    return [
        ResolveResult(
            hostname=host,
            host=_numeric(address),
            port=int(address[1]),
            family=found,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for found, _, protocol, _, address in infos
    ]


def _numeric(address: tuple[Any, ...]) -> str:
    """Return the address with its scope, if it has one, as a number: fe80::1%2."""
    host, _, *more = address
    scope = more[1] if more else 0
    return f"{host}%{scope}" if scope else str(host)
