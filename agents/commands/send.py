"""Put requests on the requests topic: JSON lines from a file or stdin, or one request from the options, whose id is
then printed: its own, or topic-partition-offset.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

from agents.commands import DONE, FAILED, MISUSED, say, seconds
from models import request as requests
from models import strictjson
from models.errors import AnswerError

HELP = "put requests on the requests topic"

MAX_REPORTED = 20
"""Invalid lines that are named one by one."""
MEMBERS = ("param", "schema", "check", "max_age", "timeout", "id", "json")
"""Options that are about one request."""
IN_FLIGHT = 1_000
"""Requests whose delivery is awaited together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("file", nargs="?", default=None, help="JSON lines, one request each; - or nothing reads stdin")
    add("--url", help="send one request for this URL instead")
    add("--source", metavar="NAME", help="send one request for this named source instead")
    add("--param", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of the source; JSON, or else a string (with --source; may be repeated)")  # fmt: skip
    add("--schema", help="how to load the answer (one request)")
    add("--check", action="append", default=[], metavar="NAME[:FIELD]",
        help="a check to run (one request; may be repeated)")  # fmt: skip
    add("--max-age", type=seconds, metavar="SECONDS", help="the oldest cached answer taken (one request)")
    add("--timeout", type=seconds, metavar="SECONDS", help="the request's deadline (one request)")
    add("--id", help="the request's id (one request)")
    add("--key", help="the record's key, for every request sent")
    add("--raw", action="store_true", help="send lines as they are, without validating them")
    add("--json", action="store_true", help="print id, partition and offset as JSON (one request)")


def run(options: argparse.Namespace) -> int:
    """Send; returns 1 if a line is no valid request (the valid ones are sent all the same), 2 for wrong usage."""
    from streams.config import settings as configuration
    from streams.config.plugins import load_plugins

    if (misuse := _misuse(options)) is not None:
        say(f"millrace send: {misuse}")
        return MISUSED
    settings = configuration.load()
    load_plugins(settings)  # their checks and schemas are names that a request may give
    return asyncio.run(_send(settings, options))


def _misuse(options: argparse.Namespace) -> str | None:
    """Say what of the options cannot be meant."""
    values = {name: getattr(options, name) for name in MEMBERS}
    given = [name for name, value in values.items() if value or (value == 0 and value is not False)]
    if sum(each is not None for each in (options.file, options.url, options.source)) > 1:
        return "give one of a file, --url and --source"
    if given and options.url is None and options.source is None:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        return f"{names}: only with --url or --source; a line says its own"
    if options.param and options.source is None:
        return "--param: only with --source"
    wrong = next((each for each in options.param if "=" not in each), None)
    return None if wrong is None else f"--param: {wrong!r} is no NAME=VALUE"


def _one(options: argparse.Namespace) -> bytes:
    """Return the request that the options say, without what they leave out."""
    pairs = (text.partition(":") for text in options.check)
    said: dict[str, Any] = {
        "id": options.id,
        "url": options.url,
        "source": options.source,
        "params": {name: _value(text) for name, _, text in (each.partition("=") for each in options.param)} or None,
        "schema": options.schema,
        "checks": [{"name": name, "field": field} if field else name for name, _, field in pairs] or None,
        "max_age": options.max_age,
        "timeout": options.timeout,
    }
    return strictjson.dumps({name: value for name, value in said.items() if value is not None})


def _value(text: str) -> Any:
    """Return the JSON that a parameter is, or its text: also for a number written otherwise, such as 1.10."""
    try:
        value = strictjson.loads(text.encode())
    except ValueError:
        return text
    return value if isinstance(value, dict | list) or strictjson.dumps(value) == text.encode() else text


def _lines(options: argparse.Namespace) -> Iterable[bytes]:
    if options.url is not None or options.source is not None:
        return [_one(options)]
    if options.file in (None, "-"):
        if sys.stdin.isatty():
            say("reading requests from the terminal, one JSON object a line; end with Ctrl-D")
        # A reader of our own: Python closes its own at the end, and would wait for who still reads from it.
        return (line.strip() for line in open(0, "rb", closefd=False))
    with open(options.file, "rb") as file:  # noqa: PTH123  a path typed by the user
        return [line.strip() for line in file]


async def _arriving(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield lines as they come. Who reads them is waited for by nobody: after Ctrl-C a terminal may stay silent."""
    from streams.tasks import start_thread

    loop, room = asyncio.get_running_loop(), threading.Semaphore(IN_FLIGHT)
    arrived: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def read() -> None:
        end = None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            try:
                for line in lines:
                    room.acquire()
                    loop.call_soon_threadsafe(arrived.put_nowait, line)
            except Exception as exc:  # noqa: BLE001  it is raised where the lines are awaited
                end = exc
            loop.call_soon_threadsafe(arrived.put_nowait, end)

    start_thread(read, "reading lines", means="nothing more is sent")
    while (line := await arrived.get()) is not None:
        if isinstance(line, Exception):
            raise line
        room.release()
        yield line


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
        number = 0
        # Whoever writes to stdin may pause: what was read so far goes out meanwhile.
        async for line in _arriving(lines):
            number += 1
            if not line:
                continue
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
        places = await asyncio.gather(*pending)
    except (KafkaError, OSError) as exc:
        raise explain(exc, settings.kafka) from exc
    finally:
        await producer.stop()
    if sent and (options.url is not None or options.source is not None):
        print(_sent(options, *places))
    say(f"{sent} sent to {settings.requests_topic}" + (f", {invalid} invalid and not sent" if invalid else ""))
    return FAILED if invalid else DONE


def _sent(options: argparse.Namespace, place: Any) -> str:
    """Return how the one request is known from now on."""
    request_id = options.id or f"{place.topic}-{place.partition}-{place.offset}"
    told = {"id": request_id, "partition": place.partition, "offset": place.offset}
    return strictjson.dumps(told).decode() if options.json else request_id
