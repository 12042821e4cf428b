"""Print results as they arrive, or those of a time range."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from itertools import chain
from typing import Any

from agents.commands import (
    DONE,
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
from models.errors import OUTCOMES
from models.moment import is_credible
from models.result import read_result

WATCH_EVERY = 2.0
"""Seconds between two probes of the broker."""
POLL = 1.0
"""Longest wait of a poll for results, in seconds."""
DISORDER = 60.0
"""Seconds by which the clocks of workers may differ: reading continues for this long past --until."""
WIDTH = 100
"""Characters of a document in the text output."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("--outcome", choices=OUTCOMES, action="append", metavar="OUTCOME",
        help=f"only results with this outcome (repeatable): {', '.join(OUTCOMES)}")  # fmt: skip
    add("--key", help="only results with this record key")
    add("--id", action="append", help="only results of the request with this id (repeatable)")
    add("--source", action="append", help="only results of this source (repeatable)")
    add("--host", action="append", help="only results of URLs at this host, or host:port (repeatable)")
    add("--since", type=moment, metavar="TIME",
        help="start at this time, such as 2026-11-22T14:00Z, or 2h for two hours ago (default: now)")  # fmt: skip
    add("--until", type=moment, metavar="TIME",
        help="exit after the results from before this time; without --since, start at the earliest")  # fmt: skip
    add("--from-beginning", action="store_true", help="start at the earliest result")
    add("--give-up", type=non_negative, metavar="SECONDS",
        help="exit with 1 once the broker has been unreachable for this long (default: wait for it)")  # fmt: skip
    add("-n", "--count", type=positive, metavar="N", help="exit after N results")
    add("--json", action="store_true", help="print the whole results, one JSON object per line")


def run(options: argparse.Namespace) -> int:
    """Print results until --count, --until or Ctrl-C."""
    from streams.config import settings as configuration

    if is_empty_range("tail", options.since, options.until):
        return MISUSED
    return asyncio.run(_tail(configuration.load(), options))


async def _tail(settings: Any, options: argparse.Namespace) -> int:
    from streams.kafka import client
    from streams.kafka.topics import require
    from streams.tasks import first

    await require(settings.kafka, read=[settings.results_topic])
    past = options.from_beginning or (options.until is not None and options.since is None)
    opening = client.consumer(
        settings.kafka, settings.results_topic, auto_offset_reset="earliest" if past else "latest",
        isolation_level="read_committed",
    )  # fmt: skip
    async with opening as consumer:
        if options.since is not None:
            for tp, offset in (await _offsets_at(consumer, options.since)).items():
                consumer.seek(tp, offset)
        await first(_follow(consumer, options), _watch(settings.kafka, options.give_up))
    return DONE


async def _offsets_at(consumer: Any, at: float) -> dict[Any, int]:
    """Return each partition's first offset of this time or later; its end offset if there is none."""
    tps = list(consumer.assignment())
    found = await consumer.offsets_for_times({tp: int(at * 1000) for tp in tps})
    ends = await consumer.end_offsets(tps)
    return {tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in tps}


async def _follow(consumer: Any, options: argparse.Namespace) -> None:
    """Print the results that match, until --count or --until."""
    from streams.kafka.client import poll

    shown, ends = 0, None
    while True:
        if options.until is not None and ends is None and time.time() >= options.until:
            ends = await _offsets_at(consumer, options.until + DISORDER)
        if ends is not None and all([await consumer.position(tp) >= end for tp, end in ends.items()]):
            return
        polled = await poll(consumer, seconds=POLL)
        for record in chain.from_iterable(polled.values()):
            line = _shown(record, options) if _may_match(record, options) else None
            if line is None:
                continue
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            shown += 1
            if options.count is not None and shown >= options.count:
                return


async def _watch(kafka: Any, give_up: float | None) -> None:
    """Report once that the broker is unreachable, and once that it is back: the consumer itself retries in silence.

    Raises BrokerError if it denies access, or has been unreachable for `give_up` seconds.
    """
    from models.errors import AccessError, BrokerError
    from streams.kafka.client import BrokerConnection

    away: float | None = None
    while True:
        await asyncio.sleep(WATCH_EVERY)
        try:
            async with BrokerConnection(kafka):
                pass
        except AccessError:
            raise
        except BrokerError as exc:
            if away is None:
                away = time.monotonic()
                say(f"millrace tail: {exc}; retrying")
            if give_up is not None and time.monotonic() - away >= give_up:
                raise
        else:
            if away is not None:
                say("millrace tail: Kafka is reachable again")
            away = None


def _may_match(record: Any, options: argparse.Namespace) -> bool:
    """Whether a record may match the options, judged without parsing its value."""
    at = record.timestamp / 1000
    if (options.since is not None and at < options.since) or (options.until is not None and at >= options.until):
        return False
    if options.key and record.key != os.fsencode(options.key):
        return False
    named = [content for name, content in record.headers if name == "ce_id"] if options.id else ()
    return not named or any(name.encode() in named for name in options.id)


def _shown(record: Any, options: argparse.Namespace) -> str | None:
    """Return the line for a result, None if it does not match. What is no result is shown as its repr; to programs, not
    at all.
    """
    value = record.value
    try:
        result = read_result(value or b"null")
    except ValueError:
        result = None
    filtered = options.outcome or options.id or options.source or options.host
    if filtered and not (isinstance(result, dict) and _matches(result, options)):
        return None
    if options.json:
        if isinstance(result, dict):  # of this release or the next, which may have more
            return strictjson.compact(value).decode()
        say(f"millrace tail: {record.topic}-{record.partition}, offset {record.offset}: left out, it is no JSON object")
        return None
    try:
        return _line(record, result)
    except (AttributeError, KeyError, TypeError):
        return None if filtered else repr(value)


def _line(record: Any, result: Any) -> str:
    """Return the line for a result. Raises one of three errors for what is none."""
    at = "unknown"
    if is_credible(record.timestamp, time.time()):
        at = local_time(record.timestamp / 1000)
    key = "-" if record.key is None else record.key.decode(errors="replace")
    parts = [at, key, str(result["id"]), str(result["outcome"]), str(result.get("cache", "-"))]
    parts.append(f"{result.get('elapsed_ms', 0)} ms")
    url = result.get("request", {}).get("url")
    document = strictjson.dumps(result["document"]).decode() if "document" in result else ""
    detail = result.get("error", {}).get("message") or clipped(document, WIDTH)
    checks = [f"{each['name']}={each.get('value', 'error')}" for each in result.get("checks", ())]
    line = "  ".join([*parts, *([url] if url else []), *checks, detail])
    return printable(line)


def _matches(result: Any, options: argparse.Namespace) -> bool:
    """Whether a parsed result matches the options."""
    from streams.http.url import origin_of

    request = result.get("request")
    request = request if isinstance(request, dict) else {}
    url = request.get("url")
    host = (origin_of(url).host if isinstance(url, str) else None) or ""
    return (
        (not options.outcome or result.get("outcome") in options.outcome)
        and (not options.id or result.get("id") in options.id)
        and (not options.source or request.get("source") in options.source)
        and (not options.host or host in options.host or host.rpartition(":")[0] in options.host)
    )
