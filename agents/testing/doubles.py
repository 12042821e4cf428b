"""Stand-ins for what a test has no use for: Kafka, processes, and pauses that are long."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any

from models import checks
from models.checks import CheckOutcome
from models.process import DiscardOutput
from models.source import Limits, Source, Sources, replaced
from streams.config.settings import CHECK_TIMEOUT
from streams.http.client import Client
from streams.http.limits import Host, Hosts
from streams.kafka.outgoing import OutgoingRecord
from streams.kafka.publisher import DEFAULT_LIMIT


class Publisher:
    """Acknowledges at once what a topic of the usual size takes, and makes the rest smaller as a worker does."""

    congested = False

    def __init__(self, results: str) -> None:
        self._results = results
        self._awaited: dict[int, asyncio.Future[bytes]] = {}

    def expect(self, offset: int) -> asyncio.Future[bytes]:
        """Return what ends with the result of the request at an offset."""
        future = self._awaited[offset] = asyncio.get_running_loop().create_future()
        return future

    def publish(self, topic: str, _: int, parcel: OutgoingRecord | None) -> None:
        """Take a record."""
        assert parcel is not None
        offset, receipt = parcel.offset, parcel.listener
        while parcel is not None and parcel.size() > DEFAULT_LIMIT:
            parcel = parcel.shrink(parcel)
        if topic == self._results:
            future = self._awaited.pop(offset)
            if not future.done():
                future.set_result((parcel.value if parcel is not None else None) or b"")
        receipt.finish(offset)

    async def pace(self) -> None:
        """Hold nobody up."""


class Pool:
    """Runs checks here and now, each on values of its own as in another process, where printing raises.

    One that takes longer than it may is told so when it ends; one that ends its process ends the test.
    """

    def submit(self, name: str, value: Any, arguments: Mapping[str, Any]) -> asyncio.Future[CheckOutcome]:
        """Run one check."""
        done: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()
        value, arguments = pickle.loads(pickle.dumps((value, arguments)))  # noqa: S301  our own
        with contextlib.redirect_stdout(DiscardOutput()):
            verdict = checks.run(name, value, arguments)
        if verdict.elapsed > CHECK_TIMEOUT:
            verdict = CheckOutcome(error=f"ran longer than {CHECK_TIMEOUT:g} s", elapsed=verdict.elapsed)
        done.set_result(verdict)
        return done


class _Hosts(Hosts):
    """Hosts whose pauses (Retry-After) are over at once, or refused as ever if they are past a deadline."""

    def made(self, name: str, limits: Limits | None) -> Host:
        """Return a new host."""
        return _Host(name, limits)


class _Host(Host):
    async def _wait_out_pause(self, deadline: float | None) -> None:
        if deadline is not None and self._paused_until >= deadline:
            await super()._wait_out_pause(deadline)
        self._paused_until = 0.0


def remove_pauses(client: Client, sources: Sources) -> Sources:
    """Have a client wait for nothing before another try; returns the sources with which it does not, either."""
    client.hosts = _Hosts(sources.hosts)
    client.policy = dataclasses.replace(
        client.policy, retry=_without_pauses(Source("", retry=client.policy.retry)).retry
    )
    return Sources({name: _without_pauses(source) for name, source in sources.by_name.items()}, sources.hosts)


def _without_pauses(source: Source) -> Source:
    return replaced(source, retry=dataclasses.replace(source.retry, first_pause=0.0, longest_pause=0.0))
