"""What a fault is done to: workers, brokers, the network between them and the upstream, load and observer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import psutil

from tests.faults.cluster import Cluster
from tests.faults.history import Observer, disordered, lost, repeated, skipped
from tests.faults.load import Load
from tests.faults.proxy import Proxy, Weather
from tests.integration.stage import Stage, Upstream, Worker
from tests.integration.test_tables import assert_equal_to_replay, until_counted

WORKERS = 2
CALM = 3.0
"""Seconds of load before a fault and after it."""
HEALED_WITHIN = 60.0
"""Seconds after a fault by which nothing may be left to do."""
THREADS, FILES, MEMORY = 12, 60, 120 << 20
"""By how much a worker that lives through a fault may have grown: threads, open files, bytes."""
BLAME = re.compile(r"Traceback|was never awaited|Event loop is closed|Task was destroyed|exception was never retrieved")
"""What no log of a worker may say, whatever happens."""


@dataclass
class Report:
    """What came out of one fault: an answer to each question, empty where all is well, and figures."""

    name: str
    answers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    repeats: int = 0
    healed: float = 0.0
    """Seconds until nothing was left to do."""

    @property
    def violations(self) -> dict[str, str]:
        """Return the questions with another answer than that all is well."""
        return {question: answer for question, answer in self.answers.items() if answer}


class Scene:
    """Opened with `async with`, one for each fault. `crashes` are the times at which repeats may have their cause."""

    def __init__(self, cluster: Cluster, proxies: list[Proxy], **settings: str) -> None:
        self.cluster = cluster
        self.proxies = proxies
        self.settings = settings
        self.crashes: list[tuple[float, float]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.upstream = await self._stack.enter_async_context(Upstream())
        self.gate = await self._stack.enter_async_context(Proxy(int(self.upstream.url.rpartition(":")[2])))
        settings = {"KAFKA_BOOTSTRAP_SERVERS": self.cluster.advertised, "MILLRACE_ROLE": "all"} | self.settings
        self.stage = await self._stack.enter_async_context(
            Stage(self.cluster.servers, settings=settings, replication=3)
        )
        await self.stage.create_topics()
        self.load = Load(self.cluster.servers, self.stage.requests, f"http://127.0.0.1:{self.gate.port}")
        self.observer = Observer(self.cluster.servers, self.stage.group, self.stage.requests)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.observer.stop()
        await self._stack.aclose()

    @property
    def workers(self) -> list[Worker]:
        """Return the workers that live."""
        return [worker for worker in self.stage.workers if worker.process.returncode is None]

    async def start(self, *command: str, **settings: str) -> Worker:
        """Start a worker, and watch it."""
        worker = await self.stage.start(*command, **settings)
        self.observer.urls.append(worker.url)
        return worker

    async def end(self, worker: Worker, *, kill: bool = False) -> None:
        """Stop a worker, or kill it, and look no more whether it is ready."""
        self.observer.urls.remove(worker.url)
        began = time.time()
        worker.kill() if kill else worker.terminate()
        code = await worker.ended()
        if kill:
            self.crashes.append((began, time.time()))
        else:
            assert code == 0, f"a worker that was to stop ended with {code}"

    async def each_broker(self, act: Callable[[int], Awaitable[None]]) -> None:
        """Do something to one broker after the other."""
        for node in self.cluster.nodes:
            await act(node.number)

    def weather(self, weather: Weather, *proxies: Proxy) -> None:
        """Let proxies have a weather; none: all of the brokers'."""
        for proxy in proxies or self.proxies:
            proxy.weather = weather

    def clear(self) -> None:
        """Let bytes pass again. Connections that lost some are cut: what follows would make no sense."""
        for proxy in [*self.proxies, self.gate]:
            torn = proxy.weather.lost_up or proxy.weather.lost_down
            proxy.weather = Weather()
            if torn:
                proxy.reset()

    async def lag_gone(self) -> float:
        """Wait until both groups have done all there is; return the seconds it took."""
        began = time.monotonic()
        async with asyncio.timeout(HEALED_WITHIN):
            while await self.observer.lag():
                await asyncio.sleep(0.25)
            await until_counted(self.stage)
        return time.monotonic() - began


async def run(
    scene: Scene, name: str, act: Callable[[Scene], Awaitable[None]], *, crash: bool, unready: bool
) -> Report:
    """Do one fault under load and ask every question. `crash`: repeats may come of it; `unready`: a worker must have
    been seen not to be ready.
    """
    report = Report(name)
    for _ in range(WORKERS):
        await scene.start()
    scene.load.start()
    scene.observer.start()
    await asyncio.sleep(CALM)
    before = {worker.process.pid: _sizes(worker) for worker in scene.workers}
    began = time.time()
    try:
        await act(scene)
    finally:
        scene.clear()
        await asyncio.to_thread(scene.cluster.heal)
    if crash:
        scene.crashes.append((began, time.time()))
    await asyncio.sleep(CALM)
    await scene.load.stop()
    try:
        report.healed = await scene.lag_gone()
        report.answers["I6 lag"] = ""
    except TimeoutError:
        report.answers["I6 lag"] = f"work is left {HEALED_WITHIN:.0f} s after healing"
    await scene.observer.stop()
    await _ask(scene, report, before, unready=unready)
    return report


async def _ask(scene: Scene, report: Report, before: dict[int, tuple[int, int, int]], *, unready: bool) -> None:
    results = await asyncio.to_thread(scene.observer.results, scene.stage.results)
    acknowledged = await asyncio.to_thread(scene.observer.located, scene.load.acknowledged)
    report.requests = len(acknowledged)
    report.answers["I1 lost"] = lost(acknowledged, results)
    report.repeats, report.answers["I2 repeats"] = repeated(results, scene.crashes)
    report.answers["I3 commits"] = skipped(acknowledged, results, scene.observer.samples)
    report.answers["I4 tables"] = await _tables(scene)
    if scene.settings.get("MILLRACE_ORDER") == "key":
        report.answers["I5 order"] = disordered(acknowledged, scene.load.keys, results)
    report.answers["I6 sizes"] = _grown(scene, before)
    report.answers["I7 truth"] = await _truth(scene, unready=unready)


def _sizes(worker: Worker) -> tuple[int, int, int]:
    process = psutil.Process(worker.process.pid)
    return process.num_threads(), process.num_fds(), process.memory_info().rss


def _grown(scene: Scene, before: dict[int, tuple[int, int, int]]) -> str:
    """I6: those that lived through it have not grown."""
    found = []
    for worker in scene.workers:
        if (then := before.get(worker.process.pid)) is not None:
            grown = [now - was for now, was in zip(_sizes(worker), then, strict=True)]
            if any(more > most for more, most in zip(grown, (THREADS, FILES, MEMORY), strict=True)):
                found.append(f"{grown[0]} threads, {grown[1]} files, {grown[2] >> 20} MiB more")
    return "; ".join(found)


async def _tables(scene: Scene) -> str:
    """I4: the tables are what an independent replay of the results adds up to."""
    try:
        await assert_equal_to_replay(scene.stage)
    except AssertionError as exc:
        return f"tables differ: {str(exc)[:200]}"
    return ""


async def _truth(scene: Scene, *, unready: bool) -> str:
    """I7: workers are ready in the end, were not when they could not be, and log no fault of their own."""
    found = []
    async with aiohttp.ClientSession() as session:
        for worker in scene.workers:
            async with session.get(f"{worker.url}/readyz?verbose") as response:
                if response.status != 200:
                    found.append(f"not ready in the end: {(await response.text())[:200]}")
    if unready and not any(status == 503 for _, _, status in scene.observer.samples.ready):
        found.append("no worker said that it was not ready")
    for worker in scene.stage.workers:
        found += [f"log: {line[:200]}" for line in worker.log if BLAME.search(line)][:1]
    return "; ".join(found)
