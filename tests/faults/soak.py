"""Break one set of workers and brokers at random for hours: `python -m tests.faults.soak --hours 1`.

The same three workers, brokers and topics live through all of it under steady load, as far as faults let them; one
worker is spared by what is done to workers, so that its sizes show what an hour does. What came out goes to
reports/soak-<seed>.csv and .svg.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import aiohttp
import psutil
from confluent_kafka import KafkaException

from agents.entry import EntryPoint
from tests.faults import outcome
from tests.faults.faults import FAULTS
from tests.faults.history import Observer
from tests.faults.levels import WARM, Sampler
from tests.faults.matrix import brokers
from tests.faults.outcome import Done
from tests.faults.scene import HEALED_WITHIN, WORKERS, NotHereError, Scene
from tests.integration.stage import Worker

CALM = 20.0
"""Seconds between a fault that is healed and the next."""
FAULT_LIMIT = 300.0
"""Seconds that doing a fault may take."""
SETTINGS = {"MILLRACE_ANSWERS_ROWS": "1000"}
"""The tables are full within the first minutes, so that it does not look like growth."""
REPORTS = Path("reports")


class Soaked(Scene):
    """A scene with a worker that no fault gets hold of."""

    spared: Worker | None = None
    entries = 1_000

    @property
    def workers(self) -> list[Worker]:
        return [worker for worker in super().workers if worker is not self.spared]


def deck(seed: int) -> Iterator[str]:
    """Yield faults for ever, by name: all that can be done to a scene that lives on in a random order, and again in
    another. The same seed yields the same.
    """
    names = [name for name, fault in FAULTS.items() if name != "nothing" and not fault.alone]
    draw = random.Random(seed)
    while True:
        yield from draw.sample(names, len(names))


class Soak:
    """`run` does faults for so many seconds; then `done`, `scene` and `sampler` have what is to be known."""

    def __init__(self, scene: Soaked, seed: int, seconds: float) -> None:
        self.scene = scene
        self.seed = seed
        self._seconds = seconds
        self.done: list[Done] = []
        self.sampler = Sampler(scene, self.name)
        self._tables = Observer(scene.cluster.servers, f"{scene.stage.group}-tables", scene.stage.results)

    def name(self, worker: Worker) -> str:
        """Return what a worker is called in the report."""
        return "spared" if worker is self.scene.spared else f"worker {self.scene.stage.workers.index(worker)}"

    async def run(self) -> None:
        """Do one fault after the other, with calm between."""
        scene = self.scene
        scene.spared = await scene.start()
        for _ in range(WORKERS):
            await scene.start()
        self.began = time.time()
        scene.load.start()
        scene.observer.start()
        if scene.front is not None:
            scene.front.start()
        self.sampler.start()
        await self._calm(WARM)
        for name in deck(self.seed):
            if time.time() >= self.began + self._seconds:
                break
            if await self._fault(name):
                print(self.done[-1].line(self.began), file=sys.stderr, flush=True)
                await self._calm(CALM)
        await scene.load.stop()

    async def finish(self) -> str:
        """Wait until nothing is left to do and take no more samples; return what is left."""
        try:
            await self.scene.lag_gone()
        except TimeoutError:
            return f"work is left {HEALED_WITHIN:.0f} s after the load's end"
        finally:
            self.ended = time.time()
            await self.scene.observer.stop()
            await self.sampler.stop()
        return ""

    async def _calm(self, seconds: float) -> None:
        self.sampler.calm = True
        await asyncio.sleep(seconds)
        self.sampler.calm = False

    async def _fault(self, name: str) -> bool:
        """Do one, and wait until all is well again; return whether this machine could do it."""
        scene, fault = self.scene, FAULTS[name]
        done = Done(name, time.time())
        self.done.append(done)
        try:
            async with asyncio.timeout(FAULT_LIMIT):
                await fault.act(scene)
        except NotHereError as exc:
            print(f"{name}: not done: {exc}", file=sys.stderr)
            self.done.remove(done)
            return False
        except Exception as exc:  # noqa: BLE001  an answer like any other
            done.problems.append(f"could not be done: {type(exc).__name__}: {str(exc)[:300]}")
            self._show(done)
        scene.clear()
        await asyncio.to_thread(scene.cluster.heal)
        done.healed = time.time()
        if fault.crash or done.problems:
            scene.crashes.append((done.began, done.healed))
        try:
            await self._staff(done)
            done.caught_up = await self._caught_up(done.healed)
            await self._locate()
        except Exception as exc:  # noqa: BLE001  likewise
            done.problems.append(f"not healed: {type(exc).__name__}: {str(exc)[:300]}")
            self._show(done)
        if fault.unready and not any(
            status == 503 and done.began <= at for at, _, status in scene.observer.samples.ready
        ):
            done.problems.append("no worker was seen not to be ready")
        scene.upstream.headers.clear()  # an hour of them is much memory
        return True

    def _show(self, done: Done) -> None:
        """Print what workers logged since a fault began: by the end of a soak nobody knows which lines it was."""
        traceback.print_exc()
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(done.began))
        for worker in self.scene.stage.workers:
            lines = itertools.dropwhile(lambda line: not line[:1].isdigit() or line < since, worker.log)
            print(f"{self.name(worker)}:", *lines, sep="\n", file=sys.stderr)

    async def _staff(self, done: Done) -> None:
        """Replace workers that ended by themselves, and bring their number to what it was."""
        scene = self.scene
        for worker in scene.gone():
            scene.crashes.append((done.began, done.healed))
            if not FAULTS[done.name].ends:
                done.problems.append(f"{self.name(worker)} ended by itself with {worker.process.returncode}")
        if scene.spared is not None and scene.spared.process.returncode is not None:
            scene.spared = await scene.start()
        while len(scene.workers) < WORKERS:
            await scene.start()
        for worker in scene.workers[WORKERS:]:
            await scene.end(worker)

    async def _caught_up(self, healed: float) -> float | None:
        """Wait until both groups have committed what was there when the fault was healed and all workers are ready;
        return when, or None if it took too long.
        """
        ends: dict[Observer, dict[int, int]] = {}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2.0)) as session:
            while time.time() < healed + HEALED_WITHIN:
                with contextlib.suppress(KafkaException, aiohttp.ClientError, TimeoutError):
                    for observer in (self.scene.observer, self._tables):
                        if observer not in ends:
                            ends[observer] = await asyncio.to_thread(observer.ends)
                    if await self._passed(ends) and await self._ready(session):
                        return time.time()
                await asyncio.sleep(0.5)
        return None

    async def _passed(self, ends: dict[Observer, dict[int, int]]) -> bool:
        for observer, there in ends.items():
            committed = await asyncio.to_thread(observer.committed)
            if any(committed.get(partition, 0) < end for partition, end in there.items()):
                return False
        return True

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        for worker in self.scene.all_workers:
            async with session.get(f"{worker.url}/readyz") as response:
                if response.status != 200:
                    return False
        return True

    async def _locate(self) -> None:
        """Look up requests without an offset while they are still in their topic."""
        acknowledged = self.scene.load.acknowledged
        without = {name: place for name, place in acknowledged.items() if place[1] is None}
        if without:
            acknowledged.update(await asyncio.to_thread(self.scene.observer.located, without))


def orphans(scene: Soaked) -> list[str]:
    """Return processes of workers that are gone."""
    tops = [psutil.Process(worker.process.pid) for worker in scene.all_workers]
    trees = {process.pid for top in tops for process in (top, *top.children(recursive=True))}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in trees and process.environ().get("MILLRACE_GROUP") == scene.stage.group:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return found


async def soak(seed: int, seconds: float, **settings: str) -> bool:
    """Run it and print what came out; return whether all is well."""
    async with brokers() as (cluster, proxies):
        with redirect_stdout(sys.stderr):  # the logs of workers; stdout is for the table
            async with Soaked(cluster, proxies, **SETTINGS, **settings) as scene:
                run = Soak(scene, seed, seconds)
                await run.run()
                left = await run.finish()
                report = await outcome.ask(run, left, await asyncio.to_thread(orphans, scene))
    name = REPORTS / f"soak-{seed}"
    report.write(name)
    print(report.text(f"make soak HOURS={seconds / 3600:g} ARGS='--seed {seed}'"))
    print(f"{name}.csv, {name}.svg", file=sys.stderr)
    return not report.violations


def hours(text: str) -> float:
    """Parse the option."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run it for as long as given; return 1 if a question has another answer than that all is well."""
    parser = EntryPoint("tests.faults.soak", __doc__)
    parser.add_argument("--hours", type=hours, default=1.0, help="how long; a fraction will do (default: 1)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="the same faults again")
    parser.add_argument("--order", action="store_true", help="with MILLRACE_ORDER=key, and the question about it")
    given = parser.begin(arguments)
    print(f"seed {given.seed}", file=sys.stderr, flush=True)
    order = {"MILLRACE_ORDER": "key"} if given.order else {}
    return int(not asyncio.run(soak(given.seed, given.hours * 3600, **order)))


if __name__ == "__main__":
    sys.exit(main())
