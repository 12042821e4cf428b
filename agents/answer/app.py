"""The answer role of a worker: its Faust app, and the resources of its agent, opened and closed with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from agents.answer.agent import Answerer
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from models.result import RESULT_ROOM
from models.source import CachePolicy, Sources
from streams.app import App, settle_memory
from streams.cache.front import Cache
from streams.config.cache_url import freshness_of, parse_tiers
from streams.config.secrets import secrets_of
from streams.config.settings import Settings
from streams.functions import FunctionCaller
from streams.http.client import Client, client_of
from streams.http.policy import policy_of
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topic, differences
from streams.pool import CheckPool, LargeWork
from streams.telemetry.tracing import tracing

if TYPE_CHECKING:
    from agents.answer.tracing import RequestSpans

logger = logging.getLogger(__name__)

PUBLISH_FAILING = 10.0
"""Seconds without an acknowledgement of published records after which a worker is not ready."""


class AnswerApp:
    """See the module."""

    def __init__(
        self, settings: Settings, sources: Sources, find_topics: Callable[[], Awaitable[Mapping[str, Topic]]]
    ) -> None:
        self.settings = settings
        self.sources = sources
        self._find_topics = find_topics
        self.app = App(settings, id=settings.group)
        self.publisher: Publisher | None = None
        self.answerer: Answerer | None = None
        self.pool: CheckPool | None = None
        self.enricher: Enricher | None = None
        self.client: Client | None = None
        self.caller: FunctionCaller | None = None
        self.cache: Cache | None = None
        self._large: LargeWork | None = None
        self.app.opens(self.open)
        topic = self.app.topic(settings.requests_topic, key_type=bytes, value_type=bytes)
        self.app.agent(topic, name="answer")(self.answer)

    async def answer(self, stream: Any) -> None:
        """The agent: hands each batch to the answerer."""
        assert self.answerer is not None
        await self.app.deliver(stream, self.answerer.answer)

    async def open(self, stack: AsyncExitStack) -> Publisher:
        """Open publisher, client, cache and pool. Raises MillraceError."""
        settings = self.settings
        tracer = await stack.enter_async_context(tracing(settings.traces, settings.worker_id))
        topics = await self._find_topics()
        for line in differences(settings, topics):
            logger.warning("%s", line)
        publisher = Publisher(settings.kafka, settings.worker_id, self.app.crash_soon)
        self.publisher = await stack.enter_async_context(publisher)
        for topic in (topics[settings.results_topic], topics[settings.dead_letters_topic]):
            publisher.learn(topic.name, topic.partitions, topic.max_bytes)
        enricher = self.enricher = await self._open_enricher(stack)
        assert self.pool is not None
        spans = None if tracer is None else self._trace(tracer)
        self.answerer = Answerer(
            settings, enricher, self.publisher, self.sources, self.pool.admission, spans=spans, large=self._large
        )
        settle_memory()
        return publisher

    async def _open_enricher(self, stack: AsyncExitStack) -> Enricher:
        settings, sources = self.settings, self.sources
        client = await stack.enter_async_context(client_of(settings, sources))
        secrets = {secret for source in sources.by_name.values() for secret in secrets_of(source)}
        caller = await stack.enter_async_context(FunctionCaller(settings.max_bytes, secrets))
        pool = await stack.enter_async_context(CheckPool(settings.processes(), settings.plugins))
        self.client, self.caller, self.pool = client, caller, pool
        tiers = parse_tiers(settings.cache)
        policy = CachePolicy(ttl=freshness_of(tiers))
        longest = max(each.longest for each in (policy, *(source.cache for source in sources.by_name.values())))
        large = self._large = await stack.enter_async_context(LargeWork(settings.plugins))
        cache = self.cache = await stack.enter_async_context(Cache(tiers, longest=longest, large=large))
        named = {name: policy_of(source, client.policy, client.post)
                 for name, source in sources.by_name.items() if source.call is None}  # fmt: skip
        fetcher = Fetcher(client, caller, named, large, self._limit)
        enricher = Enricher(fetcher, pool, cache, settings.timeout, policy, limit=self._limit,
                            negative_ttl=settings.negative_ttl)  # fmt: skip
        return await stack.enter_async_context(enricher)

    def _limit(self) -> int:
        """Return the maximum bytes of an answer whose result fits into the topic."""
        assert self.publisher is not None
        return self.publisher.limits[self.settings.results_topic] - RESULT_ROOM

    def _trace(self, tracer: Any) -> RequestSpans:
        from agents.answer.tracing import RequestSpans  # noqa: PLC0415  loads an extra
        from streams.http.tracing import HttpSpans  # noqa: PLC0415

        assert self.client is not None
        self.client.spans = HttpSpans(tracer)
        return RequestSpans(tracer, self.settings.group)

    def readiness(self) -> Mapping[str, str]:
        """Return the states for `/readyz`: assigned, recovered, publishing, checks."""
        failing = self.publisher.failing_since if self.publisher is not None else time.monotonic()
        publishing = "ok"
        if self.answerer is None:
            publishing = "starting"
        elif failing is not None and time.monotonic() - failing > PUBLISH_FAILING:
            publishing = f"no acknowledgement from Kafka for {time.monotonic() - failing:.0f} s"
        checks = "starting" if self.pool is None else self.pool.health()
        return {**self.app.readiness(), "publishing": publishing, "checks": checks}
