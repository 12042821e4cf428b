"""The pages: HTML of what a `Query` returns, readable without JavaScript.

Values go through Jinja2 with autoescape; there is no inline script or style. `static/app.js` keeps a page up to date by
requesting it again and taking over what differs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from agents.cluster.cluster_status import host_status
from agents.cluster.registry import SILENT_AFTER
from agents.redrive.dead_letters import SEARCHED
from agents.tables.rows import Row, decode_key
from agents.web import columns, formatting
from agents.web.api import letter_filter
from agents.web.api.query import Query
from agents.web.assets import Assets
from models.errors import OUTCOMES
from streams.web.problems import Problem

Gather = Callable[[web.Request], Awaitable[Row]]
"""Reads what a page shows."""

PAGE_ROWS = 50
"""Rows of a table on one page."""
LIVE_ROWS = 50
ERROR_ROWS = 50
TREE_NODES = 400
"""Values of a JSON document that are shown as a tree; a larger one is shown as text."""
TEXT_CHARACTERS = 48 * 1024
"""Characters of a larger document that a page shows; the API returns all of it."""
FILTERS = (
    "number",
    "duration",
    "milliseconds",
    "age",
    "size",
    "percent",
    "clock",
    "severity",
    "pretty",
    "inline",
    "urlpath",
    "visible",
)
"""Functions of formatting.py that the templates use as filters."""
_TITLES: Mapping[int, str] = {HTTPStatus.NOT_FOUND: "Not found", HTTPStatus.SERVICE_UNAVAILABLE: "Not ready yet"}
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class About:
    """What every page shows of the worker that serves it."""

    worker: str
    version: str
    requests_topic: str
    token_set: bool
    schemas: Sequence[str] = ("json", "text", "page")
    checks: Sequence[str] = ()


class Pages:
    """The routes of the pages and of their files."""

    def __init__(self, query: Query, about: About) -> None:
        self._query = query
        self._assets = Assets()
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        self._templates.filters.update({name: getattr(formatting, name) for name in FILTERS})
        self._templates.globals.update(
            about=about, asset=self._assets.address, key_text=columns.key_text, address=columns.address,
            outcomes=OUTCOMES, silent=SILENT_AFTER, upstream=host_status, quantile=columns.quantile,
            nodes=formatting.nodes, tree_nodes=TREE_NODES, text_characters=TEXT_CHARACTERS,
        )  # fmt: skip

    def compile(self) -> None:
        """Compile the templates: 200 ms, which no request should take from the event loop."""
        for name in self._templates.list_templates():
            self._templates.get_template(name)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        pages: Mapping[str, tuple[str, Gather]] = {
            "/": ("overview", self._overview),
            "/tables": ("tables", self._tables),
            "/tables/{name}": ("table", self._table),
            r"/tables/{name}/{key:[\s\S]*}": ("row", self._row),
            "/live": ("live", self._live),
            "/routes": ("routes", self._routes),
            "/routes/{name}": ("route", self._route),
            "/hosts": ("hosts", self._hosts),
            "/partitions": ("partitions", self._partitions),
            "/workers": ("workers", self._workers),
            "/errors": ("errors", self._errors),
            "/send": ("send", self._send),
        }
        served = [web.get(path, self._page(name, gather)) for path, (name, gather) in pages.items()]
        return [*served, web.get("/static/{path:.+}", self._assets.serve)]

    def _page(self, name: str, gather: Gather) -> Handler:
        """Return the handler of a page: its template with what `gather` returns, or the page of the problem."""

        async def handle(request: web.Request) -> web.Response:
            began = time.perf_counter()
            try:
                values = await gather(request)
                response = await asyncio.to_thread(self._written, f"{name}.html", page=name, **values)
            except Problem as problem:
                response = self.problem(problem, name)
            # static/refresh.js waits the longer, the longer this took
            response.headers["Server-Timing"] = f"page;dur={(time.perf_counter() - began) * 1000:.1f}"
            return response

        return handle

    def problem(self, problem: Problem, name: str = "") -> web.Response:
        """Return the page of a problem; `name` is the page on which it occurred."""
        title = _TITLES.get(problem.status, HTTPStatus(problem.status).phrase)
        return self._written("problem.html", problem.status, page=name, problem=problem, title=title)

    def _written(self, template: str, status: int = HTTPStatus.OK, **values: Any) -> web.Response:
        text = self._templates.get_template(template).render(now=datetime.now(UTC), **values)
        return web.Response(text=text, status=status, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _overview(self, _: web.Request) -> Row:
        return {"overview": await self._query.overview(), "workers": (await self._query.workers())["workers"]}

    async def _tables(self, _: web.Request) -> Row:
        return {"found": await self._query.tables()}

    async def _table(self, request: web.Request) -> Row:
        """Search, sort and page; other parameters are ignored."""
        name = request.match_info["name"]
        view = columns.TableView.of(name, request.query)
        found = await self._query.rows(name, prefix=view.prefix, where=view.where, sort=view.sort, limit=PAGE_ROWS,
                                       cursor=view.cursor)  # fmt: skip
        return {"name": name, "view": view, "found": found, "columns": columns.columns_of(name, found["rows"])}

    async def _row(self, request: web.Request) -> Row:
        name, text = request.match_info["name"], request.match_info["key"]
        coded = request.query.get("encoding") == "base64"
        row = await self._query.row(name, _decoded(text) if coded else text.encode(errors="surrogateescape"))
        if row is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"no row of {name} has this key")
        return {"name": name, "key": text, "coded": coded, "row": row}

    async def _live(self, request: web.Request) -> Row:
        """Begin with the latest answers of the tables; with JavaScript, new ones appear as they come."""
        view = {name: request.query.get(name, "") for name in ("outcome", "key", "host")}
        where, begins = ([(name, view[name])] if view[name] else [] for name in ("outcome", "host"))
        rows = self._query.rows("answers", prefix=view["key"], where=where, begins=begins, sort="-at", limit=LIVE_ROWS)
        return {"view": view, "found": await rows}

    async def _routes(self, _: web.Request) -> Row:
        return {"found": await self._query.routes()}

    async def _route(self, request: web.Request) -> Row:
        return {"route": await self._query.route(request.match_info["name"])}

    async def _hosts(self, request: web.Request) -> Row:
        view = columns.TableView.of("hosts", request.query, path="/hosts")
        hosts = self._query.hosts(prefix=view.prefix, sort=view.sort, limit=PAGE_ROWS, cursor=view.cursor)
        try:
            sources = (await self._query.source_rows())["sources"] if not view.cursor else []
        except Problem:  # the hosts are shown all the same
            sources = []
        return {"view": view, "found": await hosts, "sources": sources}

    async def _partitions(self, _: web.Request) -> Row:
        return {"found": await self._query.partitions()}

    async def _workers(self, _: web.Request) -> Row:
        return {"found": await self._query.workers()}

    async def _errors(self, request: web.Request) -> Row:
        view = {name: request.query.get(name, "") for name in letter_filter.NAMES}
        found = await self._query.errors(limit=ERROR_ROWS, selected=letter_filter.letter_filter(request.query))
        try:
            later = await self._query.retry_later()
        except Problem:  # this worker does not know the others
            later = {"topics": []}
        return {"found": found, "later": later, "view": view, "searched": SEARCHED}

    async def _send(self, _: web.Request) -> Row:
        try:
            return {"found": await self._query.sources()}
        except Problem:  # a URL can be requested all the same
            return {"found": {"sources": []}}


def _decoded(text: str) -> bytes:
    """Return the key that base64 in an address stands for. Raises Problem."""
    try:
        return decode_key(text)
    except ValueError:
        raise Problem(HTTPStatus.NOT_FOUND, "the key is not base64") from None
