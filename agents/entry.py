"""How a module begins that is run by `python -m` and is no command of `millrace`: it has help, refuses unknown options,
and says what it does before it does it. Imports nothing heavy: peers of the bench use it where they cannot import
Millrace's dependencies.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

_SENTENCE = re.compile(r".+?(?:[.:](?=\s|$)|$)", re.DOTALL)


class EntryPoint(argparse.ArgumentParser):
    """Options of `python -m NAME`; `begin` parses them."""

    def __init__(self, name: str, doc: str | None) -> None:
        text = doc or ""
        super().__init__(
            prog=f"python -m {name}", description=text, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self._purpose = " ".join(_SENTENCE.findall(text)[0].split()).rstrip(":.") if text else name

    def begin(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse the arguments, by default the process's, and print on stderr what will be done.

        Exits with 2 if one is invalid, and with 0 after `--help`.
        """
        options = self.parse_args(arguments)
        print(f"{self.prog}: {self._purpose}", file=sys.stderr, flush=True)
        return options
