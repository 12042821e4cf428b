"""Check that a worker can run here: Kafka, topics, ACLs, clock, sources, routes, cache, schema registry, pool, plugins,
web port, settings.

Each line is ok, a warning or a problem, with advice where something needs to be done. Writes nothing, and sends nothing
to an upstream unless --ask names one. Exits with 1 if there is a problem.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from agents.commands import DONE, FAILED, printable, say
from models import strictjson
from models.errors import MillraceError

if TYPE_CHECKING:
    from agents.doctor import Finding

COLOURS = {"ok": "32", "warning": "33", "problem": "31;1"}
"""SGR codes of the states: green, yellow, bold red."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--ask", action="append", default=[], metavar="URL", help="also fetch this URL (repeatable)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(options: argparse.Namespace) -> int:
    """Check everything; returns 1 if there is a problem."""
    from streams.config import settings as configuration

    return asyncio.run(_doctor(configuration.load(), options))


async def _doctor(settings: Any, options: argparse.Namespace) -> int:
    from agents.doctor import counted

    counts = {"warning": 0, "problem": 0}
    async for finding in _findings(settings, options):
        if finding.state in counts:
            counts[finding.state] += 1
        print(_json(finding) if options.json else _line(finding), flush=True)
    say(", ".join(counted(counts[state], state) for state in ("problem", "warning")))
    return FAILED if counts["problem"] else DONE


async def _findings(settings: Any, options: argparse.Namespace) -> AsyncIterator[Finding]:
    from agents.doctor import here, problem
    from agents.doctor.kafka import kafka
    from agents.doctor.routes import delays_of, routes, routes_of

    plugins = list(here.plugins(settings))
    for finding in [
        *here.settings_known(),
        *plugins,
        here.limits(),
        here.store(settings),
        *here.traces(settings),
        *here.certificates(settings),
    ]:
        yield finding
    try:
        async for finding in kafka(settings, routes_of(settings), delays_of(settings)):
            yield finding
    except MillraceError as exc:
        yield problem("kafka", str(exc))
    for several in (
        here.sources(settings),
        here.cache(settings),
        here.registry(settings),
        *(here.upstream(settings, url) for url in options.ask),
    ):
        async for finding in several:
            yield finding
    for finding in routes(settings):
        yield finding
    if all(finding.state == "ok" for finding in plugins):  # else its processes fail for the reason just reported
        yield await here.pool(settings)
    yield await here.web(settings)


def _line(finding: Finding) -> str:
    text = f"{finding.subject}: {finding.seen}" + (f"\n         → {finding.advice}" if finding.advice else "")
    clean = printable(text, keep="\n")
    state = f"{finding.state:8}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        state = f"\033[{COLOURS[finding.state]}m{state}\033[0m"
    return f"{state} {clean}"


def _json(finding: Finding) -> str:
    members = {name: value for name, value in finding._asdict().items() if value}
    return strictjson.dumps(members).decode()
