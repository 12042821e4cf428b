"""Inspect or purge the cache: the tiers that workers share, and the memory of the workers named by --worker.

stats prints the figures of each tier. get prints the cached answer to a request. purge removes entries of a URL, of a
source, or all of them. A worker is reached over HTTP; to purge its memory, set MILLRACE_WEB_TOKEN.
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

NONE_SHARED = "MILLRACE_CACHE has no tier that workers share"
WORKER_TIMEOUT = 10.0
"""Seconds for a worker to respond."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("action", choices=("stats", "get", "purge"))
    parser.add_argument("--request", metavar="JSON", help="get: the request, as it would be on the requests topic")
    parser.add_argument("--url", help="get: a request for this URL; purge: entries of this URL")
    parser.add_argument("--source", help="purge: entries of this source")
    parser.add_argument("--all", action="store_true", help="purge: all entries of Millrace")
    parser.add_argument("--worker", action="append", default=[], metavar="URL",
                        help="stats, purge: also this worker, such as http://127.0.0.1:6066 (repeatable)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")


def run(options: argparse.Namespace) -> int:
    """Run the action; returns 1 if nothing was found or a tier or worker is unreachable, 2 for wrong usage."""
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
    # Counters of this process are zero, except for errors that it met just now.
    lower = [
        {name: value for name, value in tier.items() if value or name not in COUNTED}
        for tier in figures["tiers"]
        if tier["tier"] != "memory"
    ]
    found = [("here", {"tiers": lower})] if lower else []
    code = DONE
    for worker in options.worker:
        try:
            found.append((worker, await _stats_of(worker)))
        except MillraceError as exc:
            say(f"millrace cache: {exc}")
            code = FAILED
    if not found and not options.worker:
        say(f"{NONE_SHARED}; name a worker with --worker http://host:port")
    for where, stats in found:
        for tier in stats["tiers"]:
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
        say("millrace cache get: reads only the tiers that workers share; leave out --worker")
        return MISUSED
    if not cache.lower:
        say(f"{NONE_SHARED}; get cannot read a worker's memory")
        return FAILED
    load_plugins(settings)
    text = options.request.encode() if options.request else strictjson.dumps({"url": options.url})
    try:
        parsed = parse_request(requests.parse(text)[1], load(settings.sources))
    except AnswerError as exc:
        say(f"millrace cache get: {exc}")
        return MISUSED
    entry = await cache.find(parsed.key) if parsed.key is not None else None
    if entry is None:
        say("not found in the tiers that workers share")
        return FAILED
    print(_shown(entry, parsed.checks, time.time(), as_json=options.json))
    return DONE


def _shown(entry: Entry, checks: tuple[str, ...], now: float, *, as_json: bool) -> str:
    """Return the text for an entry, with check results if all of them are known."""
    results = entry.check_results.joined(checks, now) if checks and entry.check_results is not None else None
    answer = read_result(b"{%b}" % (entry.shared if results is None else entry.with_check_results(*results).shared))
    state = "fresh" if now < entry.fresh_until else "stale"
    shown = {"state": state, "age": round(now - entry.as_of, 1), "kept": round(entry.keep_until - now, 1)}
    if as_json:
        return strictjson.dumps(shown | {"answer": answer}).decode()
    head = f"{state}, {shown['age']} s old, expires in {shown['kept']} s"
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
        say("no entry matches")
    if not options.worker:
        say("workers still hold entries in memory; purge those too with --worker URL")
    return code


async def _stats_of(url: str) -> Any:
    """Return the figures of a worker's tiers. Raises MillraceError."""
    stats = await _worker("GET", url, {}, None)
    tiers = stats.get("tiers") if isinstance(stats, dict) else None
    if not isinstance(tiers, list) or not all(isinstance(each, dict) for each in tiers):
        msg = f"{url}: what responds is no worker"
        raise MillraceError(msg)
    return stats


async def _worker(method: str, url: str, query: dict[str, str], token: str | None) -> Any:
    """Return a worker's response. Raises MillraceError with its URL and the reason."""
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
                    msg += ": set MILLRACE_WEB_TOKEN to the worker's token"
                raise MillraceError(msg)
            return strictjson.loads(body)
    except aiohttp.ClientConnectorError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror  # DNS has its own numbers
        msg = f"{url}: no worker responds: {reason}"
        raise MillraceError(msg) from exc
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        msg = f"{url} is not the URL of a worker: give http://host:port"
        raise MillraceError(msg) from None
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        msg = f"{url}: no worker responds: {exc or type(exc).__name__}"
        raise MillraceError(msg) from exc


def _detail(body: bytes) -> str | None:
    """Return the detail of a worker's problem details; None if something else responded."""
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
