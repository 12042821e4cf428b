"""The command line, one command a module. Exit codes: 0 done, 1 failed, 2 wrong usage or settings.

stdout carries data only; messages go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from models.errors import MillraceError, SettingsError
from models.moment import parse_moment

COMMANDS = {
    "init": "write a small project into a folder",
    "worker": "run a worker",
    "send": "put requests on the requests topic",
    "tail": "print results as they arrive",
    "topics": "verify the topics, or create missing ones",
    "routes": "list the routes, or try one on a record without Kafka",
    "redrive": "put dead letters back on the requests topic",
    "fetch": "fetch URLs without Kafka",
    "check": "run a check on values without Kafka",
    "plugins": "list checks, schemas, and plugins that failed to load",
    "cache": "inspect or purge the cache",
    "config": "print the effective settings, or validate the sources",
    "doctor": "check that a worker can run here, and advise what to do",
    "demo": "run a demonstration on this machine",
}
"""The commands in the order of the help, and what each does; each is a module here with `add_arguments` and `run`."""

DONE, FAILED, MISUSED = 0, 1, 2
MAX_DIGITS = 9
"""Longest whole number that an option accepts."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


def run(arguments: Sequence[str]) -> int:
    """Parse the arguments, run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="millrace",
        description="Read requests from a Kafka topic, fetch and check what they name, publish results on another.",
        epilog="Settings come from the environment; `millrace config` prints them. "
        "Exit codes: 0 success, 1 failure, 2 usage error or invalid settings.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((each for each in arguments if not each.startswith("-")), "")
    for name, purpose in COMMANDS.items():
        sub = commands.add_parser(name, help=purpose)
        if name == chosen:  # only its module is imported: it may need half a second
            module = importlib.import_module(f"agents.commands.{name}")
            sub.description = module.__doc__
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # we report its errors ourselves; a worker logs more
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except SettingsError as exc:
        say(f"millrace: invalid settings:\n  {str(exc).replace(chr(10), chr(10) + '  ')}")
        return MISUSED
    except MillraceError as exc:
        say(f"millrace: {exc}")
        return FAILED
    except UnicodeEncodeError:
        wrong = [each for each in arguments if not _is_utf8(each)]
        if not wrong:
            raise
        say(f"millrace: an argument is not UTF-8: {wrong[0]!r}")
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed it
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


class _Version(argparse.Action):
    """Prints the version, which takes long to look up, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"millrace {version('millrace-kafka')}")
        parser.exit()


def moment(text: str) -> float:
    """Return the seconds since the epoch of a time given in ISO 8601 or as an age. Raises ArgumentTypeError."""
    try:
        return parse_moment(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def is_empty_range(name: str, since: float | None, until: float | None) -> bool:
    """Whether a time range ends before it begins, which is reported as a misuse of the command `name`."""
    if since is None or until is None or since <= until:
        return False
    say(f"millrace {name}: --since {local_time(since)} is later than --until {local_time(until)}: nothing is between; "
        "of two ages the larger one is --since")  # fmt: skip
    return True


def _is_utf8(argument: str) -> bool:
    return argument.encode(errors="replace") == argument.encode(errors="surrogateescape")


def positive(text: str) -> int:
    """Return the whole number, 1 or more, of an option. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS and int(text)):
        msg = f"invalid number {text!r}: must be a whole number, 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def non_negative(text: str) -> float:
    """Return the finite number, 0 or more, of an option. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        msg = f"invalid number {text!r}: must be 0 or more"
        raise argparse.ArgumentTypeError(msg)
    return value


def say(text: str) -> None:
    """Print a message on stderr, so that stdout stays data."""
    print(text, file=sys.stderr, flush=True)


def printable(text: str, keep: str = "") -> str:
    """Replace what must not reach a terminal, but for the characters to `keep`: texts come from others."""
    return "".join(char if char.isprintable() or char in keep else "�" for char in text)


def local_time(moment: float) -> str:
    """Return epoch seconds as local time, with its zone."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def clipped(text: str, width: int) -> str:
    """Shorten a text to `width` characters; an ellipsis marks the cut."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def command() -> str:
    """Return how to run Millrace here: its name if it is on PATH, else its path beside this Python."""
    if shutil.which("millrace"):
        return "millrace"
    beside, here = Path(sys.executable).with_name("millrace"), Path.cwd()
    if not beside.exists():
        return f"{sys.executable} -m millrace"
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
