"""Put requests on the requests topic: JSON lines from a file or stdin, or a single request given by options.

For a single request, prints its id: the one given, or TOPIC-PARTITION-OFFSET.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

from agents.commands import DONE, FAILED, MISUSED, non_negative, say
from models import request as requests
from models import strictjson
from models.errors import AnswerError

MAX_REPORTED = 20
"""Invalid lines that are reported one by one."""
MEMBERS = ("param", "schema", "check", "max_age", "timeout", "id", "json")
"""Options of a single request."""
IN_FLIGHT = 1_000
"""Requests sent before their delivery is awaited."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("file", nargs="?", default=None, help="JSON lines, one request each (default, and -: stdin)")
    add("--key", help="record key of every request sent")
    add("--raw", action="store_true", help="send the lines unchanged, without validation")
    add = parser.add_argument_group("a single request").add_argument
    add("--url", help="send a request for this URL")
    add("--source", metavar="NAME", help="send a request to this source")
    add("--param", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of the source: JSON, or else a string (repeatable)")  # fmt: skip
    add("--schema", help="schema that loads the response")
    add("--check", action="append", default=[], metavar="NAME[:FIELD]",
        help="a check to run on the document, or on one of its fields (repeatable)")  # fmt: skip
    add("--max-age", type=non_negative, metavar="SECONDS", help="maximum age of a cached answer")
    add("--timeout", type=non_negative, metavar="SECONDS", help="time limit for the request")
    add("--id", help="id of the request")
    add("--json", action="store_true", help="print id, partition and offset as JSON")


def run(options: argparse.Namespace) -> int:
    """Send; returns 1 if a line is not a valid request (the valid ones are still sent), 2 for wrong usage."""
    from streams.config import settings as configuration
    from streams.config.plugins import load_plugins

    if (misuse := _misuse(options)) is not None:
        say(f"millrace send: {misuse}")
        return MISUSED
    settings = configuration.load()
    load_plugins(settings)  # requests may name their checks and schemas
    return asyncio.run(_send(settings, options))


def _misuse(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options, if anything."""
    values = {name: getattr(options, name) for name in MEMBERS}
    given = [name for name, value in values.items() if value or (value == 0 and value is not False)]
    if sum(each is not None for each in (options.file, options.url, options.source)) > 1:
        return "give only one of a file, --url and --source"
    if given and options.url is None and options.source is None:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        return f"{names}: only with --url or --source; lines of a file carry their own"
    if options.param and options.source is None:
        return "--param: only with --source"
    wrong = next((each for each in options.param if "=" not in each), None)
    return None if wrong is None else f"--param: invalid parameter {wrong!r}: use NAME=VALUE"


def _one(options: argparse.Namespace) -> bytes:
    """Return the request that the options describe."""
    pairs = (text.partition(":") for text in options.check)
    members: dict[str, Any] = {
        "id": options.id,
        "url": options.url,
        "source": options.source,
        "params": {name: _value(text) for name, _, text in (each.partition("=") for each in options.param)} or None,
        "schema": options.schema,
        "checks": [{"name": name, "field": field} if field else name for name, _, field in pairs] or None,
        "max_age": options.max_age,
        "timeout": options.timeout,
    }
    return strictjson.dumps({name: value for name, value in members.items() if value is not None})


def _value(text: str) -> Any:
    """Return a parameter's JSON value, or its text if JSON would change it, as with 1.10."""
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
            say("reading requests from the terminal, one JSON object per line; end with Ctrl-D")
        # A reader of our own: Python closes sys.stdin at exit, and would wait for the thread that reads it.
        return (line.strip() for line in open(0, "rb", closefd=False))
    with open(options.file, "rb") as file:  # noqa: PTH123  a path typed by the user
        return [line.strip() for line in file]


async def _arriving(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield lines as they come. Nothing waits for the reading thread: after Ctrl-C a terminal may stay silent."""
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
    from streams.kafka import client
    from streams.kafka.topics import require

    try:
        lines = _lines(options)
    except OSError as exc:
        say(f"millrace send: {exc}")
        return FAILED
    await require(settings.kafka, write=[settings.requests_topic])
    sent = invalid = 0
    key = os.fsencode(options.key) if options.key else None
    pending: list[Any] = []
    async with client.producer(settings.kafka, linger_ms=5) as producer:
        number = 0
        # The writer to stdin may pause: what was read so far is sent meanwhile.
        async for line in _arriving(lines):
            number += 1
            if not line:
                continue
            if not options.raw:
                try:
                    requests.parse(line)
                except AnswerError as exc:  # an invalid request, or a denied one
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
    if sent and (options.url is not None or options.source is not None):
        print(_sent(options, *places))
    say(f"{sent} sent to {settings.requests_topic}" + (f", {invalid} invalid and not sent" if invalid else ""))
    return FAILED if invalid else DONE


def _sent(options: argparse.Namespace, place: Any) -> str:
    """Return the id of the single request, with its partition and offset as JSON if so requested."""
    request_id = options.id or f"{place.topic}-{place.partition}-{place.offset}"
    shown = {"id": request_id, "partition": place.partition, "offset": place.offset}
    return strictjson.dumps(shown).decode() if options.json else request_id
