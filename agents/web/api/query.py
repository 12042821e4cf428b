"""Every answer as a plain dict, for the API's routes and for the pages. What cannot be answered raises Problem."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any, Self

from agents.answer.app import AnswerApp
from agents.cluster.cluster_status import ClusterStatus
from agents.cluster.registry import WorkerRegistry
from agents.tables.rows import Row
from agents.web.api.dead_letters import DeadLetterApi
from agents.web.api.local_rows import LocalRows
from agents.web.api.overview import Overview
from agents.web.api.peers import Peers
from agents.web.api.selection import DEFAULT_LIMIT, KEY, select
from agents.web.api.tables import TABLES, TableQuery, unknown
from streams.cache.front import Cache
from streams.web.problems import not_ready


class Query:
    """Opened with `async with`. Told step by step what there is: until then the answer is 503.

    `worker` is this worker's id, `own` the part of it that answers requests, if it has one,
    `requests` the topic of the requests.
    """

    def __init__(self, worker: str = "", own: AnswerApp | None = None, *, requests: str = "requests") -> None:
        self._own = own
        self.letters: DeadLetterApi | None = None
        self._fleet = ClusterStatus()
        self.table_query = TableQuery(worker)
        self._overview = Overview(self._fleet, self.table_query, requests)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._overview)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def set_registry(self, registry: WorkerRegistry) -> None:
        """Know from now on what all workers tell, and fetch from them what they hold."""
        self._fleet.registry = registry
        peers = Peers(registry, lambda: self.table_query.partitions)
        self.table_query.peers = await self._stack.enter_async_context(peers)

    def set_local_rows(self, rows: LocalRows, partitions: int) -> None:
        """Have tables from now on; `partitions` is how many the results topic has."""
        self.table_query.local, self.table_query.partitions = rows, partitions

    async def overview(self) -> dict[str, Any]:
        """Return the figures of the first page."""
        return await self._overview.report()

    async def tables(self) -> dict[str, Any]:
        """Return every table with its rows' count."""
        return await self.table_query.all()

    async def rows(
        self, name: str, *, prefix: str | bytes = "", where: Iterable[tuple[str, str]] = (), sort: str = KEY,
        limit: int = DEFAULT_LIMIT, cursor: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Return a page of a table's rows, in order."""
        if name not in TABLES:
            unknown(name)
        fields = TABLES[name][1]
        selection = select(fields, prefix=prefix, where=where, sort=sort, limit=limit, cursor=cursor)
        return await self.table_query.page(name, selection)

    async def row(self, name: str, key: bytes) -> Row | None:
        """Return the whole row of a key; None if there is none for sure."""
        return await self.table_query.row(name, key)

    async def workers(self) -> dict[str, Any]:
        """Return every worker heard of."""
        return self._fleet.workers()

    async def partitions(self) -> dict[str, Any]:
        """Return every partition with its owner."""
        return self._fleet.partitions()

    async def sources(self) -> dict[str, Any]:
        """Return the named sources."""
        return self._fleet.sources()

    async def hosts(self, **asked: Any) -> dict[str, Any]:
        """Return a page of upstream hosts: each one's row, and what the workers tell of its breaker and limits."""
        page = await self.rows("hosts", **asked)
        told = self._fleet.hosts() if self._fleet.registry is not None else {}
        return page | {"rows": [{**row, "workers": told.get(row.get("host", ""), [])} for row in page["rows"]]}

    async def cache(self) -> dict[str, Any]:
        """Return this worker's own cache, and under `workers` everybody's."""
        cache = self._own.cache if self._own is not None else None
        if cache is None and self._fleet.registry is None:
            raise not_ready("starting", 1)
        own = await cache.stats() if cache is not None else {"tiers": [], "counts": {}}
        return own | {"workers": self._fleet.caches() if self._fleet.registry is not None else []}

    def purged(self) -> Cache:
        """Return this worker's own cache, to purge it."""
        if self._own is None or self._own.cache is None:
            raise not_ready("starting, or this worker does not answer requests", 1)
        return self._own.cache

    async def pool(self) -> dict[str, Any]:
        """Return this worker's own check pool."""
        if self._own is None or self._own.pool is None:
            raise not_ready("starting, or this worker does not answer requests", 1)
        return self._own.pool.stats()

    async def errors(self, *, limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
        """Return the latest dead letters."""
        if self.letters is None:
            raise not_ready("the dead letters are not there yet", 1)
        return await self.letters.latest(limit)
