"""Print the effective settings, secrets masked; every wrong one is named."""

from __future__ import annotations

import argparse
from typing import Any

from agents.commands import DONE
from models import strictjson

HELP = "print the effective settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print them; wrong ones end the command with 2."""
    from streams import settings as configuration

    effective = dict(configuration.names(configuration.load()))
    if options.json:
        print(strictjson.dumps({name: _plain(value) for name, value in effective.items()}).decode())
    else:
        for name, value in effective.items():
            print(f"{name}={_shown(value)}")
    return DONE


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) else str(value)
