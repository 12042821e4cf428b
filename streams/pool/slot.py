"""A submitted check, and a process with the checks that it was given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from models.checks import CheckOutcome
from models.process import RESTING
from streams.pool.child import Child

RECYCLE_AFTER = 1_000
"""Batches of calls before a process is replaced, so that leaks of checks do not add up."""
RECYCLE_AGE = 60.0
"""Least age of a process before it is replaced, in seconds: starting one takes 0.15 s of CPU."""


class Job:
    """One submitted check. `size` is its size class, None if it is not small. `deaths` counts processes that ended
    while they ran it, `run_seconds` the time that it ran in them. `alone`: it is sent in a batch of its own.
    """

    __slots__ = ("alone", "call", "deaths", "done", "name", "run_seconds", "size")

    def __init__(self, name: str, value: Any, arguments: Mapping[str, Any], size: int | None) -> None:
        self.name = name
        self.call = name, value, arguments
        self.size = size
        self.deaths = 0
        self.run_seconds = 0.0
        self.alone = False
        self.done: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: CheckOutcome) -> None:
        """Set the outcome, unless the future is cancelled or done."""
        if not self.done.done():
            self.done.set_result(outcome)


class WorkerSlot:
    """A child, and the calls that it was given, by number and in order.

    `late`: its call takes long, so it gets no more. `overran`: it was killed for that. `retiring`: it ends once its
    calls are done. `suspect`: its call has ended a process before.
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        self.given: dict[int, Job] = {}
        self.batches = 0
        self.late = self.overran = self.retiring = self.suspect = False

    @property
    def idle(self) -> bool:
        """Whether it could run a call at once."""
        return not self.given and not self.retiring

    def is_old(self) -> bool:
        """Whether it is time to replace it."""
        return self.batches >= RECYCLE_AFTER and time.monotonic() - self.child.started > RECYCLE_AGE

    def take_last(self) -> tuple[Job | None, float | None]:
        """Remove and return the check during which the process ended, and the seconds since its start; None if unknown.

        If it is unknown, as outcomes were not sent or no call had started, all calls are sent alone from now on.
        """
        number, since = self.child.running()
        elapsed = None if number == RESTING else time.monotonic() - since
        if number not in self.given:
            for job in self.given.values():
                job.alone = True
            number = next(iter(self.given)) if len(self.given) == 1 else RESTING
        return self.given.pop(number, None), elapsed
