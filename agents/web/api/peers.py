"""The rows that other workers hold, fetched from them over HTTP.

Only a URL that a worker's own record gives is asked, only by GET, one path, no redirects followed, and what comes back
is used only if it is what a worker answers; of anything else not a byte is passed on. What is asked for at a worker's
`/api/held/…` is answered from its own rows: a question goes one hop and no further. No token is sent: reads need none,
and whoever can write to the workers' topic would be handed it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from agents.cluster.registry import SILENT_AFTER, WorkerRegistry
from agents.tables.rows import Row
from models import strictjson

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 3.0
"""Seconds that another worker may take to answer."""
CONNECT_TIMEOUT = 1.0
"""Seconds that connecting to it may take."""
MAX_LINE = 2 << 20
"""Bytes of one row that is taken from another."""
MAX_ANSWER = 64 << 20
"""Bytes of one answer that are taken from another."""
TURN_EVERY = 64
"""Rows between two turns of the loop."""
ROWS = "application/x-ndjson"
"""What a worker tells another: a head, a line a row, and an end that says how many there were."""
MAX_URL = 2_048
GIVEN_UP = "it does not hold them any more"
"""Why partitions are missing that a worker held a moment ago."""


@dataclass(slots=True)
class PeerRows:
    """What others told: their rows by key, how many there are beyond this page, and what did not come."""

    rows: list[tuple[bytes, Row]] = field(default_factory=list)
    total: int = 0
    missing: list[dict[str, Any]] = field(default_factory=list)


class PeerUnavailable(Exception):
    """A worker did not answer as it should; the message is the reason that others are told."""


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

    async def fetch(self, table: str, query: Mapping[str, Any], held: Collection[int], waiting: str) -> PeerRows:
        """Ask those who hold the partitions that are not `held` here; `waiting` says why those might be nowhere."""
        told = PeerRows()
        whom, told.missing = self._peers_to_query(frozenset(held), waiting)
        asks = [self._fetch_from(record, table, query, wanted) for record, wanted in whom]
        for (record, wanted), found in zip(whom, await asyncio.gather(*asks, return_exceptions=True), strict=True):
            if isinstance(found, PeerUnavailable):
                reason = {"worker": record["id"], "partitions": sorted(wanted), "reason": str(found)}
                told.missing.append(reason)
            elif isinstance(found, BaseException):
                raise found
            else:
                told.rows += found.rows
                told.total += found.total
                told.missing += found.missing
        return told

    def _peers_to_query(self, held: frozenset[int], waiting: str) -> tuple[list[tuple[Row, frozenset[int]]], list[Row]]:
        """Return each worker to ask with the partitions to ask it for, and what nobody can be asked for."""
        left = frozenset(range(self._partitions())) - held
        whom: list[tuple[Row, frozenset[int]]] = []
        missing: list[Row] = []
        for record in sorted(self._registry.all(), key=lambda record: record["silent_s"]):
            wanted = left & _held_by(record)
            if not wanted or record["id"] == self._registry.me:
                continue
            left -= wanted
            if record["silent_s"] > SILENT_AFTER:
                reason = f"not heard of for {record['silent_s']:.0f} s"
                missing.append({"worker": record["id"], "partitions": sorted(wanted), "reason": reason})
            else:
                whom.append((record, wanted))
        if left:
            missing.append({"worker": None, "partitions": sorted(left), "reason": waiting})
        return whom, missing

    async def _fetch_from(self, record: Row, table: str, query: Mapping[str, Any], wanted: frozenset[int]) -> PeerRows:
        url = held_url(record.get("url"), table)
        asked = {**query, "partitions": ",".join(map(str, sorted(wanted)))}
        assert self._session is not None
        try:
            async with self._session.get(url, params=asked, allow_redirects=False) as response:
                if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise PeerUnavailable("its tables are not there yet")
                if response.status != HTTPStatus.OK or response.content_type != ROWS:
                    raise PeerUnavailable("what answers at its URL is no worker")
                return await _read(response, record["id"], wanted)
        except TimeoutError:
            raise PeerUnavailable(f"no answer within {REQUEST_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            logger.info("worker %s at %s does not answer: %r", record["id"], url, exc)
            raise PeerUnavailable("cannot be reached") from None


def _held_by(record: Mapping[str, Any]) -> frozenset[int]:
    tables = record.get("tables")
    partitions = tables.get("partitions") if isinstance(tables, dict) else None
    return frozenset(each for each in partitions if type(each) is int) if isinstance(partitions, list) else frozenset()


def held_url(base: object, table: str) -> URL:
    """Return where a worker tells its own rows. Raises NotTold for a base that is no plain URL of a worker."""
    try:
        url = URL(base) if isinstance(base, str) and len(base) <= MAX_URL else URL()
    except ValueError:
        url = URL()
    plain = url.user is None and url.password is None and not url.query_string and not url.fragment
    if url.scheme not in ("http", "https") or not url.host or not plain:
        raise PeerUnavailable("its record gives no URL of a worker")
    return url.with_path(url.path.rstrip("/") + f"/api/held/{table}")


async def _read(response: aiohttp.ClientResponse, worker: str, wanted: frozenset[int]) -> PeerRows:
    """Read and validate what a worker tells. Raises NotTold."""
    told, taken, head, ended = PeerRows(), 0, None, False
    async for line in _lines(response):
        taken += len(line)
        if len(told.rows) % TURN_EVERY == 0:
            await asyncio.sleep(0)  # what has come already is read without waiting
        if taken > MAX_ANSWER:
            raise PeerUnavailable("it tells more than is taken")
        try:
            value = strictjson.loads(line, max_depth=strictjson.MAX_DEPTH * 2)
            if head is None:
                head = value
                if head["worker"] != worker:
                    raise PeerUnavailable("another worker answers at its URL")
                given = frozenset(head["partitions"]) & wanted
                told.total = int(head["total"])
            elif isinstance(value, dict):
                ended = value == {"end": len(told.rows)}
            else:
                key, row = value
                told.rows.append((base64.b64decode(key, validate=True), dict(row)))
        except (ValueError, TypeError, KeyError, binascii.Error):
            raise PeerUnavailable("what it tells is not what a worker tells") from None
    if not ended:
        raise PeerUnavailable("its answer broke off")
    if absent := wanted - given:
        told.missing.append({"worker": worker, "partitions": sorted(absent), "reason": GIVEN_UP})
    return told


async def _lines(response: aiohttp.ClientResponse) -> Any:
    try:
        async for line in response.content:
            yield line
    except LineTooLong:
        raise PeerUnavailable("it tells a row larger than is taken") from None


def lines(worker: str, partitions: Iterable[int], total: int, rows: Iterable[tuple[bytes, Row]]) -> Iterable[bytes]:
    """Yield what a worker tells another, line by line."""
    yield strictjson.dumps({"worker": worker, "partitions": sorted(partitions), "total": total}) + b"\n"
    count = 0
    for key, row in rows:
        count += 1
        yield strictjson.dumps([base64.b64encode(key).decode(), row]) + b"\n"
    yield strictjson.dumps({"end": count}) + b"\n"
