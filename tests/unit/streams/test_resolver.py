"""Names are looked up by the system's resolver, many at once."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.http.guard import Guard
from streams.http.resolver import RESOLVER_THREADS, Resolver

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""
PUBLIC = "93.184.216.34"


@pytest.fixture
async def resolver() -> AsyncIterator[Resolver]:
    resolver = Resolver()
    yield resolver
    await resolver.close()


def answering(*addresses: tuple[Any, ...]) -> Any:
    """Return a getaddrinfo with these addresses, by their length of IPv4 or IPv6."""
    return lambda *_, **__: [
        (socket.AF_INET if len(each) == 2 else socket.AF_INET6, socket.SOCK_STREAM, 6, "", each) for each in addresses
    ]


@pytest.mark.slow
async def test_slow_names_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all but one of the threads waiting for names that nobody answers for, another name is resolved at once."""
    answer = threading.Event()
    slow = threading.Semaphore(0)

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        if host.startswith("slow"):
            slow.release()
            answer.wait(PATIENCE)
        return answering((PUBLIC, 80))()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = Guard().resolver()
    waiting = [asyncio.ensure_future(resolver.resolve(f"slow{number}")) for number in range(RESOLVER_THREADS - 1)]
    try:
        async with asyncio.timeout(PATIENCE):
            [found] = await resolver.resolve("quick")
        assert found["host"] == PUBLIC
        assert not any(task.done() for task in waiting)
        assert all(slow.acquire(timeout=PATIENCE) for _ in waiting)  # all are being looked up, none waits its turn
    finally:
        answer.set()
        await asyncio.gather(*waiting)
        await resolver.close()


async def test_a_name_s_addresses_are_ready_to_be_dialled(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv4 and IPv6, the scope of a link-local one as a number; what is asked for is what aiohttp would ask for."""
    asked: list[Any] = []

    def look_up(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return answering((PUBLIC, 443), ("2606:4700::1", 443, 0, 0), ("fe80::1", 443, 0, 2))()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    found = await resolver.resolve("name.example", 443, socket.AF_UNSPEC)
    assert asked == [
        (("name.example", 443, socket.AF_UNSPEC, socket.SOCK_STREAM), {"flags": socket.AI_ADDRCONFIG}),
    ]
    assert [(each["host"], each["family"]) for each in found] == [
        (PUBLIC, socket.AF_INET), ("2606:4700::1", socket.AF_INET6), ("fe80::1%2", socket.AF_INET6),
    ]  # fmt: skip
    assert {(each["hostname"], each["port"], each["proto"]) for each in found} == {("name.example", 443, 6)}
    assert {each["flags"] for each in found} == {socket.AI_NUMERICHOST | socket.AI_NUMERICSERV}


async def test_a_name_of_this_machine_is_really_resolved(resolver: Resolver) -> None:
    """The system's resolver is asked."""
    found = await resolver.resolve("localhost", 80, socket.AF_INET)
    assert [each["host"] for each in found] == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "no such name"])
async def test_a_name_that_is_none_is_an_os_error(resolver: Resolver, host: str) -> None:
    """As aiohttp expects it, also of a label that is too long to be asked for."""
    with pytest.raises(socket.gaierror):
        await resolver.resolve(host)
