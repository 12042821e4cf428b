"""Run a check on values concurrently in the process pool, without Kafka."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from agents.commands import DONE, FAILED, MISUSED, say
from models import checks, strictjson


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("name", help=f"{', '.join(checks.names())}, or a check of a plugin")
    parser.add_argument("value", nargs="+", help="JSON, or else taken as a string")
    parser.add_argument("--args", default="{}", metavar="JSON", help="arguments of the check, a JSON object")
    parser.add_argument("--json", action="store_true", help="print one JSON object per value")


def run(options: argparse.Namespace) -> int:
    """Run the check; returns 1 if it failed on a value, 2 if its name or arguments are invalid."""
    return asyncio.run(_check(options))


async def _check(options: argparse.Namespace) -> int:
    from streams.config import settings as configuration
    from streams.config.plugins import load_plugins, plugin_specs
    from streams.pool import CheckPool

    settings = configuration.load()
    load_plugins(settings)
    if options.name not in checks.names():
        say(f"millrace check: unknown check {options.name!r}; known checks: {', '.join(checks.names())}")
        return MISUSED
    try:
        arguments = strictjson.loads(options.args.encode())
        if not isinstance(arguments, dict):
            msg = "must be a JSON object"
            raise ValueError(msg)  # noqa: TRY004, TRY301  reported like the errors of the parser
    except ValueError as exc:
        say(f"millrace check: --args: {exc}")
        return MISUSED
    if wrong := checks.find(options.name).problems(arguments):
        for name, reason in wrong.items():
            say(f"millrace check: --args: {name}: {reason}" if name else f"millrace check: --args: {reason}")
        return MISUSED
    code = DONE
    async with CheckPool(min(settings.processes(), len(options.value)), plugin_specs(settings)) as pool:
        pending = [pool.submit(options.name, _value(text), arguments) for text in options.value]
        for text, future in zip(options.value, pending, strict=True):
            outcome = await future
            code = code if outcome.error is None else FAILED
            sys.stdout.write((_as_json if options.json else _as_text)(options.name, text, outcome) + "\n")
            sys.stdout.flush()
    return code


def _value(text: str) -> Any:
    try:
        return strictjson.loads(text.encode())
    except ValueError:
        return text


def _as_text(name: str, text: str, outcome: checks.CheckOutcome) -> str:
    if outcome.error is not None:
        return f"{text} generated an exception: {outcome.error}"
    value = outcome.value
    shown = str(value) if isinstance(value, str | bool) else strictjson.dumps(value).decode()
    return f"{text} is prime: {shown}" if name == "is_prime" else f"{text} {name}: {shown}"


def _as_json(name: str, text: str, outcome: checks.CheckOutcome) -> str:
    members: dict[str, Any] = {"name": name, "input": _value(text), "elapsed_ms": round(outcome.elapsed * 1000, 3)}
    members |= {"value": outcome.value} if outcome.error is None else {"error": outcome.error}
    return strictjson.dumps(members).decode()
