"""Who is to blame when a process ends: the check that it ran, unless it was killed from outside."""

from __future__ import annotations

import signal
import time

from streams.config.settings import CHECK_TIMEOUT
from streams.pool.slot import Job

KILLED_BEFORE_BLAMED = 5
"""Times that a check's process is killed from outside before that is taken for the check's doing."""
DIED_BEFORE_BLAMED = 2
"""Times that a check's process dies of another signal."""
SUSPECT_FOR = 10.0
"""Seconds that a check which has ended a process is kept apart from others."""


class Quarantine:
    """The names of checks that have ended a process lately."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        until = self._until.get(name)
        if until is not None and time.monotonic() >= until:
            del self._until[name]
            return False
        return until is not None

    def add(self, name: str) -> None:
        """Keep a check apart for a while."""
        self._until[name] = time.monotonic() + SUSPECT_FOR

    def is_guilty(self, job: Job, code: int, *, ran: bool) -> bool:
        """Whether a check need not be run again, after its process has ended with this code while it `ran` or before.

        Nor does it if another run, as long as what it has had, would end past its deadline; unless it was killed from
        outside: then it has all its time again.
        """
        if code == -signal.SIGKILL or not ran:
            return job.deaths >= KILLED_BEFORE_BLAMED or job.spent > CHECK_TIMEOUT
        self.add(job.name)
        return code >= 0 or job.deaths >= DIED_BEFORE_BLAMED or 2 * job.spent > CHECK_TIMEOUT


def exit_reason(code: int) -> str:
    """Say how a process ended: with an exit code, or killed by minus the code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
