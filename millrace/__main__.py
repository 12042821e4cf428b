"""`python -m millrace` and the console script `millrace`. Imports nothing heavy: pool children import it too."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from millrace.installation import foreign_packages

MISUSED = 2
"""Exit code where other packages stand in the place of ours: Millrace is not set up right."""
FIRST_PROCESS = 1
"""The process id that a container's only program has."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code of what SIGTERM ended, as shells have it."""


def main() -> None:
    """Run the command line and exit with its code."""
    if os.getpid() == FIRST_PROCESS:  # the kernel drops a SIGTERM that the first process has not asked for
        signal.signal(signal.SIGTERM, _terminate)
    if problems := list(foreign_packages()):
        print(*(f"millrace: {problem}" for problem in problems), sep="\n", file=sys.stderr)
        sys.exit(MISUSED)
    from agents.commands import run  # noqa: PLC0415  see the module, and only once it is known to be ours

    sys.exit(run(sys.argv[1:]))


def _terminate(_: int, __: FrameType | None) -> None:
    sys.exit(TERMINATED)


if __name__ == "__main__":
    main()
