"""Look into the cache and empty it: the tiers that workers share, and the memory of the workers that are named.

get finds what a request would be answered with; purge removes by URL, by source, or all. A worker's own memory is
reached over HTTP (--worker, may be repeated), and purged only with MILLRACE_WEB_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from agents.commands import DONE, FAILED, MISUSED, say
from models import strictjson
from models.errors import AnswerError, MillraceError, PurgeError
from models.result import read_result

if TYPE_CHECKING:
    from streams.cache.entry import Entry
    from streams.cache.front import Cache
    from streams.config.settings import Settings

HELP = "look into the cache, or purge it"

NONE_SHARED = "MILLRACE_CACHE names no tier that workers share"
WORKER_TIMEOUT = 10.0
"""Seconds that a worker may take to answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("action", choices=("stats", "get", "purge"))
    parser.add_argument("--request", metavar="JSON", help="get: the request, as on the requests topic")
    parser.add_argument("--url", help="get: the request {url: URL}; purge: every entry of this URL")
    parser.add_argument("--source", help="purge: every entry of this source")
    parser.add_argument("--all", action="store_true", help="purge: every entry of ours")
    parser.add_argument("--worker", action="append", default=[], metavar="URL",
                        help="also this worker's memory, such as http://127.0.0.1:6066")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: argparse.Namespace) -> int:
    """Do it; returns 1 if nothing was found or a tier or worker could not be reached, 2 for wrong usage."""
    from streams.cache.front import Cache
    from streams.config import settings as configuration
    from streams.config.cache_url import parse_tiers

    settings = configuration.load()

    async def work() -> int:
        async with Cache(parse_tiers(settings.cache)) as cache:
            return await ACTIONS[options.action](settings, cache, options)

    return asyncio.run(work())


async def _stats(_: Settings, cache: Cache, options: argparse.Namespace) -> int:
    from streams.cache.file import COUNTED

    figures = await cache.stats()
    # This process has counted nothing, but for what went wrong in looking.
    lower = [
        {name: value for name, value in tier.items() if value or name not in COUNTED}
        for tier in figures["tiers"]
        if tier["tier"] != "memory"
    ]
    found = [("here", {"tiers": lower})] if lower else []
    code = DONE
    for worker in options.worker:
        try:
            found.append((worker, await _worker("GET", worker, {}, None)))
        except MillraceError as exc:
            say(f"millrace cache: {exc}")
            code = FAILED
    if not found and not options.worker:
        say(f"{NONE_SHARED}; name a worker with --worker http://host:port")
    for where, told in found:
        for tier in told["tiers"]:
            line = {"where": where} | tier
            print(strictjson.dumps(line).decode() if options.json else "  ".join(f"{k}={v}" for k, v in line.items()))
    return code


async def _get(settings: Settings, cache: Cache, options: argparse.Namespace) -> int:
    from agents.answer.parsed_requests import parse_request
    from models import request as requests
    from streams.config.plugins import load_plugins
    from streams.sources import load

    if (options.url is None) == (options.request is None):
        say("millrace cache get: give --url URL, or --request JSON")
        return MISUSED
    if options.worker:
        say("millrace cache get: looks into the tiers that workers share; a worker's memory is not shown")
        return MISUSED
    if not cache.lower:
        say(f"{NONE_SHARED}; a worker's memory is not shown")
        return FAILED
    load_plugins(settings)
    text = options.request.encode() if options.request else strictjson.dumps({"url": options.url})
    try:
        known = parse_request(requests.parse(text)[1], load(settings.sources))
    except AnswerError as exc:
        say(f"millrace cache get: {exc}")
        return MISUSED
    entry = await cache.find(known.key) if known.key is not None else None
    if entry is None:
        say("nothing is kept for it in the tiers that workers share")
        return FAILED
    print(_shown(entry, known.checks, time.time(), as_json=options.json))
    return DONE


def _shown(entry: Entry, checks: tuple[str, ...], now: float, *, as_json: bool) -> str:
    """Say what is kept, with what the checks said if that is known."""
    verdicts = entry.check_results.joined(checks, now) if checks and entry.check_results is not None else None
    answer = read_result(b"{%b}" % (entry.shared if verdicts is None else entry.with_check_results(*verdicts).shared))
    state = "fresh" if now < entry.fresh_until else "stale"
    told = {"state": state, "age": round(now - entry.as_of, 1), "kept": round(entry.keep_until - now, 1)}
    if as_json:
        return strictjson.dumps(told | {"answer": answer}).decode()
    head = f"{state}, {told['age']} s old, kept for {told['kept']} s more"
    return f"{head}\n{strictjson.dumps(answer).decode()}"


async def _purge(settings: Settings, cache: Cache, options: argparse.Namespace) -> int:
    from agents.answer.parsed_requests import matching

    query = {name: value for name, value in (("url", options.url), ("source", options.source)) if value is not None}
    query |= {"all": "true"} if options.all else {}
    if len(query) != 1:
        say("millrace cache purge: give one of --url URL, --source NAME and --all")
        return MISUSED
    code, removed = DONE, 0
    try:
        removed = await cache.purge(matching(options.url, options.source))
    except PurgeError as exc:
        removed = exc.removed
        say(f"millrace cache: {exc}")
        code = FAILED
    for worker in options.worker:  # after the shared tiers, from which they would fill their memory again
        try:
            removed += (await _worker("DELETE", worker, query, settings.web_token))["removed"]
        except MillraceError as exc:
            say(f"millrace cache: {exc}")
            code = FAILED
    if options.json:
        print(strictjson.dumps({"removed": removed}).decode())
    elif removed or code == DONE:
        print("1 entry removed" if removed == 1 else f"{removed} entries removed")
    if not removed and code == DONE:
        say("nothing was kept under that name")
    if not options.worker:
        say("workers keep what they have in memory until it ends; name them with --worker to purge that too")
    return code


async def _worker(method: str, url: str, query: dict[str, str], token: str | None) -> Any:
    """Ask a worker. Raises MillraceError saying which and why not."""
    import aiohttp

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=WORKER_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url.rstrip("/") + "/api/cache", params=query, headers=headers) as response,
        ):
            body = await response.read()
            if not response.ok:
                msg = f"{url}: {_detail(body) or f'answered {response.status}'}"
                if response.status == HTTPStatus.UNAUTHORIZED:
                    msg += ": set MILLRACE_WEB_TOKEN as the worker has it"
                raise MillraceError(msg)
            return strictjson.loads(body)
    except aiohttp.ClientConnectorError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror  # DNS has its own numbers
        msg = f"{url}: no worker answers there: {reason}"
        raise MillraceError(msg) from exc
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        msg = f"{url}: no worker answers there: {exc or type(exc).__name__}"
        raise MillraceError(msg) from exc


def _detail(body: bytes) -> str | None:
    """Return what a worker's problem details say, None where something else answered."""
    try:
        detail = strictjson.loads(body)["detail"]
    except (ValueError, TypeError, KeyError):
        return None
    return detail if isinstance(detail, str) else None


ACTIONS: dict[str, Callable[[Any, Any, argparse.Namespace], Coroutine[Any, Any, int]]] = {
    "stats": _stats,
    "get": _get,
    "purge": _purge,
}
