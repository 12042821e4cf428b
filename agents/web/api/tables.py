"""Whole rows of the tables, merged from those that this worker holds and those of its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NoReturn

from agents.tables.rows import Row, encode_key
from agents.web.api.local_rows import LATEST, Found, LocalRows, Page, keyed, merged, sliced, whole
from agents.web.api.peers import GIVEN_UP, PeerRows, Peers
from agents.web.api.selection import Selection
from streams.web.problems import Problem, not_ready

MAX_SCANS = 2
"""Tables that are scanned at once; other queries wait, so that requests are answered meanwhile."""
MAX_KEYS = 128
"""Keys of one query."""

TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "answers": (
        "the latest result by key",
        ("key", "key_base64", "keyed", "id", "outcome", "cache", "status", "url", "source", "host", "fetched_at", "at",
         "elapsed_ms", "attempts", "error", "partition", "offset", "bytes", "truncated"),
    ),
    "hosts": (
        "per upstream host, and per source with limits of its own: answers, cache, latency, last error",
        ("host", "source", "answers", "cache", "latency", "bytes", "last_error", "last_seen"),
    ),
    "outcomes": ("per minute of the last 24 hours", ("minute", "answers", "cache", "latency", "bytes")),
    "checks": ("per check: runs, failures, time", ("name", "runs", "failures", "seconds", "slowest_ms", "last_seen")),
}  # fmt: skip
"""Each table's description, and the fields of its rows."""


class TableQuery:
    """Merges the rows that this worker holds with those of its peers.

    `local` and `peers` are None until there are any, or in a role that has none; `partitions` is how many partitions
    the results have.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.local: LocalRows | None = None
        self.peers: Peers | None = None
        self.partitions = 0
        self._scanning = asyncio.Semaphore(MAX_SCANS)
        self._was_complete = False  # before that, missing partitions are a 503, afterwards `partial`

    async def all(self) -> dict[str, Any]:
        """Return every table with the number of its rows."""
        counts = await asyncio.gather(*(self._count(name) for name in TABLES))
        tables = [
            {"name": name, "rows": count, "description": description, "fields": list(fields)}
            for (name, (description, fields)), (count, _) in zip(TABLES.items(), counts, strict=True)
        ]
        return _partial({"tables": tables}, max((missing for _, missing in counts), key=len))

    async def _count(self, table: str) -> tuple[int, Sequence[Row]]:
        """Return the number of rows, and what is missing."""
        if table == LATEST:
            page = await self.page(table, Selection(limit=1))
            return page["total"], page.get("partial", {}).get("missing", ())
        local, mine = self._ready(table)
        peers = await self._query_peers(table, {"only": "keys"}, mine)
        async with self._scanning:
            found = await local.keys(table, b"", mine)
        return len({key for key, _ in [*found.rows, *peers.rows]}), self._missing(peers, mine)

    async def page(self, table: str, selection: Selection) -> dict[str, Any]:
        """Return the rows of one page. Raises Problem."""
        local, mine = self._ready(table)
        page = Page(selection)
        if table == LATEST:
            peers = await self._query_peers(table, _as_query(selection), mine)
            async with self._scanning:
                found = await local.page(table, selection, mine)
            total = peers.total + found.total
            latest = _latest([*found.rows, *peers.rows])
            for key, row in latest.items():
                page.add(key, row)
        else:
            peers = await self._query_peers(table, {"prefix": encode_key(selection.prefix)}, mine)
            async with self._scanning:
                total = await _summed(local, table, mine, peers, page)
        rows_found = page.rows()
        chosen = rows_found[: selection.limit]
        answer: dict[str, Any] = {"rows": [keyed(table, place[3], row) for place, row in chosen]}
        if len(rows_found) > len(chosen):
            answer["cursor"] = selection.cursor(chosen[-1][0])
        return _partial(answer | {"total": total}, self._missing(peers, mine))

    async def row(self, table: str, key: bytes) -> Row | None:
        """Return the whole row of one key; None if certainly there is none. Raises Problem."""
        found = await self.rows(table, [key])
        row = found["rows"].get(key)
        missing = found.get("partial", {}).get("missing", [])
        if row is None and missing:
            detail = f"part of the table is missing: {missing[0]['reason']}"
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"}, partial=found["partial"]
            )
        return None if row is None else _partial(keyed(table, key, row) | _result(row), missing)

    async def rows(self, table: str, keys: Sequence[bytes]) -> dict[str, Any]:
        """Return whole rows by key, for the keys that have one."""
        local, mine = self._ready(table)
        peers = await self._query_peers(table, {"key": [encode_key(key) for key in keys]}, mine)
        parts: dict[bytes, list[Row]] = {}
        for key in keys:
            if found := await local.get_whole(table, key, mine):
                parts[key] = found
        for key, row in peers.rows:
            parts.setdefault(key, []).append(row)
        return _partial(
            {"rows": {key: whole(table, found) for key, found in parts.items()}}, self._missing(peers, mine)
        )

    async def local_rows(
        self, table: str, partitions: frozenset[int], query: Mapping[str, Any]
    ) -> tuple[frozenset[int], Found]:
        """Return the rows that this worker holds of these partitions, for another worker to merge."""
        local = self.local
        if table not in TABLES:
            unknown(table)
        if local is None or not local.partitions:
            raise not_ready("the tables are not there yet")
        given = partitions & local.partitions
        if "key" in query:
            pairs = [(key, row) for key in query["key"] for row in await local.get_whole(table, key, given)]
            return given, Found(pairs, len(pairs))
        async with self._scanning:
            if "selection" in query:
                found = await local.page(table, query["selection"], given)
            elif "only" in query:
                found = await local.keys(table, b"", given)
            else:
                found = await local.parts(table, query["prefix"], given)
        return given & local.partitions, found

    def _ready(self, table: str) -> tuple[LocalRows, frozenset[int]]:
        """Return the local rows, and the partitions held now, which stay the same throughout a query: one that is
        assigned meanwhile is read from its peer, one that is revoked is missing.
        """
        if table not in TABLES:
            unknown(table)
        local = self.local
        if local is None:
            raise not_ready("the tables are not there yet, or this worker has the role `answer`")
        return local, local.partitions

    def _missing(self, peers: PeerRows, mine: frozenset[int]) -> list[Row]:
        """Return what peers did not return, and which of `mine` were revoked meanwhile."""
        local = self.local
        lost = mine - local.partitions if local is not None else mine
        own = {"worker": self.worker, "partitions": sorted(lost), "reason": GIVEN_UP}
        return [*peers.missing, own] if lost else peers.missing

    async def _query_peers(self, table: str, query: Mapping[str, Any], mine: frozenset[int]) -> PeerRows:
        """Fetch from the peers what is not `mine`. Raises Problem until the tables were complete once."""
        assert self.local is not None
        waiting = "no worker holds them" if self.local.state.all_recovered else "they are being recovered"
        peers = PeerRows()
        if not self.partitions or (self.peers is None and len(mine) < self.partitions):
            raise not_ready("the tables are not there yet")
        if self.peers is not None and len(mine) < self.peers.known(self.partitions):
            peers = await self.peers.fetch(table, query, mine, waiting)
        if not peers.missing:
            self._was_complete = True
        elif not self._was_complete:
            raise not_ready(f"the tables are not there yet: {peers.missing[0]['reason']}")
        return peers


async def _summed(local: LocalRows, table: str, mine: frozenset[int], peers: PeerRows, page: Page) -> int:
    """Add the rows that are sums over all partitions to a page; returns their number."""
    if not peers.rows:
        found = await local.page(table, page.selection, mine)
        for key, row in found.rows:
            page.add(key, row)
        return found.total
    parts = await local.parts(table, page.selection.prefix, mine)
    async for pairs in merged(table, sliced([*parts.rows, *peers.rows])):
        for key, row in pairs:
            page.add(key, row)
    return page.total


def unknown(table: str) -> NoReturn:
    """Raise Problem for an unknown table."""
    raise Problem(HTTPStatus.NOT_FOUND, f"no table {table[:60]!r}; there are: {', '.join(TABLES)}")


def _result(row: Row) -> Row:
    return {"result": row["result"]} if "result" in row else {}


def _latest(found: Sequence[tuple[bytes, Row]]) -> dict[bytes, Row]:
    latest: dict[bytes, Row] = {}
    for key, row in found:
        latest[key] = whole(LATEST, [latest[key], row]) if key in latest else row
    return latest


def _partial(answer: dict[str, Any], missing: Sequence[Row]) -> dict[str, Any]:
    return answer | {"partial": {"missing": list(missing)}} if missing else answer


def _as_query(selection: Selection) -> dict[str, Any]:
    query: dict[str, Any] = {
        "prefix": encode_key(selection.prefix),
        "where": [f"{field}:{text}" for field, text in selection.where],
        "begins": [f"{field}:{text}" for field, text in selection.begins],
        "sort": selection.sort,
        "limit": str(selection.limit),
    }
    if selection.after is not None:
        query["cursor"] = selection.cursor(selection.after)
    return query
