"""The rows that other workers hold, fetched from them over HTTP.

Only a URL from a worker's own record is requested, only by GET, only one path, without redirects, and a response is
used only if it is what a worker answers; of anything else not a byte is passed on. A worker answers `/api/held/…` from
its own rows: a query goes one hop and no further. No token is sent: reads need none, and anyone who can write to the
workers' topic would receive it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from agents.cluster.registry import SILENT_AFTER, WorkerRegistry
from agents.tables.rows import RESULT, Row
from agents.web.api.schemas import SampleSchema
from models import strictjson
from models.large import LARGE
from models.route import name_problem

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 3.0
"""Seconds that another worker may take to answer."""
CONNECT_TIMEOUT = 1.0
"""Seconds that connecting to it may take."""
MAX_LINE = 2 << 20
"""Bytes of one row from another worker."""
MAX_ANSWER = 64 << 20
"""Bytes of one response from another worker."""
TURN_EVERY = 64
"""Rows between which other tasks run."""
ROWS = "application/x-ndjson"
"""The response of one worker to another: a head, a line a row, and an end with the number of rows."""
MAX_SAMPLE = 1 << 20
"""Bytes of a record of a route, walked through."""
MAX_PEERS = 3
"""Workers that are requested for one, one after the other."""
MAX_URL = 2_048
MOST_PARTITIONS = 100_000
"""Results partitions that a worker's record may speak of: each of those below is looked for."""
GIVEN_UP = "it no longer holds them"
"""Why partitions are missing that a worker held a moment ago."""


@dataclass(slots=True)
class PeerRows:
    """The rows of other workers by key, the total of all pages, and which partitions are missing."""

    rows: list[tuple[bytes, Row]] = field(default_factory=list)
    total: int = 0
    missing: list[dict[str, Any]] = field(default_factory=list)


class PeerUnavailable(Exception):
    """A worker did not answer as it should; the message is the reason given to the client."""


class Peers:
    """Opened with `async with`. `partitions` is how many the results topic has."""

    def __init__(self, registry: WorkerRegistry, partitions: Callable[[], int]) -> None:
        self._registry = registry
        self._partitions = partitions
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
        session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(),
                                        read_bufsize=MAX_LINE // 2)  # fmt: skip
        self._session = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def known(self, partitions: int) -> int:
        """Return how many partitions the results have at least, by what workers hold: who was assigned none of those
        that were added may not know of them.
        """
        held = (
            each for record in self._registry.all() if record["silent_s"] <= SILENT_AFTER for each in _held_by(record)
        )
        return max((partitions, *(each + 1 for each in held)))

    async def fetch(self, table: str, query: Mapping[str, Any], held: Collection[int], waiting: str) -> PeerRows:
        """Fetch the rows of all partitions but the `held` ones; `waiting` is the reason for one without owner."""
        result = PeerRows()
        peers, result.missing = self._peers_to_query(frozenset(held), waiting)
        fetches = [self._fetch_from(record, table, query, wanted) for record, wanted in peers]
        for (record, wanted), found in zip(peers, await asyncio.gather(*fetches, return_exceptions=True), strict=True):
            if isinstance(found, PeerUnavailable):
                reason = {"worker": record["id"], "partitions": sorted(wanted), "reason": str(found)}
                result.missing.append(reason)
            elif isinstance(found, BaseException):
                raise found
            else:
                result.rows += found.rows
                result.total += found.total
                result.missing += found.missing
        return result

    async def sample(self, route: str) -> dict[str, Any] | None:
        """Return the latest record that a worker with this route has read, from the first that has one."""
        peers = [record for record in self._registry.all() if record["id"] != self._registry.me and _has(record, route)]
        for record in sorted(peers, key=lambda record: record["silent_s"])[:MAX_PEERS]:
            with suppress(PeerUnavailable, TimeoutError, aiohttp.ClientError, OSError, ValueError):
                found = strictjson.loads(await self._sample_from(record, route))["sample"]
                if found is not None and not SampleSchema().validate(found):
                    return dict(found)
        return None

    async def _sample_from(self, record: Row, route: str) -> bytes:
        url = _plain_url(record.get("url"))
        assert self._session is not None
        content = b""
        url = url.with_path(url.path.rstrip("/") + f"/api/routes/{route}/sample")
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status == HTTPStatus.OK:
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > MAX_SAMPLE:
                        raise PeerUnavailable("its response is too large")
        return content

    def _peers_to_query(self, held: frozenset[int], waiting: str) -> tuple[list[tuple[Row, frozenset[int]]], list[Row]]:
        """Return each peer with the partitions to fetch from it, and the partitions that no peer can return."""
        left = frozenset(range(self.known(self._partitions()))) - held
        peers: list[tuple[Row, frozenset[int]]] = []
        missing: list[Row] = []
        for record in sorted(self._registry.all(), key=lambda record: record["silent_s"]):
            wanted = left & _held_by(record)
            if not wanted or record["id"] == self._registry.me:
                continue
            left -= wanted
            if record["silent_s"] > SILENT_AFTER:
                reason = f"no heartbeat for {record['silent_s']:.0f} s"
                missing.append({"worker": record["id"], "partitions": sorted(wanted), "reason": reason})
            else:
                peers.append((record, wanted))
        if left:
            missing.append({"worker": None, "partitions": sorted(left), "reason": waiting})
        return peers, missing

    async def _fetch_from(self, record: Row, table: str, query: Mapping[str, Any], wanted: frozenset[int]) -> PeerRows:
        url = held_url(record.get("url"), table)
        params = {**query, "partitions": ",".join(map(str, sorted(wanted)))}
        assert self._session is not None
        try:
            async with self._session.get(url, params=params, allow_redirects=False) as response:
                if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise PeerUnavailable("its tables are not there yet")
                if response.status != HTTPStatus.OK or response.content_type != ROWS:
                    raise PeerUnavailable("its URL does not answer like a worker")
                return await _read(response, record["id"], wanted)
        except TimeoutError:
            raise PeerUnavailable(f"no answer within {REQUEST_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            logger.info("worker %s at %s does not answer: %r", record["id"], url, exc)
            raise PeerUnavailable("cannot be reached") from None


def _has(record: Mapping[str, Any], route: str) -> bool:
    """Whether a worker that answers reports a route of this name, and a worker may have one called so."""
    routes = record.get("routes")
    names = [each.get("name") for each in routes if isinstance(each, dict)] if isinstance(routes, list) else []
    return route in names and record["silent_s"] <= SILENT_AFTER and name_problem(route) is None


def _held_by(record: Mapping[str, Any]) -> frozenset[int]:
    tables = record.get("tables")
    partitions = tables.get("partitions") if isinstance(tables, dict) else None
    if not isinstance(partitions, list):
        return frozenset()
    return frozenset(each for each in partitions if type(each) is int and 0 <= each < MOST_PARTITIONS)


def held_url(base: object, table: str) -> URL:
    """Return the URL of a worker's own rows. Raises PeerUnavailable if `base` is not a plain URL."""
    url = _plain_url(base)
    return url.with_path(url.path.rstrip("/") + f"/api/held/{table}")


def _plain_url(base: object) -> URL:
    try:
        url = URL(base) if isinstance(base, str) and len(base) <= MAX_URL else URL()
    except ValueError:
        url = URL()
    plain = url.user is None and url.password is None and not url.query_string and not url.fragment
    if url.scheme not in ("http", "https") or not url.host or not plain:
        raise PeerUnavailable("its record has no valid URL")
    return url


async def _read(response: aiohttp.ClientResponse, worker: str, wanted: frozenset[int]) -> PeerRows:
    """Read and validate the response of a worker. Raises PeerUnavailable."""
    result, taken, head, ended = PeerRows(), 0, None, False
    async for line in _lines(response):
        taken += len(line)
        if len(result.rows) % TURN_EVERY == 0:
            await asyncio.sleep(0)  # lines that have arrived are read without waiting
        if taken > MAX_ANSWER:
            raise PeerUnavailable("its response is too large")
        try:
            read = partial(strictjson.loads, line, max_depth=strictjson.MAX_DEPTH * 2, exact=RESULT in line)
            value = read() if len(line) <= LARGE else await asyncio.to_thread(read)
            if head is None:
                head = value
                if head["worker"] != worker:
                    raise PeerUnavailable("another worker answers at its URL")
                given = frozenset(head["partitions"]) & wanted
                result.total = int(head["total"])
            elif isinstance(value, dict):
                ended = value == {"end": len(result.rows)}
            else:
                key, row = value
                result.rows.append((base64.b64decode(key, validate=True), dict(row)))
        except (ValueError, TypeError, KeyError, binascii.Error):
            raise PeerUnavailable("its response is not what a worker returns") from None
    if not ended:
        raise PeerUnavailable("its response broke off")
    if absent := wanted - given:
        result.missing.append({"worker": worker, "partitions": sorted(absent), "reason": GIVEN_UP})
    return result


async def _lines(response: aiohttp.ClientResponse) -> Any:
    try:
        async for line in response.content:
            yield line
    except LineTooLong:
        raise PeerUnavailable("it returned a row that is too large") from None


def lines(worker: str, partitions: Iterable[int], total: int, rows: Iterable[tuple[bytes, Row]]) -> Iterable[bytes]:
    """Yield the response to another worker, line by line."""
    yield strictjson.dumps({"worker": worker, "partitions": sorted(partitions), "total": total}) + b"\n"
    count = 0
    for key, row in rows:
        count += 1
        yield strictjson.dumps([base64.b64encode(key).decode(), row], exact="result" in row) + b"\n"
    yield strictjson.dumps({"end": count}) + b"\n"
