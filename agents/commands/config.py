"""Print the effective settings with secrets masked, or validate the sources. Every invalid one is reported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agents.commands import DONE, say
from models import strictjson

if TYPE_CHECKING:
    from models.source import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, or one per source")
    parser.add_argument("--reference", action="store_true", help="print the reference of all settings in Markdown")
    parser.add_argument("--sources", nargs="?", const="", metavar="FILE",
                        help="validate and list the sources in FILE (default: MILLRACE_SOURCES)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Print the settings or sources. Raises SettingsError if some are invalid."""
    from streams.config import settings as configuration
    from streams.config.docs import reference, unknown_names

    if options.reference:
        print(reference(), end="")
        return DONE
    settings = configuration.load()
    for line in unknown_names():
        say(f"millrace: {line}")
    if options.sources is not None:
        return _sources(settings, options)
    effective = dict(configuration.names(settings))
    if options.json:
        print(strictjson.dumps({name: _plain(value) for name, value in effective.items()}).decode())
    else:
        for name, value in effective.items():
            print(f"{name}={_shown(value)}")
    return DONE


def _sources(settings: Any, options: argparse.Namespace) -> int:
    from agents.worker import check_routes
    from models.errors import SettingsError
    from streams.config.plugins import load_plugins
    from streams.sources import load

    path = options.sources or settings.sources
    if not path:
        msg = "MILLRACE_SOURCES: not set; name a file: millrace config --sources FILE"
        raise SettingsError(msg)
    load_plugins(settings)  # sources may name their schemas, checks and functions
    loaded = load(path)
    check_routes(settings, loaded)
    sources = loaded.by_name
    routes = f", {len(loaded.routes)} routes" if loaded.routes else ""
    say(f"{path}: {len(sources)} sources{routes}, all valid")
    for source in sources.values():
        shown = _source_line(source)
        print(strictjson.dumps(shown).decode() if options.json else "  ".join(f"{k}={_brief(shown[k])}" for k in shown))
    return DONE


def _source_line(source: Source) -> dict[str, Any]:
    """Describe a source; of its credentials only the kind."""
    shown: dict[str, Any] = {"source": source.name}
    if source.url is not None:
        shown |= {"method": source.method, "url": source.url.text}
    else:
        shown["call"] = source.call
    shown |= {"params": sorted(source.names), "schema": source.schema, "checks": [call.name for call in source.checks],
             "auth": type(source.auth).__name__ if source.auth else "none", "ttl": source.cache.ttl}  # fmt: skip
    return shown


def _brief(value: Any) -> str:
    return ",".join(value) or "-" if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) else str(value)
