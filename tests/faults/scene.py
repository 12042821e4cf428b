"""What a fault is done to: workers, brokers, the network between them and the upstream, load and observer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from confluent_kafka import KafkaException

from tests.faults.cluster import Cluster
from tests.faults.front import front
from tests.faults.history import (
    STEADY,
    Observer,
    Result,
)
from tests.faults.load import Load
from tests.faults.proxy import Proxy, Weather
from tests.faults.upstream import BadUpstream
from tests.integration.memcached import Memcached
from tests.integration.stage import Stage, Worker
from tests.integration.test_tables import until_counted

T = TypeVar("T")
WORKERS = 2
HEALED_WITHIN = 60.0
"""Seconds after a fault by which nothing may be left to do."""


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
    cause; `former` are results of a topic that is gone, `deleted` requests that were before any worker read them, each
    partition's from an offset to another. `draw` is what chance a fault needs: the same in each run.
    """

    entries = 100
    """How many the first tier of the cache has."""

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
        self.deleted: dict[int, tuple[int, int]] = {}
        self.draw = random.Random(0)
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
            "MILLRACE_CACHE": f"memory://?entries={self.entries} memcached://{host}:{port}",
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

    async def roll(self) -> None:
        """Replace each worker in turn: a new one first, then the old one ends."""
        for worker in self.workers:
            await self.start()
            await self.end(worker)

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

    async def lag_gone(self, seconds: float = HEALED_WITHIN) -> None:
        """Wait until both groups have done all there is. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            left = True
            while left:
                with contextlib.suppress(KafkaException):
                    left = bool(await self.observer.lag())
                await asyncio.sleep(0.25)
            await until_counted(self.stage)

    def undeleted(self, acknowledged: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Return the requests but for those that were deleted before any worker read them."""
        nowhere = (0, 0)
        return {name: (partition, offset) for name, (partition, offset) in acknowledged.items()
                if not (gap := self.deleted.get(partition, nowhere))[0] <= offset < gap[1]}  # fmt: skip

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's values over all workers that live, whatever their labels."""
        found = 0.0
        async with aiohttp.ClientSession() as session:
            for worker in self.all_workers:
                async with session.get(f"{worker.url}/metrics") as response:
                    lines = (await response.text()).splitlines()
                found += sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))
        return found

    async def fetches(self, since: float) -> bool:
        """Wait until a request that was sent since then, and that no cache can answer, comes to something; return
        whether it did in time.
        """
        while time.time() < since + HEALED_WITHIN:
            found: list[Result] = []
            with contextlib.suppress(KafkaException):  # a leader that has just come back does not know the end yet
                found = await asyncio.to_thread(self.observer.results, self.stage.results)
            for each in found:
                steady = STEADY.fullmatch(each.request_id)
                alone = steady is not None and int(steady[1]) % 2 == 0
                if alone and each.outcome == "ok" and self.load.sent[each.request_id] > since:
                    return True
            await asyncio.sleep(1)
        return False
