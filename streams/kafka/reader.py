"""Reading what a topic holds now, once, without a group: from an offset or a time of each partition to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Self, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.cluster import identify_by
from streams.kafka.commit_metadata import Identity
from streams.kafka.errors import explain

POLL_TIMEOUT = 0.2
"""Seconds that a poll waits for records."""
MAX_POLL_RECORDS = 500
STALLED = 30.0
"""Seconds without progress, though there is more to read, after which reading is given up."""
READ_TIMEOUT = 15.0
"""Seconds that one look at a topic's offsets may take."""

Span: TypeAlias = tuple[int, int]
"""Offsets of a partition, from the first to before the second."""
Record: TypeAlias = ConsumerRecord[bytes, bytes]


class Reader:
    """Opened with `async with`. Reads what is committed only. Raises BrokerError for what Kafka does not give."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._stack = contextlib.AsyncExitStack()
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        opening = client.consumer(self._kafka, isolation_level="read_committed")
        self._consumer = await self._stack.enter_async_context(opening)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def spans(self, topic: str, partitions: int, since: float | None = None) -> dict[TopicPartition, Span]:
        """Return what each partition holds now, or of that what came at `since` (seconds since the epoch) and after.

        Whoever wants only what came before some time must look at each record: timestamps are in no order.
        """
        tps = [TopicPartition(topic, number) for number in range(partitions)]
        with self._explained():
            self._consumer.assign(tps)
            first = await asyncio.wait_for(self._consumer.beginning_offsets(tps), READ_TIMEOUT)
            last = await asyncio.wait_for(self._consumer.end_offsets(tps), READ_TIMEOUT)
            if since is not None:
                found = await self._consumer.offsets_for_times({tp: int(since * 1000) for tp in tps})
                first = {tp: last[tp] if found.get(tp) is None else found[tp].offset for tp in tps}
        return {tp: (first[tp], last[tp]) for tp in tps if first[tp] < last[tp]}

    async def read(self, spans: Mapping[TopicPartition, Span]) -> AsyncGenerator[Record, None]:
        """Yield the records in these spans, in order within a partition."""
        open_ = {tp: span for tp, span in spans.items() if span[0] < span[1]}
        if not open_:  # aiokafka does not come back from an assignment of nothing, and does not stop for 40 s
            return
        at = {tp: start for tp, (start, _) in open_.items()}
        self._consumer.assign(list(open_))
        for tp, offset in at.items():
            self._consumer.seek(tp, offset)
        moved = time.monotonic()
        while open_:
            with self._explained():
                polled = await client.poll(self._consumer, *at, seconds=POLL_TIMEOUT, limit=MAX_POLL_RECORDS)
                positions = {tp: await self._consumer.position(tp) for tp in open_}
            for tp, records in polled.items():
                for record in records:
                    if record.offset < open_[tp][1]:
                        yield record
            if any(positions[tp] > at[tp] for tp in open_):
                moved = time.monotonic()
            elif time.monotonic() - moved > STALLED:
                msg = f"Kafka at {self._kafka.bootstrap_servers}: reading {next(iter(open_)).topic!r} makes no progress"
                raise BrokerError(msg)
            at |= positions
            for tp in [tp for tp, (_, end) in open_.items() if at[tp] >= end]:
                del open_[tp], at[tp]
                self._consumer.pause(tp)

    async def identity(self, topic: str) -> Identity | None:
        """Return which topic a name stands for now; None if there is none."""
        with self._explained():
            found = await identify_by(self._consumer._client, [topic])
        return found[topic]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (KafkaError, OSError, TimeoutError) as exc:
            raise explain(exc, self._kafka) from exc
