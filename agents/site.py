"""A worker's web site: the API, the pages, and the stream of events that keeps them up to date."""

from __future__ import annotations

from importlib.metadata import version

from aiohttp import web

from agents.api.routes import Api
from agents.glance import Glance
from models import documents
from streams.settings import Settings
from streams.web.live import Events
from streams.web.pages import About, Pages
from streams.web.sample import Sampler


class Site:
    """`events` is opened after the server that has the routes, so that its streams end before the server does."""

    def __init__(self, settings: Settings, api: Api) -> None:
        about = About(
            worker=settings.worker_id,
            version=version("millrace"),
            requests_topic=settings.requests_topic,
            token_set=bool(settings.web_token),
            schemas=documents.names(),
        )
        self.events = Events(api.query.overview, Sampler(api.tail.watching, Glance()))
        self.pages = Pages(api.query, about)
        self._parts = api, self.pages, self.events

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        return [route for part in self._parts for route in part.routes()]
