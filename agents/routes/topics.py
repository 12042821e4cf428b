"""Which topics the patterns of routes match, as far as names decide it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.redrive.redriver import marks_of
from models.route import Route
from streams.config.settings import Settings
from streams.kafka.patterns import existing
from streams.tables.changelogs import changelogs


def own_topics(settings: Settings) -> frozenset[str]:
    """Return the topics that workers make for themselves, which no pattern matches."""
    return frozenset((settings.workers_topic, marks_of(settings), *changelogs(settings).values()))


def matched(routes: Iterable[Route], names: Iterable[str], settings: Settings) -> list[Route]:
    """Return routes with those of the topics in the place of their patterns that these match."""
    others = sorted(set(names) - own_topics(settings))
    return [route.matched(others) for route in routes]


async def find_matched(routes: Sequence[Route], settings: Settings) -> list[Route]:
    """Do the same with the topics that there are in Kafka, if there is a pattern at all. Raises BrokerError."""
    if not any(route.patterns for route in routes):
        return list(routes)
    return matched(routes, await existing(settings.kafka), settings)
