"""Where in a TOML text each key stands: tomllib tells no lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

_LINE = re.compile(r"[^\n]*\n|[^\n]+")  # str.splitlines ends lines at characters that TOML does not

Steps = tuple[str, ...]
"""The path of a key."""


def lines_of(text: str) -> dict[Steps, int]:
    """Return the line on which each key and table of a valid TOML text begins.

    tomllib tells no lines. A text is a row of statements, each of one line or more: lines are joined until they parse.
    """
    lines: dict[Steps, int] = {}
    table: Steps = ()
    begun: list[str] = []
    for number, line in enumerate(_LINE.findall(text), 1):
        begun.append(line)
        try:
            statement = tomllib.loads("".join(begun))
        except tomllib.TOMLDecodeError:
            continue
        first = number - len(begun) + 1
        header = begun[0].lstrip().startswith("[")
        begun = []
        paths = list(_paths(statement))
        if header:
            table = paths[-1]
        for path in paths:
            lines.setdefault(path if header else (*table, *path), first)
    return lines


def _paths(value: Any, steps: Steps = ()) -> Iterator[Steps]:
    if steps:
        yield steps
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*steps, key))
