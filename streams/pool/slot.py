"""A check asked for, and a process at work on some."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from models.checks import CheckOutcome
from models.process import RESTING
from streams.pool.child import Child

RECYCLE_AFTER = 1_000
"""Times that a process is given something to do before it is replaced, so that what checks leak does not add up."""
RECYCLE_AGE = 60.0
"""Seconds that a process lives at least before it is recycled: starting one takes 0.15 s of CPU."""


class Job:
    """One check asked for. `size` is its class of sizes, None for one that is not small. `deaths` processes have ended
    while they ran it, after `spent` seconds together. `alone`: it may have ended a process, and travels with no other.
    """

    __slots__ = ("alone", "call", "deaths", "done", "name", "size", "spent")

    def __init__(self, name: str, value: Any, arguments: Mapping[str, Any], size: int | None) -> None:
        self.name = name
        self.call = name, value, arguments
        self.size = size
        self.deaths = 0
        self.spent = 0.0
        self.alone = False
        self.done: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()

    def settle(self, verdict: CheckOutcome) -> None:
        """Tell whoever waits, if that is still of interest."""
        if not self.done.done():
            self.done.set_result(verdict)


class WorkerSlot:
    """A child at work: what it was given by number, in order, and how it does.

    `late`: what it runs takes long, so it is given no more. `overran`: it was ended for that. `retiring`: it is to end
    once all is answered. `suspect`: what it runs has ended a process before.
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        self.given: dict[int, Job] = {}
        self.batches = 0
        self.late = self.overran = self.retiring = self.suspect = False

    @property
    def idle(self) -> bool:
        """Whether it can be given something to do at once."""
        return not self.given and not self.retiring

    def is_old(self) -> bool:
        """Whether it is time for another to take its place."""
        return self.batches >= RECYCLE_AFTER and time.monotonic() - self.child.started > RECYCLE_AGE

    def take_last(self) -> tuple[Job | None, float | None]:
        """Take out the check at which the process ended, and the seconds since it began; None if it had not yet.

        If that cannot be told, as some were done but not answered, or not begun, all travel alone from now on.
        """
        number, since = self.child.running()
        elapsed = None if number == RESTING else time.monotonic() - since
        if number not in self.given:
            for job in self.given.values():
                job.alone = True
            number = next(iter(self.given)) if len(self.given) == 1 else RESTING
        return self.given.pop(number, None), elapsed
