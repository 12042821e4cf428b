"""Put dead letters back on the requests topic: those that match every kind of option given. None is ever put back
twice, whoever else is at it and however this ends. Each keeps its id; how often it was delivered goes on being counted.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from datetime import datetime
from typing import Any

from agents.commands import DONE, FAILED, MISUSED, clipped, moment, positive, rate, say
from models import strictjson
from models.dead_letter import DeadLetter, DeadLetterFilter, Place
from models.errors import OUTCOMES

HELP = "put dead letters back on the requests topic"

RATE = 100.0
"""Letters a second unless told otherwise."""
WIDTH = 80
"""Characters of a message that a line for people shows."""
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("--outcome", choices=[name for name in OUTCOMES if name != "ok"], action="append", default=[],
        help="those that ended so (may be repeated)")  # fmt: skip
    add("--host", action="append", default=[], help="those for this host, or host:port (may be repeated)")
    add("--id", action="append", default=[], help="those of the request with this id (may be repeated)")
    add("--letter", type=_place, action="append", default=[], metavar="PARTITION:OFFSET",
        help="this letter (may be repeated)")  # fmt: skip
    add("--since", type=moment, metavar="TIME", help="those of this time and later: 2026-11-22T14:00Z, or 2h for ago")
    add("--until", type=moment, metavar="TIME", help="those from before this time")
    add("--all", action="store_true", help="every letter there is")
    add("--limit", type=positive, metavar="N", help="N letters at most: try a few first")
    add("--rate", type=rate, default=RATE, metavar="N", help=f"N a second; 0: as fast as it goes (default: {RATE:g})")
    add("--dry-run", action="store_true", help="say what would be redriven, and write nothing")
    add("--json", action="store_true", help="one JSON object a letter")


def _place(text: str) -> Place:
    found = _PLACE.fullmatch(text)
    if found is None:
        msg = f"{text!r} is no letter: give partition:offset, such as 3:42"
        raise argparse.ArgumentTypeError(msg)
    return int(found[1]), int(found[2])


def run(options: argparse.Namespace) -> int:
    """Redrive; returns 1 if a letter or an id that was named could not be redriven, 2 if nothing was chosen."""
    from streams.config import settings as configuration

    choice = DeadLetterFilter(
        frozenset(options.outcome), frozenset(options.host), frozenset(options.id), frozenset(options.letter),
        options.since, options.until,
    )  # fmt: skip
    if (choice == DeadLetterFilter()) is not options.all:
        say("millrace redrive: choose by --outcome, --host, --id, --letter, --since and --until, or take --all")
        return MISUSED
    return asyncio.run(_redrive(configuration.load(), choice, options))


async def _redrive(settings: Any, choice: DeadLetterFilter, options: argparse.Namespace) -> int:
    from streams.kafka.dead_letters import DeadLetters

    would = "would be redriven" if options.dry_run else "redriven"

    def told(letter: DeadLetter, refusal: str | None) -> None:
        print(_json(letter, refusal, options) if options.json else _line(letter, refusal or would), flush=True)

    async with DeadLetters(settings) as letters:
        report = await letters.redrive(
            choice, rate=options.rate, limit=options.limit, dry_run=options.dry_run, told=told
        )
    if report.redriven or report.refused or report.missing:
        say(f"{report.redriven} {would}")
    else:
        topic = settings.dead_letters_topic
        say(f"no dead letter in {topic}" if options.all else f"no dead letter matches {_chosen(options)} in {topic}")
    for reason, count in report.refused.most_common():
        say(f"{count} not redriven: {reason}")
    for partition, offset in report.missing:
        say(f"no letter {partition}:{offset} in {settings.dead_letters_topic}")
    named = bool(options.letter or options.id)
    return FAILED if report.missing or (named and (report.refused or not report.redriven)) else DONE


def _chosen(options: argparse.Namespace) -> str:
    """Return the choice as it was given; times as the moments that they are."""
    given = [(name, value) for name in ("outcome", "host", "id") for value in getattr(options, name)]
    given += [("letter", f"{partition}:{offset}") for partition, offset in options.letter]
    moments = ((name, getattr(options, name)) for name in ("since", "until"))
    given += [(name, _time(moment)) for name, moment in moments if moment is not None]
    return " ".join(f"--{name} {value}" for name, value in given)


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def _line(letter: DeadLetter, verdict: str) -> str:
    parts = [f"{letter.partition}:{letter.offset}", _time(letter.at), letter.request_id or "-", letter.outcome or "-",
             letter.host or "-", f"delivery {letter.attempts}", verdict, clipped(letter.message, WIDTH)]  # fmt: skip
    return "".join(char if char.isprintable() else "�" for char in "  ".join(parts))


def _json(letter: DeadLetter, refusal: str | None, options: argparse.Namespace) -> str:
    told = {"partition": letter.partition, "offset": letter.offset, "at": letter.at, "id": letter.request_id,
            "outcome": letter.outcome, "host": letter.host, "attempts": letter.attempts, "message": letter.message,
            "redriven": refusal is None and not options.dry_run}  # fmt: skip
    return strictjson.dumps(told | ({"reason": refusal} if refusal else {})).decode()
