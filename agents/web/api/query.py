"""Every answer as a plain dict, for the API's routes and for the pages. Raises Problem for what it cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, Self

from agents.answer.app import AnswerApp, Resources
from agents.cluster.cluster_status import ClusterStatus
from agents.cluster.later_status import later_status
from agents.cluster.registry import WorkerRegistry
from agents.cluster.route_status import route_statuses
from agents.tables.rows import Row
from agents.web.api.dead_letters import DeadLetterApi
from agents.web.api.local_rows import LocalRows
from agents.web.api.overview import Overview
from agents.web.api.peers import Peers
from agents.web.api.selection import DEFAULT_LIMIT, KEY, select
from agents.web.api.tables import MAX_KEYS, TABLES, TableQuery, unknown
from models.dead_letter import DeadLetterFilter
from streams.cache.front import Cache
from streams.http.url import without_default_port
from streams.web.problems import Problem, not_ready


class Query:
    """Opened with `async with`. Its parts are set as they start; until then the answer is 503.

    `worker` is this worker's id, `own` its part that answers requests, if it has one, `requests` the requests topic;
    `samples` return the latest record of each of its routes.
    """

    def __init__(
        self, worker: str = "", own: AnswerApp | None = None, *, requests: str = "requests",
        samples: Mapping[str, Callable[[], dict[str, Any] | None]] | None = None,
    ) -> None:  # fmt: skip
        self._own = own
        self._samples = dict(samples or {})
        self.dead_letters: DeadLetterApi | None = None
        self._cluster = ClusterStatus()
        self.table_query = TableQuery(worker)
        self._overview = Overview(self._cluster, self.table_query, requests)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._overview)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def set_registry(self, registry: WorkerRegistry) -> None:
        """Read the records of all workers from now on, and fetch the rows that they hold."""
        self._cluster.registry = registry
        peers = Peers(registry, lambda: self.table_query.partitions)
        self.table_query.peers = await self._stack.enter_async_context(peers)

    def set_local_rows(self, rows: LocalRows, partitions: int) -> None:
        """Read these rows from now on; `partitions` is how many the results topic has."""
        self.table_query.local, self.table_query.partitions = rows, partitions

    async def overview(self) -> dict[str, Any]:
        """Return the numbers of the first page."""
        return await self._overview.report()

    async def tables(self) -> dict[str, Any]:
        """Return every table with the number of its rows."""
        return await self.table_query.all()

    async def rows(
        self, name: str, *, prefix: str | bytes = "", where: Iterable[tuple[str, str]] = (),
        begins: Iterable[tuple[str, str]] = (), sort: str = KEY, limit: int = DEFAULT_LIMIT, cursor: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Return a page of a table's rows, in order."""
        if name not in TABLES:
            unknown(name)
        fields = TABLES[name][1]
        selection = select(fields, prefix=prefix, where=where, begins=begins, sort=sort, limit=limit, cursor=cursor)
        return await self.table_query.page(name, selection)

    async def row(self, name: str, key: bytes) -> Row | None:
        """Return the whole row of a key; None if certainly there is none."""
        return await self.table_query.row(name, key)

    async def workers(self) -> dict[str, Any]:
        """Return every worker."""
        return self._cluster.workers()

    async def partitions(self) -> dict[str, Any]:
        """Return every partition with its owner."""
        return self._cluster.partitions()

    async def sources(self) -> dict[str, Any]:
        """Return the named sources."""
        return self._cluster.sources()

    async def routes(self) -> dict[str, Any]:
        """Return every route, added up over the workers that answer."""
        return {"routes": route_statuses(self._cluster.records(), self._overview.route_rates)}

    async def retry_later(self) -> dict[str, Any]:
        """Return what waits in the delay topics, added up over the workers that answer."""
        return later_status(self._cluster.records())

    async def route(self, name: str) -> dict[str, Any]:
        """Return a route with the latest record of it that this worker has read, else another one. Raises Problem."""
        statuses: list[Row] = (await self.routes())["routes"]
        status = next((each for each in statuses if each["name"] == name), None)
        if status is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"no worker has a route {name!r}")
        found = self._samples[name]() if name in self._samples else None
        if found is None and self.table_query.peers is not None:
            found = await self.table_query.peers.sample(name)
        return {**status, "sample": found}

    async def route_sample(self, name: str) -> dict[str, Any]:
        """Return the latest record of a route that this worker has read. Raises Problem."""
        if name not in self._samples:
            raise Problem(HTTPStatus.NOT_FOUND, f"this worker has no route {name!r}")
        return {"sample": self._samples[name]()}

    async def hosts(self, **selection: Any) -> dict[str, Any]:
        """Return a page of upstream hosts: each one's row, and what the workers report about its breaker and limits."""
        page = await self.rows("hosts", **selection)
        workers = self._cluster.hosts() if self._cluster.registry is not None else {}
        return page | {"rows": [{**row, "workers": _of(str(row.get("host")), workers)} for row in page["rows"]]}

    async def source_rows(self) -> dict[str, Any]:
        """Return the named sources, each with the row of the host, or its own, that has its limits (`row`): at most
        MAX_KEYS of them.
        """
        sources = (await self.sources())["sources"][:MAX_KEYS]
        keys = {str(each["host"]).encode() for each in sources if each.get("host")}
        rows = (await self.table_query.rows("hosts", sorted(keys)))["rows"] if keys else {}
        workers = self._cluster.hosts()
        for each in sources:
            host = str(each.get("host") or "")
            each["row"] = {"host": host, **rows.get(host.encode(), {}), "workers": _of(host, workers)}
        return {"sources": sources}

    async def cache(self) -> dict[str, Any]:
        """Return this worker's own cache, and under `workers` those of all workers."""
        own = self._own.resources if self._own is not None else None
        if own is None and self._cluster.registry is None:
            raise not_ready("starting", 1)
        stats = await own.cache.stats() if own is not None else {"tiers": [], "counts": {}}
        return stats | {"workers": self._cluster.caches() if self._cluster.registry is not None else []}

    def own_cache(self) -> Cache:
        """Return this worker's own cache, to purge it."""
        return self._opened().cache

    async def pool(self) -> dict[str, Any]:
        """Return this worker's own check pool."""
        return self._opened().pool.stats()

    def _opened(self) -> Resources:
        if self._own is None or self._own.resources is None:
            raise not_ready("starting, or this worker does not answer requests", 1)
        return self._own.resources

    async def errors(self, *, limit: int = DEFAULT_LIMIT, selected: DeadLetterFilter | None = None) -> dict[str, Any]:
        """Return the latest dead letters, or those that match a filter."""
        if self.dead_letters is None:
            raise not_ready("the dead letters are not there yet", 1)
        return await self.dead_letters.latest(limit, selected)


def _of(host: str, workers: Mapping[str, list[Row]]) -> list[Row]:
    """Return what workers report about the host of a row: they leave out a port that is the scheme's own."""
    authority, opening, source = host.partition(" (")
    return workers.get(host) or workers.get(f"{without_default_port(authority)}{opening}{source}", [])
