"""Checks of the routes beside their topics and groups, which `kafka` looks at."""

from __future__ import annotations

from collections.abc import Iterator

from agents.doctor import Finding, ok, problem
from models.errors import MillraceError
from models.route import Route
from models.source import Sources
from streams.config.settings import Settings
from streams.sources import load, route_misfits


def routes_of(settings: Settings) -> list[Route]:
    """Return a worker's routes: none in the role `tables`, nor of an invalid file, which `sources` reports."""
    return list(_loaded(settings).routes.values())


def delays_of(settings: Settings) -> frozenset[int]:
    """Return the delays of retry_later, in seconds, of a worker's sources and routes."""
    return _loaded(settings).delays


def _loaded(settings: Settings) -> Sources:
    if settings.role == "tables":
        return Sources()
    try:
        return load(settings.sources)
    except MillraceError:
        return Sources()


def routes(settings: Settings) -> Iterator[Finding]:
    """Check that the routes go with the settings."""
    sources = _loaded(settings)
    lines = route_misfits(settings, sources)
    for line in lines:
        yield problem("routes", line, f"change it in {settings.sources}, or the settings")
    if not lines:
        for route in sources.routes.values():
            failures = route.failures or settings.dead_letters_topic
            seen = f"reads {', '.join(route.topics)}, writes {route.results}; dead letters go to {failures}"
            yield ok(f"route {route.name}", seen)
