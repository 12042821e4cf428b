"""How large workers are over time, and whether they stay so."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import aiohttp
import psutil
from confluent_kafka import KafkaException

from tests.faults.scene import Scene
from tests.integration.stage import Worker

EVERY = 1.0
"""Seconds between two samples of sizes and lag."""
TASKS_EVERY = 5
"""Samples from one look at a worker's tasks to the next: it has to answer for that."""
WARM = 30.0
"""Seconds of a worker's life before its sizes count: it fills its caches and opens its connections."""
ENOUGH = 240
"""Samples in calm that a worker must have lived through to be judged: a quarter of them is twice the time after which
it gives back what a burst took, such as a rebalance.
"""
MEMORY, THREADS, FILES, TASKS = 48 << 20, 12, 40, 40
"""By how much the last quarter of a worker's calm may exceed the first, in the median: bytes, and numbers."""
_TASKS = re.compile(r"^millrace_event_loop_tasks (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A worker with its children at a time in seconds of the epoch; `tasks` is None where it was not looked at."""

    at: float
    worker: str
    calm: bool
    memory: int
    threads: int
    files: int
    tasks: int | None = None


def grown(samples: Iterable[Sizes]) -> str:
    """Return which workers grew between the first and the last quarter of the calm that they lived through."""
    found = []
    for name, lived in by_worker(samples).items():
        for what, most in (("memory", MEMORY), ("threads", THREADS), ("files", FILES), ("tasks", TASKS)):
            if (ends := quarters(lived, what)) is not None and ends[1] - ends[0] > most:
                scale, unit = (1 << 20, "MiB of memory") if what == "memory" else (1, what)
                found.append(f"{name}: from {ends[0] / scale:.0f} to {ends[1] / scale:.0f} {unit}")
    return "; ".join(found)


def by_worker(samples: Iterable[Sizes]) -> dict[str, list[Sizes]]:
    """Return the samples of each worker, in the order of time."""
    found: defaultdict[str, list[Sizes]] = defaultdict(list)
    for each in samples:
        found[each.worker].append(each)
    return found


def quarters(lived: Sequence[Sizes], what: str) -> tuple[float, float] | None:
    """Return the medians of the first and the last quarter of one worker's calm, or None if that is too short."""
    calm = [each for each in lived if each.calm and each.at >= lived[0].at + WARM]
    values = [getattr(each, what) for each in calm if getattr(each, what) is not None]
    if len(calm) < ENOUGH or not (quarter := len(values) // 4):
        return None
    return median(values[:quarter]), median(values[-quarter:])


class Sampler:
    """Takes samples from `start` to `stop`. `name` names a worker; `calm` is whether nothing is broken now."""

    def __init__(self, scene: Scene, name: Callable[[Worker], str]) -> None:
        self._scene = scene
        self._name = name
        self.calm = False
        self.sizes: list[Sizes] = []
        self.lags: list[tuple[float, int]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take samples."""
        self._tasks = [asyncio.create_task(self._measure()), asyncio.create_task(self._lag())]

    async def stop(self) -> None:
        """Take no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _measure(self) -> None:
        number = 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2.0)) as session:
            while True:
                for worker in list(self._scene.stage.workers):
                    if worker.process.returncode is None and worker.url:
                        tasks = await _tasks_of(session, worker) if number % TASKS_EVERY == 0 else None
                        await self._add(worker, tasks)
                number += 1
                await asyncio.sleep(EVERY)

    async def _add(self, worker: Worker, tasks: int | None) -> None:
        at, calm = time.time(), self.calm
        with contextlib.suppress(psutil.Error, FileNotFoundError):  # it is ending
            sizes = await asyncio.to_thread(_sizes, worker.process.pid)
            if all(sizes):  # one that has ended has none
                self.sizes.append(Sizes(at, self._name(worker), calm, *sizes, tasks))

    async def _lag(self) -> None:
        while True:
            with contextlib.suppress(KafkaException):
                lag = await self._scene.observer.lag()
                self.lags.append((time.time(), lag))
            await asyncio.sleep(EVERY)


def _sizes(pid: int) -> tuple[int, int, int]:
    """Return bytes of memory, threads and open files of a process and its children."""
    parent = psutil.Process(pid)
    memory, threads, files = parent.memory_info().rss, parent.num_threads(), parent.num_fds()
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            memory += child.memory_info().rss
            threads += child.num_threads()
            files += child.num_fds()
    return memory, threads, files


async def _tasks_of(session: aiohttp.ClientSession, worker: Worker) -> int | None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(f"{worker.url}/metrics") as response:
            if found := _TASKS.search(await response.text()):
                return int(float(found[1]))
    return None
