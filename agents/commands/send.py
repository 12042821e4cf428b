"""Put requests on the requests topic: JSON lines from a file or stdin, or one request from the options."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from agents.commands import DONE, FAILED, MISUSED, say
from models import request as requests
from models import strictjson
from models.errors import AnswerError

HELP = "put requests on the requests topic"

MAX_REPORTED = 20
"""Invalid lines that are named one by one."""
IN_FLIGHT = 1_000
"""Requests whose delivery is awaited together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("file", nargs="?", default=None, help="JSON lines, one request each; - or nothing reads stdin")
    parser.add_argument("--url", help="send one request for this URL instead")
    parser.add_argument("--schema", help="how to load the answer (with --url)")
    parser.add_argument("--check", action="append", default=[], metavar="NAME[:FIELD]",
                        help="a check to run (with --url; may be repeated)")  # fmt: skip
    parser.add_argument("--id", help="the request's id (with --url)")
    parser.add_argument("--key", help="the record's key, for every request sent")
    parser.add_argument("--raw", action="store_true", help="send lines as they are, without validating them")


def run(options: argparse.Namespace) -> int:
    """Send; returns 1 if a line is no valid request (the valid ones are sent all the same), 2 for wrong usage."""
    from streams import settings as configuration
    from streams.plugins import load_plugins

    given = [name for name in ("schema", "check", "id") if getattr(options, name)]
    if options.url and options.file is not None:
        say("millrace send: give a file or --url, not both")
        return MISUSED
    if given and not options.url:
        say(f"millrace send: {', '.join(f'--{name}' for name in given)}: only with --url; a line says its own")
        return MISUSED
    settings = configuration.load()
    load_plugins(settings)  # their checks and schemas are names that a request may give
    return asyncio.run(_send(settings, options))


def _one(options: argparse.Namespace) -> bytes:
    members: dict[str, Any] = {"url": options.url}
    if options.id:
        members["id"] = options.id
    if options.schema:
        members["schema"] = options.schema
    if options.check:
        pairs = (text.partition(":") for text in options.check)
        members["checks"] = [{"name": name, "field": field} if field else name for name, _, field in pairs]
    return strictjson.dumps(members)


def _lines(options: argparse.Namespace) -> Iterable[bytes]:
    if options.url:
        return [_one(options)]
    if options.file in (None, "-"):
        if sys.stdin.isatty():
            say("reading requests from the terminal, one JSON object a line; end with Ctrl-D")
        return (line.strip() for line in sys.stdin.buffer if line.strip())
    with open(options.file, "rb") as file:  # noqa: PTH123  a path typed by the user
        return [line.strip() for line in file if line.strip()]


async def _send(settings: Any, options: argparse.Namespace) -> int:
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    from streams.kafka.client import connection, explain
    from streams.kafka.topics import require

    try:
        lines = _lines(options)
    except OSError as exc:
        say(f"millrace send: {exc}")
        return FAILED
    await require(settings.kafka, write=[settings.requests_topic])
    producer = AIOKafkaProducer(**connection(settings.kafka), acks="all", enable_idempotence=True, linger_ms=5)
    sent = invalid = 0
    key = options.key.encode() if options.key else None
    pending: list[Any] = []
    try:
        await producer.start()
        numbered = enumerate(lines, 1)
        # Whoever writes to stdin may pause: what was read so far goes out meanwhile.
        while (item := await asyncio.to_thread(next, numbered, None)) is not None:
            number, line = item
            if not options.raw:
                try:
                    requests.parse(line)
                except AnswerError as exc:  # no request, or one that is denied
                    invalid += 1
                    if invalid <= MAX_REPORTED:
                        say(f"line {number}: {exc}")
                    continue
            pending.append(await producer.send(settings.requests_topic, line, key=key))
            sent += 1
            if len(pending) >= IN_FLIGHT:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    except (KafkaError, OSError) as exc:
        raise explain(exc, settings.kafka) from exc
    finally:
        await producer.stop()
    say(f"{sent} sent to {settings.requests_topic}" + (f", {invalid} invalid and not sent" if invalid else ""))
    return FAILED if invalid else DONE
