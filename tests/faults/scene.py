"""What a fault is done to: workers, brokers, the network between them and the upstream, load and observer."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
import psutil

from tests.faults.cluster import Cluster
from tests.faults.front import front
from tests.faults.history import Observer, Result, disordered, failed, lost, repeated, skipped
from tests.faults.load import Load
from tests.faults.proxy import Proxy, Weather
from tests.faults.upstream import BadUpstream
from tests.integration.memcached import Memcached
from tests.integration.stage import Stage, Worker
from tests.integration.test_tables import assert_equal_to_replay, until_counted

if TYPE_CHECKING:
    from tests.faults.fault import Fault

T = TypeVar("T")
WORKERS = 2
CALM = 3.0
"""Seconds of load before a fault and after it."""
HEALED_WITHIN = 60.0
"""Seconds after a fault by which nothing may be left to do."""
THREADS, FILES, MEMORY = 12, 60, 120 << 20
"""By how much a worker that lives through a fault may have grown: threads, open files, bytes."""
BLAME = re.compile(r"Traceback|was never awaited|Event loop is closed|Task was destroyed|exception was never retrieved")
"""What no log of a worker may say, whatever happens."""
TRACE = 60
"""Lines of a log that are shown from where it says so."""


@dataclass
class Report:
    """What came out of one fault: an answer to each question, empty where all is well, and figures."""

    name: str
    answers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    repeats: int = 0
    healed: float = 0.0
    """Seconds until nothing was left to do."""
    ended: int = 0
    """Workers that ended by themselves."""
    skipped: str = ""
    """Why this machine could not do it."""

    @property
    def violations(self) -> dict[str, str]:
        """Return the questions with another answer than that all is well."""
        return {question: answer for question, answer in self.answers.items() if answer}


class NotHereError(Exception):
    """This machine cannot do the fault; the message says what it lacks."""


def need_root() -> None:
    """Raise NotHereError unless the process may mount."""
    if os.geteuid() != 0:
        msg = "needs root"
        raise NotHereError(msg)


class Scene:
    """Opened with `async with`, one for each fault.

    `settings`, `command` and `hosts` are what workers are started with. `kept` is where a fault's entries or rows are,
    and `stores` whether each worker has its tables below. `crashes` are the times at which repeats may have their
    cause; `former` are results of a topic that is gone.
    """

    def __init__(self, cluster: Cluster, proxies: list[Proxy], **settings: str) -> None:
        self.cluster = cluster
        self.proxies = proxies
        self.settings = settings
        self.command: tuple[str, ...] = ()
        self.hosts: Path | None = None
        self.kept = Path()
        self.stores = False
        self.crashes: list[tuple[float, float]] = []
        self.former: list[Result] = []
        self._stores: dict[int, Path] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.upstream = await self.open(BadUpstream())
        self.memcached = await self.open(Memcached())
        self.gate = await self.open(Proxy(int(self.upstream.url.rpartition(":")[2])))
        host, port = self.memcached.address
        self.settings = {
            "KAFKA_BOOTSTRAP_SERVERS": self.cluster.advertised,
            "MILLRACE_ROLE": "all",
            "MILLRACE_CACHE": f"memory://?entries=100 memcached://{host}:{port}",
        } | self.settings
        self.stage = await self.open(Stage(self.cluster.servers, settings=self.settings, replication=3))
        await self.stage.create_topics()
        self.load = Load(self.cluster.servers, self.stage.requests, f"http://127.0.0.1:{self.gate.port}")
        self.observer = Observer(self.cluster.servers, self.stage.group, self.stage.requests)
        self.front = None if (opened := front()) is None else await self.open(opened)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.observer.stop()
        await self._stack.aclose()

    async def open(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter something that is left when the scene is."""
        return await self._stack.enter_async_context(context)

    def folder(self) -> Path:
        """Return an empty folder that goes with the scene."""
        name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-fault-"))
        return Path(name)

    def after(self, act: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do something when the scene is over."""
        self._stack.push_async_callback(act, *arguments)

    @property
    def workers(self) -> list[Worker]:
        """Return the workers that live and that faults get hold of."""
        return self.all_workers

    async def start(self, *, store: Path | None = None) -> Worker:
        """Start a worker, and watch it. Its tables are in `store`, or in a new folder if workers have one each."""
        settings = {}
        if self.stores:
            store = store or self.kept / str(len(self.stage.workers))
            settings["MILLRACE_STORE"] = f"rocksdb://{store}"
        worker = await self.stage.start(*self.command, **settings)
        if store is not None:
            self._stores[worker.process.pid] = store
        self.observer.urls.append(worker.url)
        self._lead()
        return worker

    def _lead(self) -> None:
        """Have nginx lead to the workers that live."""
        if self.front is not None:
            self.front.lead_to(self.all_workers)

    @property
    def all_workers(self) -> list[Worker]:
        """Return the workers that live, also those that no fault gets hold of."""
        return [worker for worker in self.stage.workers if worker.process.returncode is None]

    def store_of(self, worker: Worker) -> Path:
        """Return the folder of a worker's tables."""
        return self._stores[worker.process.pid]

    def gone(self) -> list[Worker]:
        """Return workers that ended by themselves since this was called, and look no more whether they are ready."""
        ended = [worker for worker in self.stage.workers if worker.url in self.observer.urls
                 and worker.process.returncode is not None]  # fmt: skip
        for worker in ended:
            self.observer.urls.remove(worker.url)
        return ended

    async def replace(self) -> int:
        """Start a worker for each that ended by itself, as a scheduler does, and return how many these are."""
        ended = self.gone()
        for _ in ended:
            self.crashes.append((0.0, time.time()))  # when is not known
            await self.start()
        return len(ended)

    async def end(self, worker: Worker, *, kill: bool = False) -> None:
        """Stop a worker, or kill it, and look no more whether it is ready."""
        if worker.url in self.observer.urls:  # one that was slow to become ready is not watched yet
            self.observer.urls.remove(worker.url)
        began = time.time()
        worker.kill() if kill else worker.terminate()
        code = await worker.ended()
        self._lead()
        if kill:
            self.crashes.append((began, time.time()))
        else:
            assert code == 0, f"a worker that was to stop ended with {code}"

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


async def run(scene: Scene, name: str, fault: Fault) -> Report:
    """Do one fault under load and ask every question."""
    report = Report(name)
    if fault.prepare is not None:
        await fault.prepare(scene)
    for _ in range(WORKERS):
        await scene.start()
    scene.load.start()
    scene.observer.start()
    if scene.front is not None:
        scene.front.start()
        await scene.front.until_rows(HEALED_WITHIN)
    await asyncio.sleep(CALM)
    before = {worker.process.pid: _sizes(worker) for worker in scene.workers}
    began = time.time()
    try:
        await fault.act(scene)
    finally:
        scene.clear()
        await asyncio.to_thread(scene.cluster.heal)
    healed = time.time()
    if fault.crash:
        scene.crashes.append((began, healed))
    report.ended = await scene.replace()
    await asyncio.sleep(CALM)
    await scene.load.stop()
    report.ended += await scene.replace()
    try:
        report.healed = await scene.lag_gone()
        report.answers["I6 lag"] = ""
    except TimeoutError:
        report.answers["I6 lag"] = f"work is left {HEALED_WITHIN:.0f} s after healing"
    await scene.observer.stop()
    await _ask(scene, report, before, fault, healed + HEALED_WITHIN)
    wrong = ""
    if scene.front is not None:
        patience = 0.0 if fault.says else HEALED_WITHIN  # what only an operator can put right has not all rows before
        wrong = await scene.front.wrong(began, patience, fails=bool(fault.logs))
    if wrong:
        report.answers["I7 truth"] = "; ".join(filter(None, (report.answers["I7 truth"], wrong)))
    return report


async def _ask(
    scene: Scene, report: Report, before: dict[int, tuple[int, int, int]], fault: Fault, until: float
) -> None:
    results = await asyncio.to_thread(scene.observer.results, scene.stage.results)
    acknowledged = await asyncio.to_thread(scene.observer.located, scene.load.acknowledged)
    report.requests = len(acknowledged) + len(scene.load.former)
    report.answers["I1 lost"] = lost([*acknowledged, *scene.load.former], [*scene.former, *results])
    report.repeats, report.answers["I2 repeats"] = repeated(results, scene.crashes)
    if "I3 commits" not in fault.unasked:
        report.answers["I3 commits"] = skipped(acknowledged, results, scene.observer.samples)
    if "I4 tables" not in fault.unasked:
        report.answers["I4 tables"] = await differ(scene)
    if scene.settings.get("MILLRACE_ORDER") == "key":
        report.answers["I5 order"] = disordered(acknowledged, scene.load.keys, results)
    report.answers["I6 sizes"] = _grown(scene, before)
    wrong = [await _truth(scene, fault, until), "" if fault.fails else failed(results)]
    if report.ended and not fault.ends:
        wrong.append(f"{report.ended} workers ended by themselves")
    report.answers["I7 truth"] = "; ".join(each for each in wrong if each)


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


async def differ(scene: Scene) -> str:
    """I4: the tables are what an independent replay of the results adds up to."""
    try:
        await assert_equal_to_replay(scene.stage)
    except AssertionError as exc:
        return f"tables differ: {str(exc)[:200]}"
    return ""


async def _truth(scene: Scene, fault: Fault, until: float) -> str:
    """I7: workers are ready by then, were not when they could not be, and log no fault of their own."""
    found, said = [], False
    async with aiohttp.ClientSession() as session:
        for worker in scene.workers:
            text = await _unready(session, worker, fault.says, until)
            says = bool(fault.says) and fault.says in text
            said |= says
            if text and not says:
                found.append(f"not ready in the end: {text[:400]}")
    if fault.says and not said:
        found.append(f"no worker says in the end: {fault.says}")
    if fault.unready and not any(status == 503 for _, _, status in scene.observer.samples.ready):
        found.append("no worker said that it was not ready")
    lines = (blamed(worker, fault.logs) for worker in scene.stage.workers)
    return "; ".join([*found, *(f"log: {line}" for line in lines if line)])


async def _unready(session: aiohttp.ClientSession, worker: Worker, says: str, until: float) -> str:
    """Wait until a worker is ready, or says this of itself; return what it said if it did not get ready."""
    while True:
        async with session.get(f"{worker.url}/readyz?verbose") as response:
            status, text = response.status, await response.text()
        if (status == 200 and not says) or (says and says in text) or time.time() > until:
            return "" if status == 200 else text
        await asyncio.sleep(0.25)


def blamed(worker: Worker, natural: str = "") -> str:
    """Return what a log says that none may, and print it with what follows; empty if it says nothing of the kind.
    Traces that end in something `natural`, a pattern, are what a fault does to anybody.
    """
    for place in (place for place, line in enumerate(worker.log) if BLAME.search(line)):
        lines = worker.log[place : place + TRACE]
        trace = next((number for number, line in enumerate(lines[:3]) if line.startswith("Traceback")), 0)
        fault = next((line for line in lines[trace:] if not line.startswith((" ", "Traceback"))), lines[-1])[:200]
        if not natural or not re.match(natural, fault):
            print("blamed:", *lines, sep="\n")
            return fault
    return ""
