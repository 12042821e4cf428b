"""Stand-ins for what a test does not need: Kafka, processes, and long pauses."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from models import checks
from models.checks import CheckOutcome
from models.process import DiscardOutput
from models.source import Limits, Source, Sources
from streams.config.settings import CHECK_TIMEOUT
from streams.http.client import Client
from streams.http.limits import Bulkhead, Host, Hosts
from streams.kafka.outgoing import OutgoingRecord
from streams.kafka.publisher import DEFAULT_LIMIT


class Publisher:
    """Acknowledges records at once; makes those smaller that are too large for a usual topic, as a worker does."""

    congested = False

    def __init__(self, results: str) -> None:
        self._results = results
        self.limits = {results: DEFAULT_LIMIT}
        self._awaited: dict[int, asyncio.Future[bytes]] = {}

    def expect(self, offset: int) -> asyncio.Future[bytes]:
        """Return a future of the result of the request at an offset."""
        future = self._awaited[offset] = asyncio.get_running_loop().create_future()
        return future

    def may_exceed(self, *_: object) -> bool:
        """Whether a record may be too large: each is measured here."""
        return True

    def publish(self, topic: str, _: int, record: OutgoingRecord | None, *, fits: bool = False) -> None:  # noqa: ARG002  a worker's signature
        """Take a record."""
        assert record is not None
        offset, listener = record.offset, record.listener
        while record is not None and record.size() > DEFAULT_LIMIT:
            record = record.shrink(record)
        if topic == self._results:
            future = self._awaited.pop(offset)
            if not future.done():
                future.set_result((record.value if record is not None else None) or b"")
        listener.finish(offset)

    def publish_all(self, topic: str, partition: int, records: Sequence[OutgoingRecord]) -> None:
        """Take records."""
        for record in records:
            self.publish(topic, partition, record)

    async def pace(self) -> None:
        """Never wait."""


class Pool:
    """Runs checks at once in this process, on copies of their values, with printing forbidden as in a pool process.

    A check that takes too long fails when it ends; one that ends its process ends the test.
    """

    def submit(self, name: str, value: Any, arguments: Mapping[str, Any]) -> asyncio.Future[CheckOutcome]:
        """Run one check."""
        done: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()
        value, arguments = pickle.loads(pickle.dumps((value, arguments)))  # noqa: S301  just pickled
        with contextlib.redirect_stdout(DiscardOutput()):
            outcome = checks.run(name, value, arguments)
        if outcome.elapsed > CHECK_TIMEOUT:
            outcome = CheckOutcome(error=f"ran longer than {CHECK_TIMEOUT:g} s", elapsed=outcome.elapsed)
        done.set_result(outcome)
        return done


class _Hosts(Hosts):
    """Hosts whose pauses (Retry-After) end at once, or are refused if they pass the deadline."""

    def made(self, name: str, limits: Limits | None, bulkhead: Bulkhead | None = None) -> Host:
        """Return a new host."""
        return _Host(name, limits, bulkhead=bulkhead)


class _Host(Host):
    async def _wait_out_pause(self, deadline: float | None) -> None:
        if deadline is not None and self._paused_until >= deadline:
            await super()._wait_out_pause(deadline)
        self._paused_until = 0.0


def remove_pauses(client: Client, sources: Sources) -> Sources:
    """Make a client retry without pauses; returns the sources without pauses of their own."""
    client.hosts = _Hosts(sources.hosts)
    client.policy = dataclasses.replace(
        client.policy, retry=_without_pauses(Source("", retry=client.policy.retry)).retry
    )
    hasty = {name: _without_pauses(source) for name, source in sources.by_name.items()}
    return Sources(hasty, sources.hosts, sources.routes)


def _without_pauses(source: Source) -> Source:
    return dataclasses.replace(source, retry=dataclasses.replace(source.retry, first_pause=0.0, longest_pause=0.0))
