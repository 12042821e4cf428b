"""Reads changelogs back into the store: from where the store reaches, up to their present end.

Faust reads them one event at a time, 76 µs a row, through the group's own consumer; this reads them with a consumer
that belongs to no group, some hundred rows at a time. It reaches the end or fails: rows that cannot be read
are an error, and so is a broker that returns nothing for STALLED seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import AccessError, BrokerError, reason_of
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.cluster import identify_by
from streams.kafka.errors import explain
from streams.tables.store import OFFSET_HEADER, Store, mark, offset_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
Place: TypeAlias = tuple[str, int]
"""A table and a partition."""
STALLED = 60.0
"""Seconds without progress after which the recovery fails."""
RETRY_PAUSE = 0.5
"""Seconds between attempts while the broker is unreachable."""
POLL_RECORDS = 250
"""Rows of one step, which take about a millisecond."""
PAUSE = 0.001
"""Seconds between two steps in a worker that also answers requests."""
POLL = 0.5
"""Seconds that a poll waits for rows."""
FETCH_BYTES = 4 << 20
"""Bytes of one partition that a fetch returns at most."""
FETCHED_BYTES = 64 << 20
"""Bytes of all partitions together that are fetched and not yet read."""
REQUEST_TIMEOUT_MS = 20_000
LOOK_LIMIT = 30.0
"""Seconds that reading the records of a gap may take."""
MAX_DIGITS = 18
"""Of an offset."""


class Recovery:
    """One recovery: of some partitions of some changelogs into a store, with `pause` seconds between two steps."""

    def __init__(
        self, kafka: Kafka, client_id: str, store: Store, topics: Mapping[str, str], *, pause: float = 0.0
    ) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._pause = pause
        self._store = store
        self._tables = {topic: table for table, topic in topics.items()}
        self._moved = time.monotonic()
        self._wanted: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self.rows = 0
        self.foreign = 0
        self.echoes = 0
        self.overwritten: dict[Place, set[bytes]] = {}

    @property
    def lag(self) -> int:
        """Return how many changelog offsets are still to be read."""
        return sum(end - self._positions.get(tp, 0) for tp, end in self._wanted.items())

    async def run(self, partitions: Collection[int]) -> None:
        """Read up to the end. Raises BrokerError with the reason if that fails."""
        if not partitions:
            return
        started = self._moved = time.monotonic()
        async with AsyncExitStack() as stack:
            consumer = await self._retrying(lambda: stack.enter_async_context(self._consumer(len(partitions))))
            tps = [TopicPartition(topic, partition) for topic in self._tables for partition in sorted(partitions)]
            consumer.assign(tps)
            await self._retrying(lambda: self._own(consumer))
            await self._retrying(lambda: self._begin(consumer, tps))
            while self._wanted:
                await self._retrying(lambda: self._step(consumer))
        taken = time.monotonic() - started
        logger.info("tables recovered: %d rows of %d partitions in %.1f s", self.rows, len(partitions), taken)

    def _consumer(self, partitions: int) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
        return consumer_of(self._kafka, self._client_id, len(self._tables) * partitions)

    async def _own(self, consumer: AIOKafkaConsumer) -> None:
        """Drop rows of other changelogs: the topics were made again, or are another cluster's. By their offsets they
        would count as further than those of the log.
        """
        found = await identify_by(consumer._client, self._tables)
        ids = [each for _, each in sorted(found.items()) if each is not None and each.topic]
        if len(ids) < len(self._tables):
            return  # a broker that has no ids
        changelog_ids = " ".join("/".join(each) for each in ids)
        if self._store.changelog_ids not in ("", changelog_ids):
            logger.warning("the tables' rows are of changelogs that were created again, or of another cluster: they "
                           "are dropped and read again, no action is needed")  # fmt: skip
            for partition in self._store.partitions():
                self._store.drop(partition)
        if self._store.changelog_ids != changelog_ids:
            self._store.belong_to(changelog_ids)

    async def _begin(self, consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> None:
        """Find the end of each changelog, and seek to where the store continues."""
        ends = await consumer.end_offsets(tps)
        starts = await consumer.beginning_offsets(tps)
        # A store that reaches beyond the end holds rows of another log: the topic was created again.
        for partition in {
            tp.partition for tp in tps if (self._store.reaches(self._tables[tp.topic], tp.partition) or 0) > ends[tp]
        }:
            logger.warning(
                "partition %d: the store reaches beyond the end of the changelog, which was created again; its rows "
                "are dropped and read again, no action is needed",
                partition,
            )
            self._store.drop(partition)
        for tp in tps:
            table = self._tables[tp.topic]
            reaches = self._store.reaches(table, tp.partition)
            start = starts[tp] if reaches is None else max(reaches, starts[tp])
            if start < ends[tp]:
                consumer.seek(tp, start)
                self._wanted[tp], self._positions[tp] = ends[tp], start
            else:
                consumer.pause(tp)
                self._store.apply(table, tp.partition, (), ends[tp])

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        """Apply what was fetched; a partition that has reached its end is done."""
        fetched = await client.poll(consumer, seconds=POLL, limit=POLL_RECORDS)
        for tp, records in fetched.items():
            self._apply(tp, records)
        for tp in list(self._wanted):
            position = await consumer.position(tp)
            if position != self._positions[tp]:
                self._positions[tp], self._moved = position, time.monotonic()
            if position >= self._wanted[tp]:
                del self._wanted[tp]
                consumer.pause(tp)
                # Also where the last offsets hold no row: the next recovery continues after them.
                self._store.apply(self._tables[tp.topic], tp.partition, (), position)
        if self._wanted and time.monotonic() - self._moved > STALLED:
            tp = next(iter(self._wanted))
            msg = f"{tp.topic}-{tp.partition} cannot be read beyond offset {self._positions[tp]} of {self._wanted[tp]}"
            raise BrokerError(msg)
        await asyncio.sleep(self._pause)

    def _apply(self, tp: TopicPartition, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        if tp not in self._wanted:
            return
        place = self._tables[tp.topic], tp.partition
        changes: dict[bytes, bytes | None] = {}
        for record in records:
            key = record.key
            if key is None:
                self.foreign += 1
                continue
            there = changes.pop(key) if key in changes else self._store.get(*place, key)
            if self._is_ours(record, there):
                changes[key] = record.value
                if place in self.overwritten:
                    self.overwritten[place].discard(key)
            else:
                changes[key] = there
                self.overwritten.setdefault(place, set()).add(key)
        if self.overwritten.get(place):
            self._store.mark_dirty(tp.partition)
        self.rows += len(records)
        self._store.apply(*place, changes.items(), records[-1].offset + 1)

    def _is_ours(self, record: ConsumerRecord[bytes, bytes], there: bytes | None) -> bool:
        """Whether a record continues the row that is there: foreign and outdated records do not."""
        if record.value is None:
            offset = _tombstone_offset(record.headers)
        elif (found := mark(record.value)) is not None:
            offset = found.offset
        else:
            self.foreign += 1
            return False
        if offset is not None and there is not None and offset_of(there) > offset:
            self.echoes += 1  # written by a former owner after it had lost the partition
            return False
        return True

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until the broker answers; fail on a permanent error, or after STALLED seconds without progress."""
        while True:
            try:
                return await call()
            except (BrokerError, KafkaError, OSError) as exc:
                if (
                    isinstance(exc, AccessError)
                    or not getattr(exc, "retriable", True)
                    or time.monotonic() - self._moved > STALLED
                ):
                    reason = explain(exc, self._kafka)
                    msg = f"cannot read the tables' changelogs: {reason}"
                    raise BrokerError(msg) from exc
                logger.warning(
                    "cannot read the tables' changelogs; the worker retries, pages and /api report missing partitions "
                    "until then: %s",
                    reason_of(exc),
                )
                await asyncio.sleep(RETRY_PAUSE)


def _tombstone_offset(headers: Iterable[tuple[str, bytes | None]]) -> int | None:
    """Return the offset up to which the deleted row counted; None if the tombstone has none."""
    for name, text in headers:
        if name == OFFSET_HEADER and text and text.isdigit() and len(text) <= MAX_DIGITS:
            return int(text)
    return None


def consumer_of(kafka: Kafka, client_id: str, partitions: int = 1) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    """Open a consumer without a group, for so many partitions."""
    return client.consumer(
        kafka, client_id=client_id, request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_partition_fetch_bytes=min(FETCH_BYTES, FETCHED_BYTES // partitions),
    )  # fmt: skip


async def rows_between(
    kafka: Kafka, client_id: str, tp: TopicPartition, start: int, end: int
) -> dict[bytes, bytes | None] | None:
    """Return the latest record of each key at these offsets; None if the log ends before `end`.

    Raises BrokerError or TimeoutError.
    """
    async with asyncio.timeout(LOOK_LIMIT) as limit, consumer_of(kafka, client_id) as consumer:
        consumer.assign([tp])
        if (await consumer.end_offsets([tp]))[tp] < end:
            return None
        rows: dict[bytes, bytes | None] = {}
        consumer.seek(tp, start)
        while await consumer.position(tp) < end:
            if limit.expired():  # Python 3.11's wait_for, in aiokafka, loses a cancellation now and then
                raise TimeoutError
            fetched = await client.poll(consumer, seconds=POLL)
            rows |= {
                record.key: record.value
                for record in fetched.get(tp, ())
                if record.offset < end and record.key is not None
            }
        return rows
