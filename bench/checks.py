"""What it costs to run checks in other processes: `python -m bench.checks`.

heavy  12-digit primes by the textbook's trial division, about 10 ms each (18 digits would take it 10 s), against what
       as many processes do that run the very same function in a loop and talk to nobody: the cores' ideal throughput
small  checks of about 20 µs each
inline the built-in `range` on small numbers, which may run in the worker itself once it is known to be cheap

Peers, each given all checks at once, as by a worker's requests: `run_in_executor` on a ProcessPoolExecutor, one
call a check, as one writes it by hand; Pebble's ProcessPool, one task a check. All with one process a core, in turn,
several times; medians, and ratios within this run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from pebble import ProcessPool

from agents.entry import EntryPoint
from bench import checks_plugin as plugin
from models import checks as registry
from streams.pool import CheckPool

PROCESSES = len(os.sched_getaffinity(0))
SPAWN = multiprocessing.get_context("spawn")
Run = Callable[[str, list[int]], Awaitable[float]]


async def ours(name: str, values: list[int]) -> float:
    async with CheckPool(PROCESSES, [plugin.__name__]) as pool:
        await asyncio.gather(*(pool.submit(name, value, _arguments(name)) for value in values[:200]))
        began = time.perf_counter()
        outcomes = await asyncio.gather(*(pool.submit(name, value, _arguments(name)) for value in values))
        assert all(outcome.error is None for outcome in outcomes)
        return time.perf_counter() - began


async def by_hand(name: str, values: list[int]) -> float:
    loop, function = asyncio.get_running_loop(), registry.find(name).function
    with ProcessPoolExecutor(PROCESSES, SPAWN) as pool:
        await asyncio.gather(*(loop.run_in_executor(pool, function, value) for value in values[:200]))
        began = time.perf_counter()
        await asyncio.gather(*(loop.run_in_executor(pool, function, value) for value in values))
        return time.perf_counter() - began


async def pebbled(name: str, values: list[int]) -> float:
    function = registry.find(name).function
    with ProcessPool(PROCESSES, context=SPAWN) as pool:
        await asyncio.gather(*(asyncio.wrap_future(pool.schedule(function, (value,))) for value in values[:200]))
        began = time.perf_counter()
        await asyncio.gather(*(asyncio.wrap_future(pool.schedule(function, (value,))) for value in values))
        return time.perf_counter() - began


async def ideal(name: str, values: list[int]) -> float:
    """As many processes, each with its share, which send nothing before the end."""
    ready, go = SPAWN.Semaphore(0), SPAWN.Event()
    shares = [values[start::PROCESSES] for start in range(PROCESSES)]
    running = [SPAWN.Process(target=_loop, args=(name, share, ready, go)) for share in shares]
    for process in running:
        process.start()
    for _ in running:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    for process in running:
        process.join()
    return time.perf_counter() - began


def _loop(name: str, values: list[int], ready: Any, go: Any) -> None:
    function = registry.find(name).function
    ready.release()
    go.wait()
    for value in values:
        function(value)


def _arguments(name: str) -> dict[str, Any]:
    return {"low": 0} if name == "range" else {}


def compare(title: str, name: str, values: list[int], peers: dict[str, Run], repeat: int) -> None:
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(repeat):
        for peer, run in peers.items():
            times[peer].append(asyncio.run(run(name, values)))
    first = statistics.median(times["Millrace"])
    print(f"{title}: {len(values):,} checks on {PROCESSES} processes, medians of {repeat}")
    for peer, each in times.items():
        median = statistics.median(each)
        spread = f"{min(each) / len(values) * 1e6:,.1f} to {max(each) / len(values) * 1e6:,.1f}"
        print(
            f"  {peer:<16} {median / len(values) * 1e6:>10,.1f} µs a check ({spread})   {median / first:.2f} x Millrace"
        )
    if "ideal" in times:
        print(f"  share of the ideal: {statistics.median(times['ideal']) / first:.0%}")


def main() -> None:
    parser = EntryPoint("bench.checks", __doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--heavy", type=int, default=1_000, metavar="CHECKS")
    parser.add_argument("--small", type=int, default=20_000, metavar="CHECKS")
    options = parser.begin()
    peers: dict[str, Run] = {"Millrace": ours, "run_in_executor": by_hand, "Pebble": pebbled}
    primes = plugin.primes(options.heavy)
    compare("heavy", "bench_trial_division", primes, {**peers, "ideal": ideal}, options.repeat)
    compare("small", "bench_small", list(range(options.small)), peers, options.repeat)
    compare("inline", "range", list(range(options.small)), {"Millrace": ours}, options.repeat)


if __name__ == "__main__":
    main()
