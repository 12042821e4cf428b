"""Which memcached client: CPU and wall time of a call, for aiomcache, emcache and our cache over the first.

It starts a memcached on loopback and runs under uvloop, as the worker does. Rounds of all are interleaved, and each
figure is the median of its rounds: µs of the client process's CPU, µs of wall time.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import aiomcache
import uvloop

from agents.entry import EntryPoint
from streams.cache.memcached import MemcachedCache
from streams.cache.memcached_connection import CONNECTIONS
from streams.config.cache_url import MemcachedTier
from tests.integration.memcached import Memcached

CALLS = 4_000
"""Calls in a round."""
ROUNDS = 5
CONCURRENCY = (1, 64)
VALUE = b"x" * 500
TTL = 600
TIMEOUT = 5.0
"""Seconds; long enough that none is cut off."""
HIT = b"0123abcd-0123456789abcdef-" + b"0" * 40
MISS = HIT[:-1] + b"1"

Call = Callable[[], Awaitable[Any]]


async def measure(call: Call, concurrency: int) -> tuple[float, float]:
    """Return the µs of CPU and of wall time of one call, of CALLS made by `concurrency` tasks."""
    left = iter(range(CALLS))

    async def work() -> None:
        for _ in left:
            await call()

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return 1e6 * (time.process_time() - used) / CALLS, 1e6 * (time.perf_counter() - began) / CALLS


async def compare(host: str, port: int) -> None:
    """Run the rounds and print the table."""
    plain = aiomcache.Client(host, port, pool_size=CONNECTIONS)
    cache = MemcachedCache(MemcachedTier(((host, port),), timeout=TIMEOUT))
    clients: dict[str, tuple[Any, dict[str, int]]] = {
        "aiomcache": (plain, {"exptime": TTL}),
        "ours, over aiomcache": (cache, {"ttl": TTL}),
    }
    try:
        emcache = importlib.import_module("emcache")
    except ImportError:
        print("emcache is not installed")
    else:
        at = [emcache.MemcachedHostAddress(host, port)]
        quick = await emcache.create_client(
            at, timeout=TIMEOUT, max_connections=CONNECTIONS, min_connections=CONNECTIONS
        )
        clients["emcache"] = quick, {"exptime": TTL}
    table: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for name, (client, life) in clients.items():
            await client.set(HIT, VALUE, **life)
            for what, call in calls(client, life).items():
                for concurrency in CONCURRENCY:
                    table.setdefault((name, what, concurrency), []).append(await measure(call, concurrency))
    print(f"{'client':<22}{'call':<10}{'at once':>8}{'CPU µs':>9}{'wall µs':>9}")
    for (name, what, concurrency), rounds in table.items():
        cpu, wall = (median(each) for each in zip(*rounds, strict=True))
        print(f"{name:<22}{what:<10}{concurrency:>8}{cpu:>9.1f}{wall:>9.1f}")
    for client, _ in clients.values():
        await client.close()


def calls(client: Any, life: dict[str, int]) -> dict[str, Call]:
    return {
        "get hit": lambda: client.get(HIT),
        "get miss": lambda: client.get(MISS),
        "set": lambda: client.set(HIT, VALUE, **life),
    }


async def main() -> None:
    async with Memcached() as memcached:
        await compare(memcached.host, memcached.port)


if __name__ == "__main__":
    EntryPoint("bench.memcached_clients", __doc__).begin()
    uvloop.run(main())
