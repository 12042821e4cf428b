"""A worker whose event loop SIGUSR1 blocks for 20 s: `python -m tests.faults.worker`.

A signal's handler runs in the thread of the loop, and the others go on meanwhile, that of the consumer among them.
"""

from __future__ import annotations

import signal
import sys
import time

from agents.commands import run
from agents.entry import EntryPoint

BLOCKED_FOR = 20.0
"""Seconds."""


def block(*_: object) -> None:
    """Do nothing, and let nothing be done."""
    time.sleep(BLOCKED_FOR)


if __name__ == "__main__":
    EntryPoint("tests.faults.worker", __doc__).begin()
    signal.signal(signal.SIGUSR1, block)
    sys.exit(run(["worker"]))
