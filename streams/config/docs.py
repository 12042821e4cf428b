"""The reference of the settings, made of `settings.py` itself: what each is, from its docstring, its default, whether
it is secret. `millrace config --reference` prints it; docs/configuration.md is that.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import os
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from streams.config import settings
from streams.config.settings import SECRETS, Kafka, Settings

_HEAD = """# Settings

<!-- Made by `millrace config --reference > docs/configuration.md`; a test fails when it is not what that prints. -->

Settings come from the environment, read once at the start; every wrong one is named, and the command ends with 2.
Each may also come from a file that `<NAME>_FILE` names, which is meant for secrets. `millrace config` prints the
effective ones, secrets masked, and says which `MILLRACE_` names it does not know; so does a worker when it starts.
Seconds and bytes throughout.
"""
_FIXED = """
## What is fixed

| | value | |
|---|---|---|
"""


class Entry(NamedTuple):
    """One setting as the reference has it."""

    name: str
    default: str
    meaning: str
    secret: bool


def entries(kind: type[Kafka | Settings], prefix: str) -> Iterator[Entry]:
    """Yield the settings of one dataclass. Raises KeyError for one whose field has no docstring."""
    meanings = _docstrings(ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0])
    for field in dataclasses.fields(kind):
        if field.name != "kafka":
            name = f"{prefix}_{field.name.upper()}"
            yield Entry(name, _shown(field.default), meanings[field.name], name in SECRETS)


def reference() -> str:
    """Return the reference as Markdown."""
    parts = [_HEAD]
    for title, kind, prefix in (("Kafka", Kafka, "KAFKA"), ("Millrace", Settings, "MILLRACE")):
        rows = [f"| `{each.name}` | {each.default} | {'*Secret.* ' if each.secret else ''}{each.meaning} |"
                for each in entries(kind, prefix)]  # fmt: skip
        parts.append("\n".join([f"\n## {title}\n", "| setting | default | meaning |", "|---|---|---|", *rows, ""]))
    parts.append(_FIXED + "".join(f"| `{name}` | {value} | {meaning} |\n" for name, value, meaning in _constants()))
    return "".join(parts)


def _constants() -> Iterator[tuple[str, str, str]]:
    """Yield what the module fixes: numbers whose docstring says their unit; a DEFAULT_ is in its setting's row."""
    for name, meaning in _docstrings(ast.parse(inspect.getsource(settings))).items():
        value = getattr(settings, name)
        if isinstance(value, int | float) and not name.startswith("DEFAULT_"):
            yield name, _shown(value), meaning


def _docstrings(tree: Any) -> dict[str, str]:
    """Return the text that stands under each assignment, on one line."""
    found = {}
    for assigned, text in zip(tree.body, tree.body[1:], strict=False):
        match assigned, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ):
                found[name] = " ".join(meaning.split())
    return found


def _shown(value: Any) -> str:
    if value in (None, "", ()):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def unknown_names() -> Iterator[str]:
    """Say, a line each, which MILLRACE_ and KAFKA_ variables are no setting of ours, and what may be meant."""
    known = [name for name, _ in settings.names(Settings())]
    for variable in sorted(os.environ):
        name = variable.removesuffix("_FILE")
        if name.startswith(("MILLRACE_", "KAFKA_SASL_", "KAFKA_SSL_")) and name not in known:
            prefix, _, rest = name.partition("_")
            ours = [each.removeprefix(f"{prefix}_") for each in known if each.startswith(f"{prefix}_")]
            close = difflib.get_close_matches(rest, ours, 1)
            yield f"{variable} is no setting" + (
                f": is {prefix}_{close[0]} meant?" if close else ", it changes nothing"
            )
