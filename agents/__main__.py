"""`python -m agents` and the console script `millrace`. Imports nothing heavy: pool children import it too."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from agents.commands import run  # noqa: PLC0415  see the module

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
