"""A route of a worker: its Faust app, in a consumer group of its own, over the upstreams, cache and pool with which the
worker answers requests. So routes share answers and limits, and none holds up another or the requests topic.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from agents.answer.app import PUBLISH_FAILING, AnswerApp
from agents.routes.formats import Formats
from agents.routes.lookups import Lookups
from agents.routes.outputs import Outputs
from agents.routes.runner import RouteRunner
from models.route import Route
from models.source import Sources
from streams.app import App
from streams.config.settings import Settings
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topic

if TYPE_CHECKING:
    from streams.registry.registry import Registry


class RouteApp:
    """See the module."""

    def __init__(
        self, settings: Settings, route: Route, sources: Sources, answering: AnswerApp,
        find_topics: Callable[[], Awaitable[Mapping[str, Topic]]],
    ) -> None:  # fmt: skip
        self.route = route
        self.dead_letters = route.failures or settings.dead_letters_topic
        self._settings = settings
        self._sources = sources
        self._answering = answering
        self._find_topics = find_topics
        self.publisher: Publisher | None = None
        self.runner: RouteRunner | None = None
        self.app = App(settings, id=route.group(settings.group))
        self.app.opens(self.open)
        topic = self.app.topic(*route.topics, key_type=bytes, value_type=bytes)
        self.app.agent(topic, name=f"route {route.name}")(self.work)

    async def work(self, stream: Any) -> None:
        """The agent: hands each batch to the runner."""
        assert self.runner is not None
        await self.app.deliver(stream, self.runner.take)

    async def open(self, stack: AsyncExitStack) -> Publisher:
        """Open a publisher, once the worker's upstreams are open. Raises MillraceError."""
        settings, route = self._settings, self.route
        topics = await self._find_topics()
        enricher = await self._answering.lent.borrow(stack)
        publisher = Publisher(settings.kafka, f"{settings.worker_id}-{route.name}", self.app.crash_soon)
        self.publisher = await stack.enter_async_context(publisher)
        results = topics[route.results]
        for topic in (results, topics[self.dead_letters]):
            publisher.learn(topic.name, topic.partitions, topic.max_bytes)
        partitions = {name: topics[name].partitions for name in (*route.topics, route.results)}
        assert self._answering.resources is not None  # what was lent
        large = self._answering.resources.large
        formats = Formats(route, await self._registry(stack), large)
        compacted = "compact" in (results.cleanup or "")
        outputs = Outputs(route, settings, publisher, partitions, formats, compacted=compacted)
        self.runner = RouteRunner(
            route, Lookups(route, self._sources, enricher, formats, large), formats, outputs, publisher
        )
        return publisher

    async def _registry(self, stack: AsyncExitStack) -> Registry | None:
        """Open the schema registry if the route needs it. Raises SettingsError without it, or without the extra."""
        if not self.route.needs_registry:
            return None
        from streams.registry.registry import Registry  # noqa: PLC0415  the extra

        return await stack.enter_async_context(Registry(self._settings))

    def readiness(self) -> str:
        """Return `ok`, or what this route waits for."""
        if self.runner is None or self.publisher is None:
            return "starting"
        since = self.publisher.failing_since
        if since is not None and time.monotonic() - since > PUBLISH_FAILING:
            return f"no acknowledgement from Kafka for {time.monotonic() - since:.0f} s"
        return next((state for state in self.app.readiness().values() if state != "ok"), "ok")
