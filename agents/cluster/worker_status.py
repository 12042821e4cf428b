"""The record that a worker publishes about itself. Unknown values are null, never 0."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from models.moment import age_of, iso_now
from models.source import Source
from streams import memory
from streams.config.settings import ANYWHERE, Settings
from streams.http.limits import host_name
from streams.http.url import origin_of
from streams.kafka.lease import Lease
from streams.web.server import place

if TYPE_CHECKING:
    from agents.answer.app import AnswerApp
    from agents.later.app import LaterApp
    from agents.routes.app import RouteApp
    from agents.routes.runner import RouteRunner
    from agents.tables.app import TablesApp
    from models.source import Sources
    from streams.telemetry.loop import LoopWatch

MAX_HOSTS = 200
"""Hosts, and functions, in the record at most: those used last."""
MAX_TOPICS = 200
"""Topics of a route in the record at most."""
MAX_PARTITIONS = 1_000
"""Partitions of routes in the record at most."""
STATS_TIMEOUT = 0.5
"""Seconds that a cache on the network may take to return its statistics."""
STATS_EVERY = 5.0
"""Seconds for which they are reused."""
EARLIER = "an earlier record of the key"
"""What a record of a route with `order = "key"` waits for."""


class WorkerStatus:
    """Makes the records of one worker from the parts that it has; `port` is that of its web server, `limits` reports
    its shares of limits.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        answering: AnswerApp | None,
        tabulating: TablesApp | None,
        routing: Sequence[RouteApp] = (),
        *,
        later: LaterApp | None = None,
        loop: LoopWatch,
        port: int,
        limits: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._answering = answering
        self._tabulating = tabulating
        self._routing = routing
        self._later = later
        self._loop = loop
        self._limits = limits
        self._url = url_of(settings, port)
        self._started_at = iso_now()
        self._stats: tuple[float, dict[str, Any] | None] = (0.0, None)

    async def record(self) -> dict[str, Any]:
        """Return the record as it is now."""
        apps = [part.app for part in (self._answering, self._tabulating) if part is not None]
        running = [*apps, *(part.app for part in (*self._routing, self._later) if part is not None)]
        record: dict[str, Any] = {
            "id": self._settings.worker_id,
            "group": self._settings.group,
            "role": self._settings.role,
            "url": self._url,
            "version": _version(),
            "started_at": self._started_at,
            "at": iso_now(),
            "state": "stopping" if any(app.should_stop for app in running) else "running",
            "partitions": [
                partition(lease) for app in apps if app.started for lease in app.holder.leases.values() if lease.alive
            ],
            "route_partitions": [
                {"route": part.route.name, **partition(lease)}
                for part in self._routing
                if part.app.started
                for lease in part.app.holder.leases.values()
                if lease.alive
            ][:MAX_PARTITIONS],
            "rss": memory.resident(),
            "loop_lag_s": round(self._loop.lag, 4),
        }
        if self._answering is not None:
            record |= await self._answers(self._answering)
            record["sources"] = [source(each) for each in self._sources.by_name.values()]
            record["limits"] = self._limits()
            record["routes"] = [route(each) for each in self._routing]
        if self._later is not None:
            record["retry_later"] = {"topics": self._later.status(), "exhausted": self._later.exhausted()}
        if self._tabulating is not None:
            record["tables"] = tables(self._tabulating)
        return record

    async def _answers(self, part: AnswerApp) -> dict[str, Any]:
        opened = part.resources
        if opened is None:
            return {"in_flight": None}
        functions = [host.stats() for host in opened.caller.hosts.values()]
        status: dict[str, Any] = {
            "in_flight": opened.client.in_flight,
            "answers": opened.answerer.stats.report(),
            "hosts": [*opened.client.hosts.stats(), *functions][-MAX_HOSTS:],
            "pool": opened.pool.stats(),
        }
        read_at, stats = self._stats
        if time.monotonic() - read_at > STATS_EVERY:
            with suppress(TimeoutError):
                stats = await asyncio.wait_for(opened.cache.stats(), STATS_TIMEOUT)
            self._stats = time.monotonic(), stats
        return status if stats is None else status | {"cache": stats}


def partition(lease: Lease) -> dict[str, Any]:
    """Return the status of one partition that this worker holds."""
    committed = None if lease.committed is None else lease.committed.offset
    age = age_of(lease.oldest_unfinished, time.time())
    return {
        "topic": lease.topic,
        "partition": lease.partition,
        "committed": committed,
        "end": lease.end,
        "lag": lease.lag,
        "in_flight": lease.in_progress,
        "unfinished": lease.unfinished,
        "waiting_for_key": lease.held,
        "oldest_unfinished_s": None if age is None else round(age, 1),
    }


def tables(part: TablesApp) -> dict[str, Any]:
    """Return the status of the tables that this worker keeps."""
    ready = part.readiness()
    lag = 0 if part.state.all_recovered else None
    if part.recovery is not None and not part.state.all_recovered:
        lag = part.recovery.lag
    status: dict[str, Any] = {
        "partitions": sorted(part.state.partitions),
        "recovered": part.state.all_recovered,
        "lag": lag,
        "rows": {name: part.state.count(name) for name in part.state.topics},
        "gaps": part.state.gaps,
    }
    if part.resources is not None:
        tabulator = part.resources.tabulator
        status |= {"records": tabulator.records, "unreadable": tabulator.unreadable}
    return status if ready == "ok" else status | {"waiting_for": ready}


def route(part: RouteApp) -> dict[str, Any]:
    """Return the status of a route: what it does, what came of its records since the start, and what they wait for."""
    described, runner, app = part.route, part.runner, part.app
    leases = [lease for lease in app.holder.leases.values() if lease.alive] if app.started else None
    lags = [None] if leases is None else [lease.lag for lease in leases]
    ages = [age_of(lease.oldest_unfinished, time.time()) for lease in leases or ()]
    oldest = max((age for age in ages if age is not None), default=None)
    return {
        "name": described.name,
        "topics": part.topics[:MAX_TOPICS],
        "patterns": list(described.patterns),
        "lookups": [{"name": each.name, "source": each.source} for each in described.lookups],
        "results": described.results,
        "failures": part.dead_letters,
        "group": app.conf.id,
        "partitions": None if leases is None else len(leases),
        "outcomes": {} if runner is None else dict(runner.outcomes),
        "in_progress": None if runner is None else runner.in_progress,
        "waiting": {} if runner is None else _waits(runner, leases or ()),
        "lag": sum(lag for lag in lags if lag is not None) if None not in lags else None,
        "oldest_unfinished_s": None if oldest is None else round(oldest, 1),
    }


def _waits(runner: RouteRunner, leases: Iterable[Lease]) -> dict[str, int]:
    """Return how much of a route waits, by what it waits for."""
    held = sum(lease.held for lease in leases)
    return dict(runner.waiting) | ({EARLIER: held} if held else {})


def source(each: Source) -> dict[str, Any]:
    """Return a named source, without its secrets."""
    target = {"url": each.url.text} if each.url is not None else {"call": each.call}
    return {"name": each.name, **target, "method": each.method, "schema": each.schema, "host": host_of(each)}


def host_of(each: Source) -> str | None:
    """Return the key of the row among the hosts that has a source's limits and breaker: its own, or that of the host
    that it shares with others.
    """
    if each.url is None:
        return f"source {each.name}"
    host = origin_of(each.url.text).host
    return None if host is None else host_name(host, each.name if each.is_apart else None)


def url_of(settings: Settings, port: int) -> str:
    """Return the URL by which others reach this worker."""
    if settings.web_url:
        return settings.web_url.rstrip("/")
    host = socket.gethostname() if settings.web_host in ANYWHERE else settings.web_host
    return f"http://{place(host, port)}"


@cache
def _version() -> str:
    return version("millrace-kafka")
