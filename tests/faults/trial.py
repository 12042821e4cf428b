"""One fault, done to a scene under load, and what came out of it: the answers to all questions."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

import aiohttp
import psutil

from tests.faults.fault import Fault
from tests.faults.history import Result, disordered, failed, lost, repeated, skipped, unlike
from tests.faults.scene import HEALED_WITHIN, WORKERS, Scene
from tests.integration.stage import Worker
from tests.integration.test_tables import assert_equal_to_replay

CALM = 3.0
"""Seconds of load before a fault and after it."""
THREADS, FILES, MEMORY = 12, 60, 120 << 20
"""By how much a worker that lives through a fault may have grown: threads, open files, bytes."""
BLAME = re.compile(r"Traceback|was never awaited|Event loop is closed|Task was destroyed|exception was never retrieved")
"""What no log of a worker may say, whatever happens."""
TRACE = 60
"""Lines of a log that are shown from where it says so."""
UPSTREAM_AFTER = 30.0
"""Seconds after a fault of the upstream in which requests may still fail: its breaker is to see that it is over."""


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
    fetches = await scene.fetches(healed)
    await scene.load.stop()
    report.ended += await scene.replace()
    try:
        await scene.lag_gone(max(1.0, healed + HEALED_WITHIN - time.time()))
        report.answers["I6 lag"] = ""
    except TimeoutError:
        report.answers["I6 lag"] = f"work is left {HEALED_WITHIN:.0f} s after healing"
    report.healed = time.time() - healed
    await scene.observer.stop()
    await _ask(scene, report, before, fault, (began, healed))
    wrong = [] if fetches else [f"nothing that is fetched was ok {HEALED_WITHIN:.0f} s after healing"]
    if scene.front is not None:
        wrong.append(await scene.front.wrong(began, HEALED_WITHIN, fails=bool(fault.logs)))
    report.answers["I7 truth"] = "; ".join(filter(None, (report.answers["I7 truth"], *wrong)))
    return report


async def _ask(
    scene: Scene,
    report: Report,
    before: dict[int, tuple[int, int, int]],
    fault: Fault,
    during: tuple[float, float],
) -> None:
    began, healed = during
    results = await asyncio.to_thread(scene.observer.results, scene.stage.results)
    acknowledged = scene.undeleted(await asyncio.to_thread(scene.observer.located, scene.load.acknowledged))
    known = [*acknowledged, *scene.load.former]
    report.requests = len(known)
    report.answers["I1 lost"] = lost(known, [*scene.former, *results], scene.load.nameless)
    samples = None if "I3 commits" in fault.unasked else scene.observer.samples
    report.repeats, report.answers["I2 repeats"] = repeated(results, scene.crashes, acknowledged, samples)
    if samples is not None:
        report.answers["I3 commits"] = skipped(acknowledged, results, samples)
    if "I4 tables" not in fault.unasked:
        report.answers["I4 tables"] = await differ(scene)
    if scene.settings.get("MILLRACE_ORDER") == "key":
        report.answers["I5 order"] = disordered(acknowledged, scene.load.keys, results)
    if any(worker.process.pid in before for worker in scene.workers):
        report.answers["I6 sizes"] = _grown(scene, before)
    hurt = [(began, healed + UPSTREAM_AFTER)] if fault.fails else []
    wrong = [await _truth(scene, fault, during), failed(results, hurt), unlike(results, fault.expected)]
    if not fault.crash:  # an answer that a crash kept from its topic has been counted
        wrong.append(await _miscounted(scene, results))
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


async def _truth(scene: Scene, fault: Fault, during: tuple[float, float]) -> str:
    """I7: workers are ready soon after healing, were not when they could not be, and log no fault of their own."""
    began, healed = during
    async with aiohttp.ClientSession() as session:
        texts = [await _unready(session, worker, healed + HEALED_WITHIN) for worker in scene.workers]
    found = [f"not ready in the end: {text[:400]}" for text in texts if text]
    if fault.unready and not any(
        status == 503 and began <= at <= healed for at, _, status in scene.observer.samples.ready
    ):
        found.append("no worker said that it was not ready")
    lines = (blamed(worker, fault.logs) for worker in scene.stage.workers)
    return "; ".join([*found, *(f"log: {line}" for line in lines if line)])


async def _miscounted(scene: Scene, results: list[Result]) -> str:
    """I7: metrics have counted as many results, and as many offsets that were deleted unread, as there are, as long as
    no worker has taken its count with it.
    """
    if scene.former or len(scene.all_workers) < len(scene.stage.workers):
        return ""
    answers = await scene.metric("millrace_answers_total")
    passed_over = await scene.metric("millrace_skipped_offsets_total")
    gone = sum(end - first for first, end in scene.deleted.values())
    found = [] if answers == len(results) else [f"metrics have {answers:.0f} answers, {len(results)} were read"]
    return "; ".join([*found, *([] if passed_over == gone else [f"{gone} were deleted, {passed_over:.0f} counted"])])


async def _unready(session: aiohttp.ClientSession, worker: Worker, until: float) -> str:
    """Wait until a worker is ready; return what it said if it did not get ready."""
    while True:
        async with session.get(f"{worker.url}/readyz?verbose") as response:
            status, text = response.status, await response.text()
        if status == 200 or time.time() > until:
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
