"""The answer role of a worker: its Faust app, and the resources of its agent, opened and closed with it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agents.answer.agent import Answerer
from agents.answer.bulk import BulkFetcher
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.answer.line import SOURCE
from models.result import RESULT_ROOM
from models.retry_later import delay_topics
from models.source import CachePolicy, Sources
from streams import memory
from streams.app import App
from streams.cache.front import Cache
from streams.config.cache_url import freshness_of, parse_tiers
from streams.config.plugins import plugin_specs
from streams.config.secrets import secrets_of
from streams.config.settings import Settings
from streams.functions import FunctionCaller
from streams.http.client import Client, client_of
from streams.http.limits import Bulkhead
from streams.http.policy import UpstreamPolicy, policy_of
from streams.kafka.outgoing import publishing_state
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topic, delay_differences, differences, keeps
from streams.lending import Lending
from streams.pool import CheckPool, LargeWork
from streams.telemetry.tracing import tracing

if TYPE_CHECKING:
    from agents.answer.tracing import RequestSpans

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """What the agent needs, open."""

    publisher: Publisher
    client: Client
    caller: FunctionCaller
    pool: CheckPool
    cache: Cache
    enricher: Enricher
    answerer: Answerer
    large: LargeWork
    bulk: BulkFetcher
    shared: Mapping[str, Bulkhead]
    """Those whose rate is shared with other workers, by the names of their limits."""


class AnswerApp:
    """See the module. `resources` are None until all of them are open; `share` shares limits with other workers."""

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        find_topics: Callable[[], Awaitable[Mapping[str, Topic]]],
        share: Callable[[Mapping[str, Bulkhead]], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        self.settings = settings
        self.sources = sources
        self._find_topics = find_topics
        self._share = share
        self.app = App(settings, id=settings.group, exactly_once=settings.exactly_once)
        self.resources: Resources | None = None
        self.lent: Lending[Enricher] = Lending()
        self.app.opens(self.open)
        topic = self.app.topic(settings.requests_topic, key_type=bytes, value_type=bytes)
        self.app.agent(topic, name="answer")(self.answer)

    async def answer(self, stream: Any) -> None:
        """The agent: hands each batch to the answerer."""
        assert self.resources is not None
        await self.app.deliver(stream, self.resources.answerer.answer)

    async def open(self, stack: AsyncExitStack) -> Publisher:
        """Open publisher, client, cache and pool. Raises MillraceError."""
        settings = self.settings
        tracer = await stack.enter_async_context(tracing(settings.traces, settings.worker_id))
        topics = await self._find_topics()
        later = delay_topics(settings.group, self.sources.delays)
        for line in [*differences(settings, topics), *delay_differences(later, topics)]:
            logger.warning("%s", line)
        publisher = await self.app.publisher(stack, settings, settings.worker_id)
        kept = [name for name, delay in later.items() if keeps(topics[name], delay)]  # or else nothing is put there
        for topic in (topics[name] for name in (settings.results_topic, settings.dead_letters_topic, *kept)):
            publisher.learn(topic.name, topic.partitions, topic.max_bytes)
        client = await stack.enter_async_context(client_of(settings, self.sources))
        spans = None if tracer is None else self._trace(client, tracer)
        self.resources = await open_resources(stack, settings, self.sources, publisher, client, spans=spans)
        if self.resources.shared and self._share is not None:
            await stack.enter_async_context(self._share(self.resources.shared))
        self.lent.lend(self.resources.enricher, stack)
        memory.settle()
        return publisher

    def _trace(self, client: Client, tracer: Any) -> RequestSpans:
        from agents.answer.tracing import RequestSpans  # noqa: PLC0415  loads an extra
        from streams.http.tracing import HttpSpans  # noqa: PLC0415

        client.spans = HttpSpans(tracer)
        return RequestSpans(tracer, self.settings.group)

    def readiness(self) -> Mapping[str, str]:
        """Return the states for `/readyz`: assigned, recovered, publishing, checks."""
        if self.resources is None:
            return {**self.app.readiness(), "publishing": "starting", "checks": "starting"}
        return {
            **self.app.readiness(),
            "publishing": publishing_state(self.resources.publisher.failing_since),
            "checks": self.resources.pool.health(),
        }


async def open_resources(
    stack: AsyncExitStack,
    settings: Settings,
    sources: Sources,
    publisher: Publisher,
    client: Client,
    *,
    spans: RequestSpans | None = None,
) -> Resources:
    """Open what answers requests, over a publisher and a client."""

    def limit() -> int:
        """Return the maximum bytes of an answer whose result fits into the topic."""
        return publisher.limits[settings.results_topic] - RESULT_ROOM

    secrets = {secret for source in sources.by_name.values() for secret in secrets_of(source)}
    caller = await stack.enter_async_context(FunctionCaller(settings.max_bytes, secrets))
    plugins = plugin_specs(settings)
    pool = await stack.enter_async_context(CheckPool(settings.processes(), plugins))
    tiers = parse_tiers(settings.cache)
    policy = CachePolicy(ttl=freshness_of(tiers))
    longest = max(each.longest for each in (policy, *(source.cache for source in sources.by_name.values())))
    large = await stack.enter_async_context(LargeWork(plugins))
    cache = await stack.enter_async_context(Cache(tiers, longest=longest, large=large))
    named = {name: policy_of(source, client.policy, client.post)
             for name, source in sources.by_name.items() if source.call is None}  # fmt: skip
    fetcher = Fetcher(client, caller, named, large, limit)
    enricher = await stack.enter_async_context(
        Enricher(fetcher, pool, cache, settings.timeout, policy, limit=limit, negative_ttl=settings.negative_ttl)
    )
    shared = shared_bulkheads(sources, client, caller, named)
    answerer = Answerer(settings, enricher, publisher, sources, pool.admission, spans=spans, large=large, shared=shared)
    return Resources(publisher, client, caller, pool, cache, enricher, answerer, large, fetcher.bulk, shared)


def shared_bulkheads(
    sources: Sources, client: Client, caller: FunctionCaller, policies: Mapping[str, UpstreamPolicy]
) -> dict[str, Bulkhead]:
    """Return the bulkheads of sources and hosts with `limits.shared`, by name: `source NAME`, or the host's."""
    found: dict[str, Bulkhead] = {}
    for name, source in sources.by_name.items():
        if source.limits is not None and source.limits.shared:
            bulkhead = caller.host(source).bulkhead if source.call is not None else policies[name].bulkhead
            assert bulkhead is not None
            found[f"{SOURCE}{name}"] = bulkhead
    hosts = (authority for authority, limits in sources.hosts.items() if limits.shared)
    return found | {authority: client.hosts.of(authority).bulkhead for authority in hosts}
