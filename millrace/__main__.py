"""`python -m millrace` and the console script `millrace`. Imports nothing heavy: pool children import it too."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType

from millrace.installation import foreign_packages

MISUSED = 2
"""Exit code if other packages hide ours."""
YOUNG_OBJECTS = 50_000
"""Allocations between two looks of the garbage collector, which finds nothing in what an import makes, and takes a
tenth of a worker's start by default.
"""
FIRST_PROCESS = 1
"""Process id of a container's main program."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as in shells."""


def main() -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(YOUNG_OBJECTS)
    if os.getpid() == FIRST_PROCESS:  # the kernel drops a SIGTERM for which the first process has no handler
        signal.signal(signal.SIGTERM, _terminate)
    if problems := list(foreign_packages()):
        print(*(f"millrace: {problem}" for problem in problems), sep="\n", file=sys.stderr)
        sys.exit(MISUSED)
    from agents.commands import run  # noqa: PLC0415  only once it is known to be ours

    sys.exit(run(sys.argv[1:]))


def _terminate(_: int, __: FrameType | None) -> None:
    sys.exit(TERMINATED)


if __name__ == "__main__":
    main()
