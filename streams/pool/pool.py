"""The process pool that runs checks, so that they can neither hold up nor harm the worker.

Cheap checks travel together, dear and unknown ones alone. A check that runs too long is ended with its process, and one
whose process dies is to blame for that unless it was killed from outside: the shared page says which one was running.
All others of that process run elsewhere. Checks that have ended a process wait in a queue of their own and leave a
process for the rest.
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
from streams.pool.admission import Admission
from streams.pool.child import Heard, encode
from streams.pool.costs import Costs, size_of
from streams.pool.quarantine import Quarantine, exit_reason
from streams.pool.slot import Job, WorkerSlot
from streams.pool.workers import Workers

logger = logging.getLogger(__name__)

TOGETHER = 64
"""Checks that travel together at most."""
TOGETHER_SECONDS = 0.002
"""Seconds of work that travels together at most; one check may take longer, and then travels alone."""
TOGETHER_BYTES = 1 << 20
"""Bytes that travel together at most; one check may have more, and then travels alone."""
AHEAD_SECONDS = 0.05
"""Seconds of work that a busy process is given ahead at most, so that it need not wait for us in between."""
LATE = 0.2
"""Seconds after which what waits behind a running check, or in a process that does nothing, is given to others."""
TICK = 0.05
"""Seconds between two looks at what runs."""

OVERRAN = "ran longer than"
"""How the reason begins of a check that took too long."""
COUNTED = {
    "checks": "checks asked for",
    "inline": "checks run in the worker itself",
    "batches": "times that a process was given something to do",
    "failed": "checks that raised, or returned what cannot be told",
    "timeouts": "checks that ran too long and were ended",
    "crashes": "checks that ended their process",
    "repeated": "checks given to another process because theirs ended or was late",
    "ended": "processes that ended other than by our wish",
    "recycled": "processes replaced because of their age or a lack of memory",
    "unstarted": "processes that did not start",
}
"""Every name in `CheckPool.counts` and what it counts."""


class CheckPool:
    """Opened with `async with`; raises SettingsError if its processes do not start. `plugins` is what they import."""

    def __init__(self, processes: int, plugins: Sequence[str] = ()) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.costs = Costs()
        self.admission = Admission(self.costs, processes)
        self._workers = Workers(
            processes, plugins, self.counts, heard=self._heard, lost=self._lost, changed=self._changed
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
        given = [job for seat in self._workers for job in seat.given.values()]
        for job in (*self._waiting, *self._suspects, *given):
            job.done.cancel()
        await self._workers.close()

    # -- what is asked

    @property
    def queued(self) -> int:
        """Return how many checks wait for a process."""
        return len(self._waiting) + len(self._suspects)

    def health(self) -> str:
        """Return "ok", or why no check can be run."""
        return self._workers.health()

    def stats(self) -> dict[str, Any]:
        """Return what there is to know of the pool."""
        return {
            "processes": self._workers.size,
            "alive": len(self._workers.slots),
            "queued": self.queued,
            "running": sum(len(seat.given) for seat in self._workers),
            "promised_seconds": round(self.admission.promised, 3),
            "hand_over_us": round(self.costs.hand_over * 1e6, 1),
            **self.counts,
        }

    def submit(self, name: str, value: Any, arguments: Mapping[str, Any]) -> asyncio.Future[CheckOutcome]:
        """Ask for one check; the future always ends with a verdict, unless it is cancelled."""
        self.counts["checks"] += 1
        size = size_of(value, arguments) if checks.find(name).inline else None
        job = Job(name, value, arguments, size)
        if self.costs.is_cheap(name, size):
            self._run_here(job)
            return job.done
        (self._suspects if name in self._quarantine else self._waiting).append(job)
        self._pump_soon()
        return job.done

    def work(self, task: str, arguments: Sequence[Any]) -> asyncio.Future[CheckOutcome]:
        """Ask for work on a large value (`models/large.py`), which travels alone; the verdict's value is bytes."""
        job = Job(task, tuple(arguments), {}, None)
        job.alone = True
        self._waiting.append(job)
        self._pump_soon()
        return job.done

    def _run_here(self, job: Job) -> None:
        verdict = checks.run(*job.call)
        self.counts["inline"] += 1
        self._note(job, verdict)
        job.settle(verdict)

    def _note(self, job: Job, verdict: CheckOutcome) -> None:
        self.costs.add(job.name, job.size, verdict.elapsed)
        self.counts["failed"] += verdict.error is not None

    # -- who runs it

    def _pump_soon(self) -> None:
        """What is asked for in one turn of the event loop is looked at together."""
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
        idle = [seat for seat in self._workers if seat.idle]
        while self._waiting and idle:
            self._give(idle.pop(), -(-len(self._waiting) // (len(idle) + 1)))
        for seat in self._workers.slots if self._waiting else ():
            if len(seat.given) < TOGETHER and not (seat.late or seat.retiring or seat.suspect):
                self._give_ahead(seat)
        if self._ticking is None and any(seat.given for seat in self._workers):
            self._ticking = self._loop.call_later(TICK, self._tick)

    def _pump_suspects(self) -> None:
        """Suspects go one by one, and leave a process for the rest unless the pool is of one."""
        left = min(1, self._workers.size - 1)
        while self._suspects and sum(not seat.suspect for seat in self._workers) > left:
            seat = next((seat for seat in self._workers if seat.idle), None)
            if seat is None:
                return
            seat.suspect = True
            self._send(seat, [self._suspects.popleft()])

    def _give_ahead(self, seat: WorkerSlot) -> None:
        if self._waiting and not self._waiting[0].alone:
            work = sum(self.costs.expected(job.name) for job in (*seat.given.values(), self._waiting[0]))
            if work <= AHEAD_SECONDS:
                self._give(seat, TOGETHER)

    def _give(self, seat: WorkerSlot, most: int) -> None:
        """Give a child the head of the queue: as much as may travel together, at least one check."""
        jobs: list[Job] = []
        seconds = 0.0
        while self._waiting and len(jobs) < min(most, TOGETHER):
            job = self._waiting[0]
            seconds += self.costs.expected(job.name)
            if jobs and (job.alone or seconds > TOGETHER_SECONDS):
                break
            self._waiting.popleft()
            if not job.done.done():
                jobs.append(job)
                if job.alone:
                    break
        self._send(seat, jobs)

    def _send(self, seat: WorkerSlot, jobs: Sequence[Job]) -> None:
        """Encode and send; what does not fit any more goes back to the head of the queue."""
        began = time.thread_time()
        calls: list[tuple[int, bytes]] = []
        room = TOGETHER_BYTES
        for place, job in enumerate(jobs):
            if room <= 0:
                self._waiting.extendleft(reversed(jobs[place:]))
                break
            try:
                call = encode(job.call)
            except Exception as exc:  # noqa: BLE001  what a plugin's schema made is no plain value
                job.settle(CheckOutcome(error=f"its value cannot be handed over: {type(exc).__name__}: {exc}"[:400]))
                continue
            room -= len(call)
            number = next(self._numbers)
            seat.given[number] = job
            calls.append((number, call))
        if not calls:
            seat.suspect = False
            self._pump_soon()
            return
        seat.batches += 1
        self.counts["batches"] += 1
        seat.child.send(calls)
        self.costs.handed_over(time.thread_time() - began, len(calls))

    def _heard(self, seat: WorkerSlot, verdicts: Sequence[Heard], began: float) -> None:
        seat.late = False
        for number, verdict in verdicts:
            job = seat.given.pop(number, None)
            if job is None:
                continue
            self._note(job, verdict)
            job.settle(verdict)
            if verdict.error is not None and verdict.error.startswith("MemoryError"):
                self._workers.retire(seat)
        if not seat.given:
            seat.suspect = False
            if seat.retiring or seat.is_old():
                self._workers.retire(seat)
        self._pump_soon()
        self.costs.took_back(time.thread_time() - began, len(verdicts))

    # -- what goes wrong

    def _tick(self) -> None:
        """End what runs too long, and have others do what waits behind it."""
        self._ticking = None
        now = time.monotonic()
        for seat in self._workers:
            if not seat.given:
                continue
            number, since = seat.child.running()
            since = seat.child.sign_of_life if number == RESTING else since
            if now - since > CHECK_TIMEOUT:
                seat.overran = True
                seat.child.kill()
            elif now - since > LATE and not seat.late:
                seat.late = True
                behind = [job for each, job in seat.given.items() if each != number]
                self._repeat(behind)
        if any(seat.given for seat in self._workers):
            self._ticking = self._loop.call_later(TICK, self._tick)

    def _repeat(self, jobs: Iterable[Job]) -> None:
        """Put checks back at the head of their queue."""
        for job in reversed(list(jobs)):
            if not job.done.done():
                self.counts["repeated"] += 1
                (self._suspects if job.name in self._quarantine else self._waiting).appendleft(job)
        self._pump_soon()

    def _changed(self) -> None:
        """A process has come, or cannot."""
        if self._workers.health() != "ok":
            jobs = [*self._suspects, *self._waiting]
            self._suspects.clear()
            self._waiting.clear()
            for job in jobs:
                job.settle(CheckOutcome(error=self.health()))
        self._pump_soon()

    def _lost(self, seat: WorkerSlot, code: int) -> None:
        """A process has ended: others do what it was given; the check that was running is blamed, or runs again."""
        job, elapsed = seat.take_last()
        self._repeat(seat.given.values())
        if job is None:
            logger.warning("a process that runs checks ended while it ran none: %s", exit_reason(code))
            return
        job.deaths += 1
        job.alone = True
        job.spent += elapsed or 0.0
        guilty = self._quarantine.is_guilty(job, code, ran=elapsed is not None)
        if seat.overran and (elapsed is not None or guilty):
            self._blame(job, "timeouts", f"{OVERRAN} {CHECK_TIMEOUT:g} s", elapsed or 0.0)
        elif seat.child.sent_garbage:
            self._blame(job, "crashes", "ended its process: wrote where only verdicts go", elapsed or 0.0)
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
