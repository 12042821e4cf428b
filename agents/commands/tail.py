"""Follow the results topic."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import datetime
from itertools import chain
from typing import Any

from agents.commands import DONE, clipped, moment, positive, say, seconds
from models import strictjson
from models.errors import OUTCOMES
from models.moment import is_credible
from models.result import ResultSchema, read_result

HELP = "follow the results"

WATCH_EVERY = 2.0
"""Seconds between two looks at whether the broker is there."""
POLL_MS = 1_000
"""Milliseconds that a poll waits for results."""
DISORDER = 60.0
"""Seconds by which the clocks of workers that write to one partition may differ: reading goes on for as long behind
--until."""
WIDTH = 100
"""Characters of a document that a line for people shows."""
_SCHEMA = ResultSchema()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--outcome", choices=OUTCOMES, action="append", help="only these outcomes (may be repeated)")
    parser.add_argument("--key", help="only results with this key")
    parser.add_argument("--id", action="append", help="only of requests with this id (may be repeated)")
    parser.add_argument("--source", action="append", help="only of requests for this source (may be repeated)")
    parser.add_argument(
        "--host", action="append", help="only of requests for a URL at this host, or host:port (may be repeated)"
    )
    parser.add_argument("--since", type=moment, metavar="TIME",
                        help="from this time on: 2026-11-22T14:00Z, or 2h for ago (default: from now on)")  # fmt: skip
    parser.add_argument("--until", type=moment, metavar="TIME",
                        help="from before this time, all there are unless --since is given; then it ends")  # fmt: skip
    parser.add_argument("--from-beginning", action="store_true", help="from the earliest result on, not from now on")
    parser.add_argument("--give-up", type=seconds, metavar="SECONDS",
                        help="end with 1 if the broker is away for so long (default: wait for it)")  # fmt: skip
    parser.add_argument("-n", "--count", type=positive, metavar="N", help="stop after N results")
    parser.add_argument("--json", action="store_true", help="the results as they are, one JSON object a line")


def run(options: argparse.Namespace) -> int:
    """Follow until --count or Ctrl-C."""
    from streams.config import settings as configuration

    return asyncio.run(_tail(configuration.load(), options))


async def _tail(settings: Any, options: argparse.Namespace) -> int:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from streams.kafka.client import connection, explain, stop
    from streams.kafka.topics import require
    from streams.tasks import first

    await require(settings.kafka, read=[settings.results_topic])
    past = options.from_beginning or (options.until is not None and options.since is None)
    consumer = AIOKafkaConsumer(
        settings.results_topic,
        **connection(settings.kafka),
        auto_offset_reset="earliest" if past else "latest",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        if options.since is not None:
            for tp, offset in (await _offsets_at(consumer, options.since)).items():
                consumer.seek(tp, offset)
        await first(_follow(consumer, options), _watch(settings.kafka, options.give_up))
    except (KafkaError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise explain(exc, settings.kafka) from exc
    finally:
        await stop(consumer)
    return DONE


async def _offsets_at(consumer: Any, at: float) -> dict[Any, int]:
    """Return where each partition's first record of this time or later is; its end if there is none."""
    tps = list(consumer.assignment())
    found = await consumer.offsets_for_times({tp: int(at * 1000) for tp in tps})
    ends = await consumer.end_offsets(tps)
    return {tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in tps}


async def _follow(consumer: Any, options: argparse.Namespace) -> None:
    """Print what was asked for, until --count or --until."""
    from streams.kafka.client import require_fetching

    shown, ends = 0, None
    while True:
        require_fetching(consumer)
        if options.until is not None and ends is None and time.time() >= options.until:
            ends = await _offsets_at(consumer, options.until + DISORDER)
        if ends is not None and all([await consumer.position(tp) >= end for tp, end in ends.items()]):
            return
        polled = await consumer.getmany(timeout_ms=POLL_MS)
        for record in chain.from_iterable(polled.values()):
            line = _shown(record, options) if _may_be_chosen(record, options) else None
            if line is None:
                continue
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            shown += 1
            if options.count is not None and shown >= options.count:
                return


async def _watch(kafka: Any, give_up: float | None) -> None:
    """Say once that the broker is away, and once that it is back: the consumer itself tries for ever without a word.

    Raises BrokerError when it refuses us, or has been away for `give_up` seconds.
    """
    from models.errors import AccessError, BrokerError
    from streams.kafka.broker_connection import BrokerConnection

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
                say(f"millrace tail: {exc}; waiting for it")
            if give_up is not None and time.monotonic() - away >= give_up:
                raise
        else:
            if away is not None:
                say("millrace tail: Kafka is there again")
            away = None


def _may_be_chosen(record: Any, options: argparse.Namespace) -> bool:
    """Whether a record may be one that was asked for, by what is known of it without parsing it."""
    at = record.timestamp / 1000
    if (options.since is not None and at < options.since) or (options.until is not None and at >= options.until):
        return False
    if options.key and record.key != options.key.encode():
        return False
    named = [content for name, content in record.headers if name == "ce_id"] if options.id else ()
    return not named or any(name.encode() in named for name in options.id)


def _shown(record: Any, options: argparse.Namespace) -> str | None:
    """Return what to print for a result; None for one that was not asked for. What is no result is shown as it is."""
    value = record.value
    try:
        result = read_result(value or b"null")
    except ValueError:
        result = None
    chosen = options.outcome or options.id or options.source or options.host
    if chosen and not (isinstance(result, dict) and _chosen(result, options)):
        return None
    if _SCHEMA.validate(result if isinstance(result, dict) else {}):  # made once: it costs as much as it validates
        return None if chosen else repr(value)
    if options.json:
        return (value or b"").decode()
    at = "unknown"
    if is_credible(record.timestamp, time.time()):
        at = datetime.fromtimestamp(record.timestamp / 1000).astimezone().isoformat(timespec="seconds")
    key = "-" if record.key is None else record.key.decode(errors="replace")
    parts = [at, key, str(result.get("id")), str(result.get("outcome")), str(result.get("cache", "-"))]
    parts.append(f"{result.get('elapsed_ms', 0)} ms")
    url = result.get("request", {}).get("url")
    document = strictjson.dumps(result["document"]).decode() if "document" in result else ""
    detail = result.get("error", {}).get("message") or clipped(document, WIDTH)
    verdicts = [f"{each['name']}={each.get('value', 'error')}" for each in result.get("checks", ())]
    line = "  ".join([*parts, *([url] if url else []), *verdicts, detail])
    return "".join(char if char.isprintable() else "�" for char in line)


def _chosen(result: Any, options: argparse.Namespace) -> bool:
    """Whether a result was asked for, by what it says itself."""
    from agents.answer.headers import host_of

    request = result.get("request")
    request = request if isinstance(request, dict) else {}
    url = request.get("url")
    host = (host_of(url) if isinstance(url, str) else None) or ""
    return (
        (not options.outcome or result.get("outcome") in options.outcome)
        and (not options.id or result.get("id") in options.id)
        and (not options.source or request.get("source") in options.source)
        and (not options.host or host in options.host or host.rpartition(":")[0] in options.host)
    )
