"""Put dead letters back on the requests topic: those that match every kind of option given.

No dead letter is redriven twice, even by concurrent runs or after a crash. Each keeps its id and its delivery count.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from agents.commands import (
    DONE,
    FAILED,
    MISUSED,
    clipped,
    is_empty_range,
    local_time,
    moment,
    non_negative,
    positive,
    printable,
    say,
)
from models import strictjson
from models.dead_letter import STATUS, DeadLetter, DeadLetterFilter, Position
from models.errors import OUTCOMES

if TYPE_CHECKING:
    from agents.redrive.dead_letters import Report

RATE = 100.0
"""Dead letters per second unless --rate is given."""
WIDTH = 80
"""Characters of a message in the text output."""
LINES = 20
"""Dead letters that have a line each in the text output; the rest are counted. `--json` prints all."""
_PARTITION_OFFSET = re.compile(r"([0-9]{1,9}):([0-9]{1,18})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    outcomes = [name for name in OUTCOMES if name != "ok"]
    add("--outcome", choices=outcomes, action="append", default=[], metavar="OUTCOME",
        help=f"only this outcome (repeatable): {', '.join(outcomes)}")  # fmt: skip
    add("--host", action="append", default=[], help="only this host, or host:port (repeatable)")
    add("--source", action="append", default=[], metavar="NAME", help="only requests of this source (repeatable)")
    add("--status", type=_status, action="append", default=[], metavar="STATUS",
        help="only this status of the upstream's response (repeatable)")  # fmt: skip
    add("--retryable", action="store_true", help="only what may succeed if it is tried again")
    add("--max-deliveries", type=positive, metavar="N", help="only what was delivered at most N times so far")
    add("--id", action="append", default=[], help="only the request with this id (repeatable)")
    add("--letter", type=_partition_offset, action="append", default=[], metavar="PARTITION:OFFSET",
        help="only this dead letter (repeatable)")  # fmt: skip
    add("--since", type=moment, metavar="TIME",
        help="only from this time on, such as 2026-11-22T14:00Z, or 2h for two hours ago")  # fmt: skip
    add("--until", type=moment, metavar="TIME", help="only from before this time")
    add("--all", action="store_true", help="all dead letters")
    add("--limit", type=positive, metavar="N", help="redrive at most N, to try a few first")
    add("--rate", type=non_negative, default=RATE, metavar="N",
        help=f"dead letters per second; 0 is unlimited (default: {RATE:g})")  # fmt: skip
    add("--route", metavar="NAME", help="dead letters of this route, back to the topics that it reads")
    add(
        "--later",
        action="store_true",
        help="try again now what waits in the delay topics of retry_later, all of it, with no other filter",
    )
    add("--dry-run", action="store_true", help="print what would be redriven, and write nothing")
    add("--json", action="store_true", help="print one JSON object per dead letter")


def _status(text: str) -> int:
    if not STATUS.fullmatch(text):
        msg = f"invalid status {text!r}: use a number from 100 to 599"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _partition_offset(text: str) -> Position:
    found = _PARTITION_OFFSET.fullmatch(text)
    if found is None:
        msg = f"invalid dead letter {text!r}: use PARTITION:OFFSET, such as 3:42"
        raise argparse.ArgumentTypeError(msg)
    return int(found[1]), int(found[2])


def run(options: argparse.Namespace) -> int:
    """Redrive; returns 1 if a named dead letter or id was not redriven, 2 if the options select nothing."""
    from streams.config import settings as configuration

    choice = DeadLetterFilter(
        frozenset(options.outcome), frozenset(options.host), frozenset(options.id), frozenset(options.letter),
        options.since, options.until, sources=frozenset(options.source), statuses=frozenset(options.status),
        retryable=options.retryable, max_deliveries=options.max_deliveries,
    )  # fmt: skip
    if options.later:
        return _run_later(choice, options)
    if is_empty_range("redrive", options.since, options.until):
        return MISUSED
    if options.all and choice != DeadLetterFilter():
        say(f"millrace redrive: --all goes with no filter: leave it out to filter by {_chosen(options)}")
        return MISUSED
    if choice == DeadLetterFilter() and not options.all:
        say(
            "millrace redrive: filter by --outcome, --host, --source, --status, --retryable, --max-deliveries, --id, "
            "--letter, --since or --until, or else use --all; "
            "--later is for what waits in delay topics"
        )
        return MISUSED
    settings = configuration.load()
    if options.route is None:
        return asyncio.run(_redrive([(settings, choice)], options))
    return asyncio.run(_redrive_route(settings, choice, options))


def _run_later(choice: DeadLetterFilter, options: argparse.Namespace) -> int:
    from streams.config import settings as configuration

    if choice != DeadLetterFilter() or options.all or options.route is not None or options.limit is not None:
        say("millrace redrive: --later takes up all that waits: it goes with --dry-run and --json alone")
        return MISUSED
    return asyncio.run(_release(configuration.load(), options))


async def _release(settings: Any, options: argparse.Namespace) -> int:
    """Have the workers try again at once what waits in delay topics."""
    from agents.later.release import release
    from models.retry_later import is_delay_topic
    from streams.kafka.patterns import existing
    from streams.kafka.topics import Admin

    names = [name for name in await existing(settings.kafka) if is_delay_topic(settings.group, name)]
    if not names:
        say(f"the group {settings.group} has no delay topic: no source or route has retry_later, "
            "or millrace topics --create has not made them")  # fmt: skip
        return FAILED
    async with Admin(settings.kafka) as admin:
        topics = await admin.describe(*names)
    waiting = await release(settings, topics.values(), dry_run=options.dry_run)
    for name, number in sorted(waiting.items(), key=lambda each: (len(each[0]), each[0])):
        print(strictjson.dumps({"topic": name, "waiting": number}).decode() if options.json else f"{name}  {number}")
    would = "would be tried again now" if options.dry_run else "are tried again now, as soon as the workers see it"
    say(f"{sum(waiting.values())} {would}")
    return DONE


async def _redrive_route(settings: Any, choice: DeadLetterFilter, options: argparse.Namespace) -> int:
    """Redrive a route's dead letters to each topic that it reads."""
    from agents.routes.topics import find_matched
    from streams.config.plugins import load_plugins
    from streams.sources import load

    load_plugins(settings)  # sources may name their schemas, checks and functions
    [route] = await find_matched([load(settings.sources).route(options.route)], settings)
    letters, group = route.failures or settings.dead_letters_topic, route.group(settings.group)
    if not route.topics:
        say(f"the patterns of the route {route.name} match no topic")
        return DONE
    of_route = replace(settings, dead_letters_topic=letters, group=group)
    scopes = [(replace(of_route, requests_topic=topic), choice._replace(topic=topic, route=route.name))
              for topic in route.topics]  # fmt: skip
    return await _redrive(scopes, options)


async def _redrive(scopes: Sequence[tuple[Any, DeadLetterFilter]], options: argparse.Namespace) -> int:
    """Redrive to one requests topic after the other, each by its settings and filter; all share the limit."""
    from agents.redrive.dead_letters import OTHERWISE, DeadLetters, Report

    would = _would(options)
    summary: Counter[tuple[str, str, str]] = Counter()
    missed = set(options.id)
    lines = count(1)

    def report_one(letter: DeadLetter, refusal: str | None) -> None:
        if refusal is None:
            summary[letter.outcome or "-", letter.source or "-", letter.host or "-"] += 1
            missed.discard(letter.request_id)
        if options.json:
            print(_json(letter, refusal, options), flush=True)
        elif (line := next(lines)) <= LINES:
            print(_line(letter, refusal or would), flush=True)
        elif line == LINES + 1:
            print("… and more: --json prints all", flush=True)

    report = Report(missing=list(options.letter))
    for settings, choice in scopes:
        left = None if options.limit is None else options.limit - report.redriven
        if left == 0:
            break
        found = await DeadLetters(settings).redrive(
            choice, rate=options.rate, limit=left, dry_run=options.dry_run, on_result=report_one
        )
        report.redriven += found.redriven
        del report.refused[OTHERWISE]  # each search counts the same ones
        report.refused += found.refused
        report.missing = [each for each in report.missing if each in found.missing]
    _sum_up(report, summary, scopes[0][0].dead_letters_topic, options)
    return _judge(report, missed, options)


def _judge(report: Report, missed: set[str], options: argparse.Namespace) -> int:
    """Return the exit code, and print which ids were not found, unless the limit came before them."""
    if report.redriven == options.limit:
        missed = set()
    elif report.redriven:
        for each in sorted(missed):
            say(printable(f"no dead letter of {each} {_would(options)}"))
    refused = options.letter and (report.refused or not report.redriven)
    return FAILED if report.missing or missed or refused else DONE


def _sum_up(
    report: Report, summary: Counter[tuple[str, str, str]], topic: str, options: argparse.Namespace
) -> None:  # fmt: skip
    """Print how many were redriven, and of many, which; and how many were not, and why."""
    if report.redriven or report.refused or report.missing:
        say(f"{report.redriven} {_would(options)}")
    else:
        say(f"no dead letter in {topic}" if options.all else f"no dead letter matches {_chosen(options)} in {topic}")
    for (outcome, source, host), number in summary.most_common() if report.redriven > LINES else ():
        say(printable(f"  {number} {outcome}, source {source}, host {host}"))
    for reason, number in report.refused.most_common():
        say(f"{number} not redriven: {reason}")
    for partition, offset in report.missing:
        say(f"no dead letter {partition}:{offset} in {topic}")


def _would(options: argparse.Namespace) -> str:
    return "would be redriven" if options.dry_run else "redriven"


def _chosen(options: argparse.Namespace) -> str:
    """Return the filters as they were given; ages as the times that they mean."""
    names = "outcome", "host", "source", "status", "id"
    given = [(name, value) for name in names for value in getattr(options, name)]
    given += [("max-deliveries", options.max_deliveries)] if options.max_deliveries is not None else []
    given += [("letter", f"{partition}:{offset}") for partition, offset in options.letter]
    moments = ((name, getattr(options, name)) for name in ("since", "until"))
    given += [(name, local_time(moment)) for name, moment in moments if moment is not None]
    flags = ["--retryable"] if options.retryable else []
    return " ".join([*(f"--{name} {value}" for name, value in given), *flags])


def _line(letter: DeadLetter, outcome: str) -> str:
    parts = [f"{letter.partition}:{letter.offset}", local_time(letter.at), letter.request_id or "-",
             letter.outcome or "-", letter.host or "-", f"delivery {letter.attempts}", outcome,
             clipped(letter.message, WIDTH)]  # fmt: skip
    return printable("  ".join(parts))


def _json(letter: DeadLetter, refusal: str | None, options: argparse.Namespace) -> str:
    shown = {"partition": letter.partition, "offset": letter.offset, "at": letter.at, "id": letter.request_id,
            "outcome": letter.outcome, "host": letter.host, "attempts": letter.attempts, "message": letter.message,
            "source": letter.source, "status": letter.status, "retryable": letter.may_help,
            "redriven": refusal is None and not options.dry_run}  # fmt: skip
    return strictjson.dumps(shown | ({"reason": refusal} if refusal else {})).decode()
