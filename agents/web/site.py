"""A worker's web site: the API, the pages, and the stream of events that keeps them up to date.

A worker of the role `answer` reads no other worker's records and keeps no tables: it has no pages, and only the part of
the API that concerns itself. The rest is 404, with the roles that have it.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import version
from typing import NoReturn

from aiohttp import web

from agents.web.api.routes import Api
from agents.web.live import Events
from agents.web.pages import About, Pages
from agents.web.sample import LiveRow, Sampler
from models import documents
from streams.config.settings import Settings
from streams.web.problems import Problem

OWN = frozenset({"/api/cache", "/api/pool", "/api/errors", "/openapi.json", "/asyncapi.json"})
"""What any worker serves, beside /docs."""
ELSEWHERE = (
    "this worker has the role answer: it keeps no tables and has no pages; use one that has the role all or tables"
)


class Site:
    """`events` is opened after the server that has the routes, so that its streams end before the server closes."""

    def __init__(self, settings: Settings, api: Api) -> None:
        about = About(
            worker=settings.worker_id,
            version=version("millrace-kafka"),
            requests_topic=settings.requests_topic,
            token_set=bool(settings.web_token),
            schemas=documents.names(),
        )
        self.events = Events(api.query.overview, Sampler(api.tail.watching, LiveRow()))
        self.pages = Pages(api.query, about)
        self._parts = api, self.pages, self.events
        self._whole = settings.role != "answer"
        if self._whole:
            self.pages.compile()

    @property
    def error_page(self) -> Callable[[Problem], web.Response] | None:
        """Return the function that makes the page of a problem, None where there are no pages."""
        return self.pages.problem if self._whole else None

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        found = [route for part in self._parts for route in part.routes()]
        to_docs = [web.get(path, _docs) for path in ("/api", "/api/")]
        return [*to_docs, *(found if self._whole else map(_own, found))]


def _own(route: web.RouteDef) -> web.RouteDef:
    """Return a route as a worker of the role `answer` has it."""
    own = route.method != "GET" or route.path in OWN or route.path.startswith("/docs")
    return route if own else web.get(route.path, _elsewhere, **route.kwargs)


async def _elsewhere(_: web.Request) -> NoReturn:
    raise Problem(HTTPStatus.NOT_FOUND, ELSEWHERE)


async def _docs(_: web.Request) -> NoReturn:
    raise web.HTTPFound(location="/docs")
