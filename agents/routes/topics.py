"""Which topics the patterns of routes match, as far as names decide it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.redrive.redriver import marks_of
from models.retry_later import is_delay_topic
from models.route import Route
from streams.config.settings import Settings
from streams.kafka.patterns import existing
from streams.tables.changelogs import changelogs


def is_own(name: str, settings: Settings) -> bool:
    """Whether a topic is one that workers keep for themselves, which no pattern matches."""
    own = (settings.workers_topic, marks_of(settings), *changelogs(settings).values())
    return name in own or is_delay_topic(settings.group, name)


def matched(routes: Iterable[Route], names: Iterable[str], settings: Settings) -> list[Route]:
    """Return routes with those of the topics in the place of their patterns that these match."""
    others = sorted(name for name in set(names) if not is_own(name, settings))
    return [route.matched(others) for route in routes]


async def find_matched(routes: Sequence[Route], settings: Settings) -> list[Route]:
    """Do the same with the topics that there are in Kafka, if there is a pattern at all. Raises BrokerError."""
    if not any(route.patterns for route in routes):
        return list(routes)
    return matched(routes, await existing(settings.kafka), settings)
