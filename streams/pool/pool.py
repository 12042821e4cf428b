"""The process pool that runs checks, so that they can neither block nor harm the worker.

Cheap checks are sent in batches, expensive and unknown ones alone. A check that runs too long is killed with its
process. If a process dies, the check that it was running is to blame, unless it was killed from outside; the others run
elsewhere. Checks that have ended a process wait in a queue of their own, and leave a process for the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Self

from models import checks
from models.checks import CheckOutcome
from models.process import RESTING
from streams.config.settings import CHECK_TIMEOUT
from streams.pool.child import NumberedOutcome, encode
from streams.pool.costs import Admission, Costs, size_of
from streams.pool.quarantine import Quarantine, exit_reason
from streams.pool.workers import Job, Workers, WorkerSlot

logger = logging.getLogger(__name__)

MAX_BATCH = 64
"""Most checks in a batch."""
MAX_BATCH_SECONDS = 0.002
"""Most work in a batch, in seconds; a check that takes longer is sent alone."""
MAX_BATCH_BYTES = 1 << 20
"""Most bytes in a batch; a larger check is sent alone."""
AHEAD_SECONDS = 0.05
"""Most work, in seconds, that a busy process is given in advance, so that it need not wait for the worker."""
LATE = 0.2
"""Seconds after which checks that wait behind a running one, or in a hung process, are given to other processes."""
TICK = 0.05
"""Seconds between two looks at the running checks."""

OVERRAN = "ran longer than"
"""Beginning of the error of a check that ran too long."""
COUNTED = {
    "checks": "checks submitted",
    "inline": "checks run in the worker itself",
    "batches": "batches of checks sent to a process",
    "failed": "checks that raised, or returned an invalid value",
    "timeouts": "checks that ran too long and were killed",
    "crashes": "checks that ended their process",
    "repeated": "checks given to another process because theirs ended or was late",
    "ended": "processes that ended unexpectedly",
    "recycled": "processes replaced for their age or for lack of memory",
    "unstarted": "processes that did not start",
}
"""Every name in `CheckPool.counts`, and what it counts."""


class CheckPool:
    """Opened with `async with`; raises SettingsError if its processes do not start. `plugins` is what they import."""

    def __init__(self, processes: int, plugins: Sequence[str] = ()) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.costs = Costs()
        self.admission = Admission(self.costs, processes)
        self._workers = Workers(
            processes, plugins, self.counts, on_outcomes=self._take_back, on_lost=self._lost, on_change=self._changed
        )
        self._waiting: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._quarantine = Quarantine()
        self._numbers = count(1)
        self._pumping = False
        self._ticking: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._workers.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        given = [job for slot in self._workers for job in slot.given.values()]
        for job in (*self._waiting, *self._suspects, *given):
            job.done.cancel()
        await self._workers.close()

    # -- submitting checks

    @property
    def queued(self) -> int:
        """Return how many checks wait for a process."""
        return len(self._waiting) + len(self._suspects)

    def health(self) -> str:
        """Return "ok", or why no check can be run."""
        return self._workers.health()

    def stats(self) -> dict[str, Any]:
        """Return the pool's figures."""
        return {
            "processes": self._workers.size,
            "alive": len(self._workers.slots),
            "queued": self.queued,
            "running": sum(len(slot.given) for slot in self._workers),
            "promised_seconds": round(self.admission.promised, 3),
            "hand_over_us": round(self.costs.hand_over * 1e6, 1),
            **self.counts,
        }

    def submit(self, name: str, value: Any, arguments: Mapping[str, Any]) -> asyncio.Future[CheckOutcome]:
        """Submit a check; the future always ends with an outcome, unless it is cancelled."""
        self.counts["checks"] += 1
        size = size_of(value, arguments) if checks.find(name).inline else None
        job = Job(name, value, arguments, size)
        if self.costs.is_cheap(name, size):
            self._run_here(job)
            return job.done
        (self._suspects if name in self._quarantine else self._waiting).append(job)
        self._pump_soon()
        return job.done

    def work(self, task: str, content: bytes, arguments: Sequence[Any]) -> asyncio.Future[CheckOutcome]:
        """Submit work on a large value (`models/large.py`), which is sent alone; its outcome has bytes as its value."""
        job = Job(task, tuple(arguments), {}, None)
        job.content, job.alone = content, True
        self._waiting.append(job)
        self._pump_soon()
        return job.done

    def _run_here(self, job: Job) -> None:
        outcome = checks.run(*job.call)
        self.counts["inline"] += 1
        self._settle(job, outcome)

    def _settle(self, job: Job, outcome: CheckOutcome) -> None:
        self.costs.add(job.name, job.size, outcome.elapsed)
        self.counts["failed"] += outcome.error is not None
        job.settle(outcome)

    # -- assigning checks to processes

    def _pump_soon(self) -> None:
        """Assign checks that are submitted in one turn of the event loop together."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._workers.closed:
            return
        for queue in (self._waiting, self._suspects):
            while queue and queue[0].done.done():  # its request ran out of time
                queue.popleft()
        self._pump_suspects()
        idle = [slot for slot in self._workers if slot.idle]
        while self._waiting and idle:
            self._give(idle.pop(), -(-len(self._waiting) // (len(idle) + 1)))
        for slot in self._workers.slots if self._waiting else ():
            if len(slot.given) < MAX_BATCH and not (slot.late or slot.retiring or slot.suspect):
                self._give_ahead(slot)
        if self._ticking is None and any(slot.given for slot in self._workers):
            self._ticking = self._loop.call_later(TICK, self._tick)

    def _pump_suspects(self) -> None:
        """Send suspects one by one; they leave a process for the rest, unless the pool has only one."""
        left = min(1, self._workers.size - 1)
        while self._suspects and sum(not slot.suspect for slot in self._workers) > left:
            slot = next((slot for slot in self._workers if slot.idle), None)
            if slot is None:
                return
            slot.suspect = True
            self._send(slot, [self._suspects.popleft()])

    def _give_ahead(self, slot: WorkerSlot) -> None:
        if self._waiting and not self._waiting[0].alone:
            work = sum(self.costs.expected(job.name) for job in (*slot.given.values(), self._waiting[0]))
            if work <= AHEAD_SECONDS:
                self._give(slot, MAX_BATCH)

    def _give(self, slot: WorkerSlot, most: int) -> None:
        """Give a child a batch from the head of the queue, at least one check."""
        jobs: list[Job] = []
        seconds = 0.0
        while self._waiting and len(jobs) < min(most, MAX_BATCH):
            job = self._waiting[0]
            seconds += self.costs.expected(job.name)
            if jobs and (job.alone or seconds > MAX_BATCH_SECONDS):
                break
            self._waiting.popleft()
            if not job.done.done():
                jobs.append(job)
                if job.alone:
                    break
        self._send(slot, jobs)

    def _send(self, slot: WorkerSlot, jobs: Sequence[Job]) -> None:
        """Encode and send; checks that do not fit go back to the head of the queue."""
        began = time.thread_time()
        calls: list[tuple[int, bytes]] = []
        room = MAX_BATCH_BYTES
        for index, job in enumerate(jobs):
            if room <= 0:
                self._waiting.extendleft(reversed(jobs[index:]))
                break
            try:
                call = encode(job.call)
            except Exception as exc:  # noqa: BLE001  a plugin's schema may return values that raise anything
                job.settle(CheckOutcome(error=f"its value cannot be pickled: {type(exc).__name__}: {exc}"[:400]))
                continue
            room -= len(call)
            number = next(self._numbers)
            slot.given[number] = job
            calls.append((number, call))
        if not calls:
            slot.suspect = False
            self._pump_soon()
            return
        slot.batches += 1
        self.counts["batches"] += 1
        slot.child.send(calls, jobs[0].content)
        self.costs.handed_over(time.thread_time() - began, len(calls))

    def _take_back(self, slot: WorkerSlot, outcomes: Sequence[NumberedOutcome], began: float) -> None:
        slot.late = False
        for number, outcome in outcomes:
            job = slot.given.pop(number, None)
            if job is None:
                continue
            self._settle(job, outcome)
            if outcome.error is not None and outcome.error.startswith("MemoryError"):
                self._workers.retire(slot)
        if not slot.given:
            slot.suspect = False
            if slot.retiring or slot.is_old():
                self._workers.retire(slot)
        self._pump_soon()
        self.costs.took_back(time.thread_time() - began, len(outcomes))

    # -- checks and processes that fail

    def _tick(self) -> None:
        """Kill checks that run too long, and give the checks behind them to other processes."""
        self._ticking = None
        now = time.monotonic()
        for slot in self._workers:
            if not slot.given:
                continue
            number, since = slot.child.running()
            since = slot.child.sign_of_life if number == RESTING else since
            if now - since > CHECK_TIMEOUT:
                slot.overran = True
                slot.child.kill()
            elif now - since > LATE and not slot.late:
                slot.late = True
                behind = [job for each, job in slot.given.items() if each != number]
                self._repeat(behind)
        if any(slot.given for slot in self._workers):
            self._ticking = self._loop.call_later(TICK, self._tick)

    def _repeat(self, jobs: Iterable[Job]) -> None:
        """Put checks back at the head of their queue."""
        for job in reversed(list(jobs)):
            if not job.done.done():
                self.counts["repeated"] += 1
                (self._suspects if job.name in self._quarantine else self._waiting).appendleft(job)
        self._pump_soon()

    def _changed(self) -> None:
        """A process has started, or cannot."""
        if self._workers.health() != "ok":
            jobs = [*self._suspects, *self._waiting]
            self._suspects.clear()
            self._waiting.clear()
            for job in jobs:
                job.settle(CheckOutcome(error=self.health()))
        self._pump_soon()

    def _lost(self, slot: WorkerSlot, code: int) -> None:
        """A process has ended: its checks go to others; the one that was running is blamed, or runs again."""
        job, elapsed = slot.take_last()
        self._repeat(slot.given.values())
        if job is None:
            logger.warning("an idle process of the check pool ended: %s", exit_reason(code))
            return
        job.deaths += 1
        job.alone = True
        job.run_seconds += elapsed or 0.0
        guilty = self._quarantine.is_guilty(job, code, ran=elapsed is not None)
        if slot.overran and (elapsed is not None or guilty):
            self._blame(job, "timeouts", f"{OVERRAN} {CHECK_TIMEOUT:g} s", elapsed or 0.0)
        elif slot.child.sent_garbage:
            self._blame(job, "crashes", "ended its process: wrote to the socket of the pool", elapsed or 0.0)
        elif guilty:
            self._blame(job, "crashes", f"ended its process: {exit_reason(code)}", elapsed or 0.0)
        else:
            self._repeat([job])

    def _blame(self, job: Job, kind: str, reason: str, elapsed: float) -> None:
        self.counts[kind] += 1
        self.costs.add(job.name, job.size, elapsed)
        self._quarantine.add(job.name)
        logger.warning("check %s %s", job.name, reason)
        job.settle(CheckOutcome(error=reason, elapsed=elapsed))
