"""A route of a worker: its Faust app, in a consumer group of its own, over the upstreams, cache and pool with which the
worker answers requests. So routes share answers and limits, and none holds up another or the requests topic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from agents.answer.app import AnswerApp
from agents.routes.formats import Formats
from agents.routes.lookups import Lookups
from agents.routes.outputs import Outputs
from agents.routes.runner import RouteRunner
from agents.routes.topics import is_own
from models.retry_later import delay_topics
from models.route import Route
from models.source import Sources
from streams.app import App
from streams.config.settings import Settings
from streams.kafka.outgoing import publishing_state
from streams.kafka.patterns import PatternTopics, existing
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topic, keeps
from streams.lending import Lending
from streams.tasks import end_tasks, keep

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
        self.lent: Lending[RouteRunner] = Lending()
        self.app = App(settings, id=route.group(settings.group), exactly_once=settings.exactly_once)
        self.app.opens(self.open)
        self._patterns = PatternTopics(self.app, f"route {route.name}", self._matches, route.names)
        topic = self.app.topic(*route.names, key_type=bytes, value_type=bytes)
        self.app.agent(topic, name=f"route {route.name}")(self.work)

    @property
    def topics(self) -> list[str]:
        """Return the topics that are read now."""
        return self._patterns.names

    def sample(self) -> dict[str, Any] | None:
        """Return the latest record, walked through; None before the first."""
        return None if self.runner is None else self.runner.sample()

    def _matches(self, name: str) -> bool:
        return self.route.pattern_of(name) is not None and not is_own(name, self._settings)

    async def work(self, stream: Any) -> None:
        """The agent: hands each batch to the runner."""
        assert self.runner is not None
        await self.app.deliver(stream, self.runner.take)

    async def open(self, stack: AsyncExitStack) -> Publisher:
        """Open a publisher, once the worker's upstreams are open. Raises MillraceError."""
        settings, route = self._settings, self.route
        topics = await self._find_topics()
        enricher = await self._answering.lent.borrow(stack)
        self.publisher = publisher = await self.app.publisher(stack, settings, f"{settings.worker_id}-{route.name}")
        results = topics[route.results]
        delays = delay_topics(settings.group, self._sources.delays)
        later = [topics[name] for name, delay in delays.items() if keeps(topics[name], delay)]
        for topic in (results, topics[self.dead_letters], *later):
            publisher.learn(topic.name, topic.partitions, topic.max_bytes)
        partitions = self._patterns.partitions
        partitions |= {name: topics[name].partitions for name in (*route.names, route.results)}
        if route.patterns:
            self._patterns.begin(await existing(settings.kafka))
            following = keep(self._patterns.follow, f"the route {route.name} follows its patterns",
                             means="new topics are not read")  # fmt: skip
            stack.push_async_callback(end_tasks, following)
        assert self._answering.resources is not None  # what was lent
        large = self._answering.resources.large
        formats = Formats(route, await self._registry(stack), large)
        compacted = "compact" in (results.cleanup or "")
        outputs = Outputs(route, settings, publisher, partitions, formats, compacted=compacted)
        self.runner = RouteRunner(
            route, Lookups(route, self._sources, enricher, formats, large), formats, outputs, publisher
        )
        self.lent.lend(self.runner, stack)
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
        states = [publishing_state(self.publisher.failing_since)]
        if self.topics:  # that its patterns match none yet is no fault
            states += self.app.readiness().values()
        return next((state for state in states if state != "ok"), "ok")
