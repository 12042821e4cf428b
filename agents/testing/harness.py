"""A worker without its environment: a worker's own code from the bytes of a request to those of its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from aiokafka import ConsumerRecord

from agents.answer.agent import Answerer
from agents.answer.enrich import Enricher
from agents.answer.fetch import Fetcher
from agents.routes.rehearsal import Published, sample, send_through, without_registry
from agents.testing.doubles import Pool, Publisher, remove_pauses
from agents.testing.letters import Letter, letter_of
from agents.testing.upstream import Upstream, UpstreamRequest
from agents.testing.wire import Connector, Loop
from models import strictjson
from models.dead_letter import Headers
from models.errors import SettingsError
from models.result import RESULT_ROOM, read_result
from models.result_schema import ResultSchema
from models.route import Route
from models.source import CachePolicy, Sources
from streams.cache.front import Cache
from streams.config.cache_url import freshness_of, parse_tiers
from streams.config.secrets import secrets_of
from streams.config.settings import Settings
from streams.functions import FunctionCaller
from streams.http.client import client_of
from streams.http.policy import policy_of
from streams.http.session import Session, session_of
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease
from streams.kafka.publisher import DEFAULT_LIMIT
from streams.sources import parse

Request = Mapping[str, Any] | str | bytes | None
"""A request: an object, its JSON, or any bytes; None is a tombstone."""
Given = Sources | Path | str | None
"""Sources, or the path or the text of a sources.toml."""
T = TypeVar("T")


def answer(
    request: Request,
    upstream: Mapping[str, Any] | None = None,
    *,
    sources: Given = None,
    settings: Settings | None = None,
    key: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Answer one request and return its result. See `Harness` for arguments and errors."""
    with Harness(upstream, sources=sources, settings=settings) as service:
        return service.answer(request, key=key, headers=headers)


async def answer_async(
    request: Request,
    upstream: Mapping[str, Any] | None = None,
    *,
    sources: Given = None,
    settings: Settings | None = None,
    key: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`answer` for callers inside a running event loop."""
    async with AsyncHarness(upstream, sources=sources, settings=settings) as service:
        return await service.answer(request, key=key, headers=headers)


def replay(
    letter: Letter,
    upstream: Mapping[str, Any] | None = None,
    *,
    sources: Given = None,
    settings: Settings | None = None,
) -> dict[str, Any] | list[Published]:
    """Answer the request of a recorded dead letter again, as a redrive would; see `Harness.replay`."""
    with Harness(upstream, sources=sources, settings=settings) as service:
        return service.replay(letter)


class AsyncHarness:
    """A worker for tests that are coroutines; opened with `async with`. See `Harness`."""

    def __init__(
        self, upstream: Mapping[str, Any] | None = None, *, sources: Given = None, settings: Settings | None = None
    ) -> None:
        self._upstream = Upstream(upstream or {})
        self._settings = settings or self._upstream.settings()
        self._sources = _sources(sources)
        self._offset = 0

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with AsyncExitStack() as opening:
            self._publisher = Publisher(settings.results_topic)
            self._lease = Lease(settings.group, settings.requests_topic, 0, position=0)
            opening.callback(self._lease.revoke)
            enricher = self._enricher = await self._open_enricher(opening)
            self._answerer = Answerer(settings, enricher, cast("Any", self._publisher), self._sources)
            self._stack = opening.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._stack.aclose()
        if kind is None:
            self._upstream.check()

    @property
    def requests(self) -> list[UpstreamRequest]:
        """Return the requests that the upstream received, in order."""
        return self._upstream.requests

    async def answer(
        self, request: Request, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Answer a request with this key and these headers and return its result."""
        encoded = [(name, text.encode()) for name, text in (headers or {}).items()]
        return await self._answer(self._record(self._value(request), key, encoded))

    async def _answer(self, record: ConsumerRecord[bytes, bytes]) -> dict[str, Any]:
        self._lease.deliver([record], record.offset + 1)
        result = self._publisher.expect(record.offset)
        await self._answerer.answer(RecordBatch([record], self._lease, time.monotonic()))
        value = await result
        self._upstream.check()
        read: dict[str, Any] = read_result(value)
        wrong = ResultSchema().validate(read)
        assert not wrong, f"invalid result, which is a bug of Millrace: {wrong}"
        return read

    async def route(
        self, name: str, value: Request, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> list[Published]:
        """Send a record through the route of this name; returns what it publishes: topic, key, value, headers."""
        route = self._route(name)
        return await self._send_through(route, sample(route, self._value(value), key, headers))

    async def replay(self, letter: Letter) -> dict[str, Any] | list[Published]:
        """Answer the request of a dead letter again. See `Harness.replay`."""
        found = letter_of(letter)
        if found.route is None:
            return await self._answer(self._record(found.value, found.key, found.request_headers()))
        route = self._route(found.route)
        record = sample(route, found.value, found.key, topic=found.topic)
        return await self._send_through(route, replace(record, headers=tuple(found.request_headers())))

    def _route(self, name: str) -> Route:
        try:
            return without_registry(self._sources.routes[name])
        except KeyError:
            msg = f"there is no route {name!r} in the sources; there are: {', '.join(self._sources.routes) or 'none'}"
            raise KeyError(msg) from None

    async def _send_through(self, route: Route, record: ConsumerRecord[bytes, bytes]) -> list[Published]:
        _, published = await send_through(self._settings, route, self._sources, self._enricher, record)
        self._upstream.check()
        return published

    def _value(self, request: Request) -> bytes | None:
        if isinstance(request, str):
            return request.encode()
        return strictjson.dumps(request) if isinstance(request, Mapping) else request

    def _record(self, value: bytes | None, key: bytes | None, headers: Headers) -> ConsumerRecord[bytes, bytes]:
        offset, self._offset = self._offset, self._offset + 1
        return ConsumerRecord(
            self._settings.requests_topic, 0, offset, int(time.time() * 1000), 0, key, value, None, -1,
            -1 if value is None else len(value), tuple(headers),
        )  # fmt: skip

    async def _open_enricher(self, stack: AsyncExitStack) -> Enricher:
        """Assemble what `agents/worker.py` does, with the test's upstream and pool."""
        settings = self._settings
        session = await stack.enter_async_context(session_of(Connector(self._upstream)))
        client = client_of(settings, self._sources)
        client._direct = client._proxied = Session(session)
        sources = self._sources = remove_pauses(client, self._sources)
        secrets = {secret for source in sources.by_name.values() for secret in secrets_of(source)}
        caller = await stack.enter_async_context(FunctionCaller(settings.max_bytes, secrets))
        tiers = parse_tiers(settings.cache)
        cache = await stack.enter_async_context(Cache(tiers))
        named = {name: policy_of(source, client.policy, client.post)
                 for name, source in sources.by_name.items() if source.call is None}  # fmt: skip
        fetcher = Fetcher(client, caller, named)
        policy = CachePolicy(ttl=freshness_of(tiers))
        limit = DEFAULT_LIMIT - RESULT_ROOM
        enricher = Enricher(fetcher, cast("Any", Pool()), cache, settings.timeout, policy, limit=lambda: limit,
                            negative_ttl=settings.negative_ttl)  # fmt: skip
        return await stack.enter_async_context(enricher)


class Harness:
    """A worker for tests: requests in, results out, over one cache; opened with `with`.

    `upstream` has replies by URL, see `agents.testing.upstream.Upstream`; `sources` is a sources.toml, as its path,
    its text or Sources. `settings` defaults to the default settings, never to the environment, and to addresses and
    ports of the replies' URLs, so that internal upstreams answer. The test imports plugins itself. Time, threads of
    function sources and waits for a `rate` are real; pauses before retries are left out, and there are no processes
    with limits.

    Raises SettingsError for invalid sources, and AssertionError for a request to an upstream without a reply.
    """

    def __init__(
        self, upstream: Mapping[str, Any] | None = None, *, sources: Given = None, settings: Settings | None = None
    ) -> None:
        self._harness = AsyncHarness(upstream, sources=sources, settings=settings)

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=Loop)
        try:
            self._run(self._harness.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._run(self._harness.__aexit__(kind, *rest))
        finally:
            self._runner.close()

    @property
    def requests(self) -> list[UpstreamRequest]:
        """Return the requests that the upstream received, in order."""
        return self._harness.requests

    def answer(
        self, request: Request, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Answer a request with this key and these headers and return its result."""
        return self._run(self._harness.answer(request, key=key, headers=headers))

    def route(
        self, name: str, value: Request, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> list[Published]:
        """Send a record through the route of this name; returns what it publishes: topic, key, value, headers."""
        return self._run(self._harness.route(name, value, key=key, headers=headers))

    def replay(self, letter: Letter) -> dict[str, Any] | list[Published]:
        """Answer the request of a recorded dead letter again, as a redrive would, and return its result; for a letter
        of a route, what the route publishes. See `agents.testing.letters.Letter` for its forms.

        Raises ValueError for what is no dead letter, or could not be redriven either.
        """
        return self._run(self._harness.replay(letter))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio._get_running_loop() is not None:
            work.close()
            msg = "an event loop runs here: use AsyncHarness or answer_async, and await them"
            raise RuntimeError(msg)
        return self._runner.run(work)


def _sources(given: Given) -> Sources:
    if given is None or isinstance(given, Sources):
        return given or Sources()
    name, content = (str(given), given.read_bytes()) if isinstance(given, Path) else ("sources", given.encode())
    sources, wrong = parse(content)
    if wrong:
        raise SettingsError("\n".join(f"{name}: {problem}" for problem in wrong))
    return sources
