"""Follow the results topic."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from agents.commands import DONE
from models import strictjson
from models.errors import OUTCOMES
from models.result import ResultSchema, read_result

HELP = "follow the results"

WIDTH = 100
"""Characters of a document that a line for people shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--outcome", choices=OUTCOMES, action="append", help="only these outcomes (may be repeated)")
    parser.add_argument("--key", help="only results with this key")
    parser.add_argument("--from-beginning", action="store_true", help="from the earliest result on, not from now on")
    parser.add_argument("-n", "--count", type=_count, metavar="N", help="stop after N results")
    parser.add_argument("--json", action="store_true", help="the results as they are, one JSON object a line")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        msg = f"{text!r} is no number of results: 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Follow until --count or Ctrl-C."""
    from streams import settings as configuration

    return asyncio.run(_tail(configuration.load(), options))


async def _tail(settings: Any, options: argparse.Namespace) -> int:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from streams.kafka.client import connection, explain
    from streams.kafka.topics import require

    await require(settings.kafka, read=[settings.results_topic])
    consumer = AIOKafkaConsumer(
        settings.results_topic,
        **connection(settings.kafka),
        auto_offset_reset="earliest" if options.from_beginning else "latest",
        isolation_level="read_committed",
    )
    key = options.key.encode() if options.key else None
    shown = 0
    try:
        await consumer.start()
        async for record in consumer:
            if key is not None and record.key != key:
                continue
            line = _shown(record.value, options)
            if line is None:
                continue
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            shown += 1
            if options.count is not None and shown >= options.count:
                return DONE
    except (KafkaError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise explain(exc, settings.kafka) from exc
    finally:
        await consumer.stop()
    return DONE


def _shown(value: bytes | None, options: argparse.Namespace) -> str | None:
    """Return what to print for a result; None for one that was not asked for. What is no result is shown as it is."""
    try:
        result = read_result(value or b"null")
    except ValueError:
        result = None
    if ResultSchema().validate(result if isinstance(result, dict) else {}):
        return None if options.outcome else repr(value)
    if options.outcome and result.get("outcome") not in options.outcome:
        return None
    if options.json:
        return (value or b"").decode()
    parts = [str(result.get("id")), str(result.get("outcome")), str(result.get("cache", "-"))]
    parts.append(f"{result.get('elapsed_ms', 0)} ms")
    url = result.get("request", {}).get("url")
    detail = result.get("error", {}).get("message") or strictjson.dumps(result.get("document")).decode()[:WIDTH]
    verdicts = [f"{each['name']}={each.get('value', 'error')}" for each in result.get("checks", ())]
    line = "  ".join([*parts, *([url] if url else []), *verdicts, detail])
    return "".join(char if char.isprintable() else "�" for char in line)
