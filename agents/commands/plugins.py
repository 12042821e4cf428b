"""List the checks and schemas that requests can name, built in or from plugins, and the plugins that failed to load."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agents.commands import DONE, FAILED, printable, say
from models import checks, documents, strictjson

if TYPE_CHECKING:
    from streams.config.plugins import Loaded, Named

COLUMNS = ("kind", "name", "from", "runs", "arguments", "about")
"""Columns of the text output."""
MAX_DEFAULT = 40
"""Characters of a default in the text output."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, failed plugins included")


def run(options: argparse.Namespace) -> int:
    """List them; returns 1 if a plugin failed to load."""
    from streams.config import settings as configuration
    from streams.config.plugins import try_plugins

    loaded = try_plugins(configuration.load())
    listed = [*_checks(loaded), *_schemas(loaded)]
    if options.json:
        for each in (*listed, *_refused(loaded)):
            print(strictjson.dumps(each).decode())
    else:
        _print_table([COLUMNS, *(_row(each) for each in listed)])
        for refused in loaded.refused:
            say(f"refused: {refused}")
    return FAILED if loaded.refused else DONE


def _checks(loaded: Loaded) -> Iterator[dict[str, Any]]:
    for name in checks.names():
        found = checks.find(name)
        signature = found.signature
        arguments = [{"name": each, "type": argument.shape.one, "required": argument.required}
                     | ({} if argument.required else {"default": _plain(argument.default)})
                     for each, argument in signature.arguments.items()]  # fmt: skip
        yield {"kind": "check", "name": name, **_origin("check", name, found.function, loaded),
               "value": signature.value.one, "arguments": arguments, "others": signature.others,
               "inline": found.inline, "about": _about(found.function)}  # fmt: skip


def _schemas(loaded: Loaded) -> Iterator[dict[str, Any]]:
    for name in documents.names():
        found: Any = documents.BUILT_IN.get(name) or documents._REGISTRY[name]
        about = "" if name in documents.BUILT_IN else _about(found)
        yield {"kind": "schema", "name": name, **_origin("schema", name, found, loaded), "about": about}


def _refused(loaded: Loaded) -> Iterator[dict[str, Any]]:
    for named, reason in loaded.refused:
        yield {"kind": "refused", "name": named.plugin.name, "module": named.plugin.target, **_distribution(named),
               "reason": reason}  # fmt: skip


def _origin(kind: str, name: str, thing: Any, loaded: Loaded) -> dict[str, Any]:
    """Return the module and distribution that a check or schema comes from."""
    brought = loaded.brought.get((kind, name))
    if brought is None:
        return {"module": thing.__module__, "built_in": thing.__module__.partition(".")[0] == "models"}
    return {"module": thing.__module__, "built_in": False, **_distribution(brought)}


def _distribution(named: Named) -> dict[str, Any]:
    if named.group is None:
        return {}
    return {"distribution": named.distribution, "version": named.version, "group": named.group}


def _about(thing: Any) -> str:
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)  # not its base's
    return str(own or "").strip().partition("\n")[0]


def _plain(value: Any) -> Any:
    """Return a default that JSON can hold: itself, or else its repr."""
    try:
        strictjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    place = "built in" if each["built_in"] else str(each["module"])
    if "distribution" in each:
        place += f" ({each['distribution']} {each['version']})"
    is_check = each["kind"] == "check"
    arguments = ", ".join(map(_argument, each["arguments"])) if is_check else ""
    if is_check and each["others"]:
        arguments = f"{arguments}, others".removeprefix(", ")
    runs = ("inline" if each["inline"] else "pool") if is_check else ""
    return each["kind"], each["name"], place, runs, arguments, each["about"]


def _argument(argument: dict[str, Any]) -> str:
    kind = argument["type"].removeprefix("an ").removeprefix("a ")
    if argument["required"]:
        return f"{argument['name']}: {kind}"
    default = strictjson.dumps(argument["default"]).decode()
    return f"{argument['name']}: {kind} = {default[:MAX_DEFAULT]}"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns; the last one, a sentence, is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths[:-1], 0), strict=True))
        print(printable(padded).rstrip())
