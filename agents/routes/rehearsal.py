"""A route without Kafka: what it would ask for a record, and what would come out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aiokafka import ConsumerRecord

from agents.answer.app import open_resources
from agents.answer.enrich import Enricher
from agents.routes.formats import Formats
from agents.routes.lookups import Lookups
from agents.routes.outputs import PASSED, Outputs
from agents.routes.runner import DROPPED, RouteRunner
from agents.routes.walk import questions_of
from models.errors import AnswerError
from models.route import REGISTERED, Lookup, Route
from models.source import Sources
from streams.config.settings import Settings
from streams.http.client import client_of
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease
from streams.kafka.outgoing import OutgoingRecord
from streams.kafka.publisher import DEFAULT_LIMIT
from streams.pool import LargeWork

if TYPE_CHECKING:
    from streams.registry.registry import Registry

_OUTCOMES = {"pass": PASSED, "drop": DROPPED}


class Published(NamedTuple):
    """A record that would be published, and where."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class _Publisher:
    """Keeps what is published, and acknowledges it at once."""

    congested = False

    def __init__(self, *topics: str) -> None:
        self.limits = dict.fromkeys(topics, DEFAULT_LIMIT)
        self.published: list[Published] = []

    def may_exceed(self, *_: object) -> bool:
        return True

    def publish(self, topic: str, _: int, record: OutgoingRecord, *, fits: bool = False) -> None:  # noqa: ARG002
        self.published.append(Published(topic, record.key, record.value, dict(record.headers)))
        record.listener.finish(record.offset)

    async def pace(self) -> None:
        """Never wait."""


def sample(
    route: Route, value: bytes | None, key: bytes | None = None, headers: Mapping[str, str] | None = None, *,
    topic: str | None = None,
) -> ConsumerRecord[bytes, bytes]:  # fmt: skip
    """Return a record as if it were the first of a topic, of the route's first unless one is named."""
    return ConsumerRecord(
        topic or route.topics[0], 0, 0, int(time.time() * 1000), 0, key, value, None, -1,
        -1 if value is None else len(value), tuple((name, text.encode()) for name, text in (headers or {}).items()),
    )  # fmt: skip


def questions(
    route: Route, sources: Sources, record: ConsumerRecord[bytes, bytes]
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return what the lookups that need no other's answer would ask, with nothing sent; and the outcome of a record for
    which nothing is requested. Raises AnswerError.
    """
    formats = Formats(route)
    lookups = Lookups(route, sources, cast("Any", None), formats)
    if record.value is None and route.tombstones != "look-up":
        return _OUTCOMES[route.tombstones], []
    scope = formats.scope(record)
    outputs = Outputs(route, Settings(), cast("Any", None), {}, formats)
    if not RouteRunner(route, lookups, formats, outputs, cast("Any", None)).is_wanted(scope):
        return _OUTCOMES[route.otherwise], []
    return None, [each for lookup in route.stages[0] for each in _questions(lookups, lookup, scope)]


def without_registry(route: Route) -> Route:
    """Return a route that reads and writes as JSON what it would by a registry."""
    formats = {name: getattr(route, name) for name in ("format", "key_format", "results_format")}
    changes: dict[str, Any] = {name: "json" for name, each in formats.items() if each in REGISTERED}
    return replace(route, **changes)


def _questions(lookups: Lookups, lookup: Lookup, scope: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        found = questions_of(lookups, lookup, scope)
    except AnswerError as error:
        return [{"lookup": lookup.name, "outcome": error.outcome, "error": error.describe()}]
    return [{"lookup": lookup.name, "source": lookup.source, **each} for each in found]


async def rehearse(
    settings: Settings, route: Route, sources: Sources, record: ConsumerRecord[bytes, bytes]
) -> tuple[str, list[Published]]:
    """Send a record through a route, asking its sources; returns its outcome, and what would be published."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(settings, sources))
        limits = cast("Any", _Publisher(settings.results_topic))
        opened = await open_resources(stack, settings, sources, limits, client)
        return await send_through(settings, route, sources, opened.enricher, record)


async def send_through(
    settings: Settings, route: Route, sources: Sources, enricher: Enricher, record: ConsumerRecord[bytes, bytes],
    *, compacted: bool = False, large: LargeWork | None = None, registry: Registry | None = None,
) -> tuple[str, list[Published]]:  # fmt: skip
    """Do the same over an enricher that is open; `compacted`: the topic of the results is; `large` reads large JSON."""
    kept = _Publisher(route.results, route.failures or settings.dead_letters_topic)
    publisher = cast("Any", kept)
    lease = Lease(route.group(settings.group), record.topic, 0, position=record.offset)
    formats = Formats(route, registry, large)
    outputs = Outputs(route, settings, publisher, {record.topic: 1, route.results: 1}, formats,
                      compacted=compacted)  # fmt: skip
    lookups = Lookups(route, sources, enricher, formats, large)
    runner = RouteRunner(route, lookups, formats, outputs, publisher)
    lease.deliver([record], record.offset + 1)
    await runner.take(RecordBatch([record], lease, time.monotonic()))
    while lease.work:
        await asyncio.wait(lease.work)
    [outcome] = runner.outcomes
    return outcome, kept.published
