"""List the routes, or try one on a record, without Kafka."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.commands import DONE, FAILED, printable, say
from models import strictjson
from models.errors import AnswerError, SettingsError

if TYPE_CHECKING:
    from agents.routes.rehearsal import Published
    from models.route import Route


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--matched", action="store_true", help="look up in Kafka which topics the patterns match")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    trial = actions.add_parser("try", help="show what a route asks for a record, and what comes out")
    trial.add_argument("name", help="the route's name")
    trial.add_argument("file", help="file with the record's value; - for standard input")
    trial.add_argument("--topic", help="the topic that it came from (default: the route's first)")
    trial.add_argument("--key", help="the record's key")
    trial.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="a header; may be repeated")
    trial.add_argument("--dry-run", action="store_true", help="send nothing to the sources")
    trial.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object per line")


def run(options: argparse.Namespace) -> int:
    """List or try routes; returns 1 if a tried record would fail. Raises SettingsError."""
    from streams.config import settings as configuration
    from streams.config.plugins import load_plugins
    from streams.sources import load

    settings = configuration.load()
    load_plugins(settings)
    sources = load(settings.sources)
    if options.action == "try":
        return _try(settings, sources, options)
    routes = list(sources.routes.values())
    if options.matched:
        from agents.routes.topics import find_matched

        routes = asyncio.run(find_matched(routes, settings))
    for route in routes:
        shown = _described(route, settings.group)
        print(_line(shown) if options.json else "  ".join(f"{name}={_brief(each)}" for name, each in shown.items()))
    if not sources.routes:
        say("no routes; sources.toml (MILLRACE_SOURCES) declares them as [routes.NAME]: see docs/routes.md")
    return DONE


def _described(route: Route, group: str) -> dict[str, Any]:
    return {
        "route": route.name, "topics": list(route.topics), "format": route.format,
        "lookups": [each.name for each in route.lookups], "output": route.output, "results": route.results,
        "failures": route.failures or "-", "group": route.group(group),
    }  # fmt: skip


def _brief(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _try(settings: Any, sources: Any, options: argparse.Namespace) -> int:
    from agents.routes.rehearsal import questions, rehearse, sample, without_registry

    route = sources.route(options.name)
    if route.needs_registry:
        say(
            f"the route's formats are {route.format}, {route.key_format} (keys) and {route.results_format}: "
            "what a registry reads is read as JSON, and shown so"
        )
        route = without_registry(route)
    headers = dict(_header(each) for each in options.header)
    key = None if options.key is None else os.fsencode(options.key)
    if options.topic is not None and not route.reads(options.topic):
        msg = f"--topic {options.topic}: the route {route.name} reads {', '.join(route.topics)}"
        raise SettingsError(msg)
    record = sample(route, _read(options.file), key, headers, topic=options.topic)
    try:
        ends, requests = questions(route, sources, record)
    except AnswerError as error:
        _show("fails", {"outcome": error.outcome, "error": error.describe()}, options)
        return FAILED
    for question in requests:
        _show("asks", question, options)
    if options.dry_run:
        if ends is not None:
            _show("ends", {"outcome": ends}, options)
        required = {each.name for each in route.lookups if each.required}
        return FAILED if any("outcome" in each and each["lookup"] in required for each in requests) else DONE
    outcome, published = asyncio.run(rehearse(settings, route, sources, record))
    for each in published:
        _show("publishes", _shown(each), options)
    _show("ends", {"outcome": outcome}, options)
    return DONE if outcome in ("ok", "passed", "dropped") else FAILED


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        msg = f"--header {text!r}: give NAME=VALUE"
        raise SettingsError(msg)
    return name, value


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        msg = f"{file}: {exc.strerror}"
        raise SettingsError(msg) from None


def _shown(published: Published) -> dict[str, Any]:
    def text(content: bytes | None) -> str | None:
        return None if content is None else content.decode(errors="replace")

    headers = {name: text(content) for name, content in published.headers.items()}
    return {"topic": published.topic, "key": text(published.key), "headers": headers, "value": text(published.value)}


def _show(what: str, members: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(_line({"step": what, **members}))
        return
    print(f"{what:<10}" + "  ".join(f"{name}={printable(_plain(each))}" for name, each in members.items()))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else strictjson.dumps(value, exact=True).decode()


def _line(members: dict[str, Any]) -> str:
    return strictjson.dumps(members, exact=True).decode()
