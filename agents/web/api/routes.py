"""The routes of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from aiohttp import web

from agents.answer.parsed_requests import matching
from agents.redrive.dead_letters import DeadLetters
from agents.tables.rows import decode_key
from agents.web.api.asyncapi import asyncapi
from agents.web.api.dead_letters import DeadLetterApi
from agents.web.api.letter_filter import letter_filter
from agents.web.api.local_rows import LATEST
from agents.web.api.openapi import openapi
from agents.web.api.peers import ROWS, lines
from agents.web.api.query import Query
from agents.web.api.selection import MAX_LIMIT, invalid_parameter, parse_query, select
from agents.web.api.submission import RequestSubmission
from agents.web.api.tables import MAX_KEYS, TABLES
from agents.web.assets import Docs
from models.errors import PurgeError
from models.source import Sources
from streams.config.settings import Settings
from streams.kafka.tail import Tail
from streams.web.problems import Problem
from streams.web.responses import answer, answer_rows
from streams.web.security import no_time_limit

PARTITION_DIGITS = 6
"""Digits of a partition's number."""
CHUNK = 1 << 16
"""Bytes of rows that are written at once."""


class Api:
    """The routes over a worker's `query`; `tail` reads the end of the results, for live events."""

    def __init__(
        self, query: Query, submission: RequestSubmission, dead_letters: DeadLetterApi, tail: Tail, docs: Docs
    ) -> None:
        self.query = query
        self._docs = docs
        self.tail = tail
        self._submission = submission
        self._dead_letters = dead_letters
        query.dead_letters = dead_letters

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        query = self.query
        return [
            web.get("/api/tables", self._plain(query.tables)),
            web.get("/api/tables/{name}", self._table),
            web.get(r"/api/tables/{name}/{key:[\s\S]*}", self._row),
            web.get("/api/held/{name}", self._held),
            web.get("/api/overview", self._plain(query.overview)),
            web.get("/api/workers", self._plain(query.workers)),
            web.get("/api/partitions", self._plain(query.partitions)),
            web.get("/api/sources", self._plain(query.sources)),
            web.get("/api/routes", self._plain(query.routes)),
            web.get("/api/routes/{name}", self._named(query.route)),
            web.get("/api/routes/{name}/sample", self._named(query.route_sample)),
            web.get("/api/cache", self._plain(query.cache)),
            web.delete("/api/cache", self._purge),
            web.get("/api/pool", self._plain(query.pool)),
            web.get("/api/hosts", self._hosts),
            web.get("/api/errors", self._errors),
            web.get("/api/retry-later", self._plain(query.retry_later)),
            web.post("/api/letter", no_time_limit(self._dead_letters.whole)),
            web.post("/api/redrive", no_time_limit(self._dead_letters.redrive)),
            web.post("/api/requests", no_time_limit(self._submission.handle)),
            *self._docs.routes(),
        ]

    def _plain(self, read: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            return answer(request, await read())

        return handle

    def _named(
        self, read: Callable[[str], Awaitable[dict[str, Any]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            return answer(request, await read(request.match_info["name"]))

        return handle

    async def _table(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        page = await self.query.rows(name, **_page_query(request))
        return await answer_rows(request, page, TABLES[name][1])

    async def _hosts(self, request: web.Request) -> web.Response:
        page = await self.query.hosts(**_page_query(request))
        return await answer_rows(request, page, (*TABLES["hosts"][1], "workers"))

    async def _row(self, request: web.Request) -> web.Response:
        name, key = request.match_info["name"], request.match_info["key"]
        row = await self.query.row(name, _key(key, request.query.get("encoding")))
        if row is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"no row of {name} has this key")
        return await asyncio.to_thread(answer, request, row, exact=True)  # it has a whole document

    async def _errors(self, request: web.Request) -> web.Response:
        given = parse_query(request.query)
        limit = {"limit": given["limit"]} if "limit" in given else {}
        return answer(request, await self.query.errors(**limit, selected=letter_filter(request.query)))

    async def _purge(self, request: web.Request) -> web.Response:
        """Purge this worker's cache: what the query names, from every tier."""
        query = request.query
        if len(query) != 1 or not query.keys() <= {"url", "source", "all"} or query.get("all", "true") != "true":
            raise Problem(HTTPStatus.BAD_REQUEST, "give one of url=…, source=… and all=true")
        try:
            removed = await self.query.own_cache().purge(matching(query.get("url"), query.get("source")))
        except PurgeError as exc:
            raise Problem(HTTPStatus.BAD_GATEWAY, str(exc), removed=exc.removed) from exc
        return answer(request, {"removed": removed})

    async def _held(self, request: web.Request) -> web.StreamResponse:
        """Answer another worker from this worker's own rows alone: a query goes no further."""
        name = request.match_info["name"]
        partitions, found = await self.query.table_query.local_rows(
            name, _partitions(request), _held_query(request, name)
        )
        written = lines(self.query.table_query.worker, partitions, found.total, found.rows)
        response = web.StreamResponse(headers={"Content-Type": ROWS})
        await response.prepare(request)
        waiting: list[bytes] = []
        size = 0
        for line in written:
            waiting.append(line)
            size += len(line)
            if size > CHUNK:
                await response.write(b"".join(waiting))
                await asyncio.sleep(0)
                waiting, size = [], 0
        await response.write(b"".join(waiting))
        await response.write_eof()
        return response


@asynccontextmanager
async def open_api(settings: Settings, sources: Sources, query: Query) -> AsyncIterator[Api]:
    """Open the API of one worker. It connects to Kafka with the first request that needs it."""
    async with (
        Tail(settings.kafka, settings.results_topic) as tail,
        RequestSubmission(settings, sources, tail) as submission,
    ):
        docs = Docs({"/openapi.json": openapi(sources), "/asyncapi.json": asyncapi(settings, sources)})
        letters = DeadLetterApi(DeadLetters(settings), settings.requests_topic, query.row)
        yield Api(query, submission, letters, tail, docs)


def _page_query(request: web.Request) -> dict[str, Any]:
    return parse_query(request.query, **{name: request.query.getall(name, []) for name in ("where", "begins")})


def _key(text: str, encoding: str | None) -> bytes:
    if encoding is None:
        return text.encode(errors="surrogateescape")
    if encoding != "base64":
        raise invalid_parameter("encoding", "must be base64, or absent")
    try:
        return decode_key(text)
    except ValueError:
        raise invalid_parameter("key", "is not base64") from None


def _partitions(request: web.Request) -> frozenset[int]:
    text = request.query.get("partitions", "")
    given = [each for each in text.split(",") if each]
    if len(given) > MAX_LIMIT or not all(
        each.isascii() and each.isdigit() and len(each) <= PARTITION_DIGITS for each in given
    ):
        raise invalid_parameter("partitions", "must be numbers, separated by commas")
    return frozenset(map(int, given))


def _held_query(request: web.Request, name: str) -> dict[str, Any]:
    try:
        keys = [decode_key(each) for each in request.query.getall("key", [])]
        prefix = decode_key(request.query.get("prefix", ""))
    except ValueError:
        raise invalid_parameter("key", "and prefix must be base64 here") from None
    if len(keys) > MAX_KEYS:
        raise invalid_parameter("key", f"at most {MAX_KEYS} are allowed")
    if keys:
        return {"key": keys}
    if request.query.get("only") == "keys":
        return {"only": "keys"}
    if "limit" not in request.query and name != LATEST:  # its rows are many and large: they are sent page by page
        return {"prefix": prefix}
    fields = TABLES[name][1] if name in TABLES else ()
    given = _page_query(request)
    if "limit" not in given:
        raise invalid_parameter("limit", "is required here, unless there is key or only=keys")
    return {"selection": select(fields, **{**given, "prefix": prefix})}
