"""Decides who is to blame when a process ends: the check that it ran, unless it was killed from outside."""

from __future__ import annotations

import signal
import time

from streams.config.settings import CHECK_TIMEOUT
from streams.pool.workers import Job

KILLED_BEFORE_BLAMED = 5
"""SIGKILLs of a check's process after which the check is blamed."""
DIED_BEFORE_BLAMED = 2
"""Deaths of a check's process by another signal after which the check is blamed."""
SUSPECT_FOR = 10.0
"""Seconds for which a check that has ended a process runs apart from others."""


class Quarantine:
    """The names of checks that have recently ended a process."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        until = self._until.get(name)
        if until is not None and time.monotonic() >= until:
            del self._until[name]
            return False
        return until is not None

    def add(self, name: str) -> None:
        """Quarantine a check for a while."""
        self._until[name] = time.monotonic() + SUSPECT_FOR

    def is_guilty(self, job: Job, code: int, *, ran: bool) -> bool:
        """Whether a check is to blame, rather than to be run again, after its process has ended with this code.

        `ran`: the check had started. A check whose next run, as long as its runs so far, would pass its deadline is to
        blame too, unless the process was killed from outside.
        """
        if code == -signal.SIGKILL or not ran:
            return job.deaths >= KILLED_BEFORE_BLAMED or job.run_seconds > CHECK_TIMEOUT
        self.add(job.name)
        return code >= 0 or job.deaths >= DIED_BEFORE_BLAMED or 2 * job.run_seconds > CHECK_TIMEOUT


def exit_reason(code: int) -> str:
    """Describe an exit code; a negative one is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
