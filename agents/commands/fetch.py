"""Fetch URLs concurrently, without Kafka. Prints the size of each page, or why its fetch failed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

from agents.commands import DONE, FAILED
from models import strictjson
from models.errors import AnswerError, TimedOut


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("url", nargs="+", help="URL to fetch")
    parser.add_argument("--json", action="store_true", help="print one JSON object per URL")


def run(options: argparse.Namespace) -> int:
    """Fetch the URLs; returns 1 if a fetch failed."""
    return asyncio.run(_fetch(options))


async def _fetch(options: argparse.Namespace) -> int:
    from models.request import Request
    from streams.config import settings as configuration
    from streams.http.client import client_of
    from streams.http.response import refuse_partial
    from streams.tasks import start

    settings = configuration.load()
    deadline = time.monotonic() + settings.timeout

    async with client_of(settings) as client:

        async def size(url: str) -> int | AnswerError:
            try:
                async with asyncio.timeout(settings.timeout):
                    response = await client.fetch("GET", url, {}, deadline=deadline)
                    refuse_partial(Request(url=url), response)
                    return len(response.body.content)
            except AnswerError as exc:
                return exc
            except TimeoutError:
                return TimedOut(f"no answer within {settings.timeout:g} s")

        tasks = [start(size(url), f"fetching {url}", means="its size is unknown") for url in options.url]
        code = DONE
        for url, task in zip(options.url, tasks, strict=True):
            found = await task
            code = FAILED if isinstance(found, AnswerError) else code
            sys.stdout.write((_as_json if options.json else _as_text)(url, found) + "\n")
            sys.stdout.flush()
    return code


def _as_text(url: str, found: int | AnswerError) -> str:
    if isinstance(found, AnswerError):
        return f"{url!r} generated an exception: {type(found).__name__}: {found}"
    return f"{url!r} page is {found} bytes"


def _as_json(url: str, found: int | AnswerError) -> str:
    members: dict[str, Any]
    if isinstance(found, AnswerError):
        members = {"url": url, "outcome": found.outcome, "error": found.describe()}
    else:
        members = {"url": url, "outcome": "ok", "bytes": found}
    return strictjson.dumps(members).decode()
