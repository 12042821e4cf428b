"""The reference of the settings, made of their declarations: docs/configuration.md. And names that are no settings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any, get_type_hints

from streams.config import settings
from streams.config.settings import DECLARED, Kafka, Settings

_HEAD = """# Settings

<!-- Made by `millrace config --reference > docs/configuration.md`; a test fails when it is not what that prints. -->

Settings come from the environment and are read once, at the start. An invalid one ends the command with exit code 2,
and all of them are named. Each setting may also come from a file, which `<NAME>_FILE` names; that is meant for secrets.
Blanks and line ends around a value are no part of it, in a file or in the environment.
`millrace config` prints the effective settings with secrets masked, and warns of unknown `MILLRACE_` names, as a worker
does when it starts. Times are in seconds, sizes in bytes.
"""
_FIXED = """
## What is fixed

| | value | |
|---|---|---|
"""


def reference() -> str:
    """Return the reference as Markdown."""
    parts = [_HEAD]
    for title, section in (("Kafka", Kafka), ("Millrace", Settings)):
        rows = [f"| `{each.variable}` | {_shown(each.default)} | {'*Secret.* ' if each.secret else ''}"
                f"{each.setting.meaning} |" for each in DECLARED if each.section is section]  # fmt: skip
        parts.append("\n".join([f"\n## {title}\n", "| setting | default | meaning |", "|---|---|---|", *rows, ""]))
    fixed = get_type_hints(settings, include_extras=True).items()
    parts.append(_FIXED)
    parts += (f"| `{name}` | {_shown(getattr(settings, name))} | {hint.__metadata__[0]} |\n"
              for name, hint in fixed if hasattr(hint, "__metadata__"))  # fmt: skip
    return "".join(parts)


def _shown(value: Any) -> str:
    if value in (None, "", ()):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def unknown_names() -> Iterator[str]:
    """Report, a line each, MILLRACE_ and KAFKA_ variables that are no settings of ours, with the likely one."""
    names = [each.variable for each in DECLARED]
    for variable in sorted(os.environ):
        name = variable.removesuffix("_FILE")
        if name.startswith(("MILLRACE_", "KAFKA_SASL_", "KAFKA_SSL_")) and name not in names:
            prefix, _, rest = name.partition("_")
            ours = [each.removeprefix(f"{prefix}_") for each in names if each.startswith(f"{prefix}_")]
            close = difflib.get_close_matches(rest, ours, 1)
            yield f"{variable} is not a setting" + (
                f": did you mean {prefix}_{close[0]}?" if close else " and has no effect"
            )
