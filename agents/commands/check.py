"""Run a check on values side by side in the process pool, without Kafka."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from agents.commands import DONE, FAILED, MISUSED, say
from models import checks, strictjson

HELP = "run a check on values, without Kafka"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("name", help=f"one of: {', '.join(checks.names())}, or a plugin's")
    parser.add_argument("value", nargs="+", help="JSON; what is no JSON is taken as a string")
    parser.add_argument("--args", default="{}", metavar="JSON", help="the check's arguments, a JSON object")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: argparse.Namespace) -> int:
    """Check; returns 1 if a check failed to say anything, 2 for an unknown name."""
    return asyncio.run(_check(options))


async def _check(options: argparse.Namespace) -> int:
    from streams.config import settings as configuration
    from streams.config.plugins import load_plugins
    from streams.pool import CheckPool

    settings = configuration.load()
    load_plugins(settings)
    if options.name not in checks.names():
        say(f"millrace check: no check {options.name!r}; known: {', '.join(checks.names())}")
        return MISUSED
    try:
        arguments = strictjson.loads(options.args.encode())
        if not isinstance(arguments, dict):
            msg = "not an object"
            raise ValueError(msg)  # noqa: TRY004, TRY301  told the same way as what the parser finds
    except ValueError as exc:
        say(f"millrace check: --args: {exc}")
        return MISUSED
    code = DONE
    async with CheckPool(settings.processes(), settings.plugins) as pool:
        verdicts = [pool.submit(options.name, _value(text), arguments) for text in options.value]
        for text, future in zip(options.value, verdicts, strict=True):
            verdict = await future
            code = code if verdict.error is None else FAILED
            sys.stdout.write((_as_json if options.json else _as_text)(options.name, text, verdict) + "\n")
            sys.stdout.flush()
    return code


def _value(text: str) -> Any:
    try:
        return strictjson.loads(text.encode())
    except ValueError:
        return text


def _as_text(name: str, text: str, verdict: checks.CheckOutcome) -> str:
    if verdict.error is not None:
        return f"{text} generated an exception: {verdict.error}"
    value = verdict.value
    said = str(value) if isinstance(value, str | bool) else strictjson.dumps(value).decode()
    return f"{text} is prime: {said}" if name == "is_prime" else f"{text} {name}: {said}"


def _as_json(name: str, text: str, verdict: checks.CheckOutcome) -> str:
    members: dict[str, Any] = {"name": name, "input": _value(text), "elapsed_ms": round(verdict.elapsed * 1000, 3)}
    members |= {"value": verdict.value} if verdict.error is None else {"error": verdict.error}
    return strictjson.dumps(members).decode()
