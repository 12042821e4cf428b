"""Confirmed delivery. A record handed to `publish` joins its partition's lane; the lane ships batches one after
the other, and only when Kafka has acknowledged a batch (acks=all, idempotent) are its records' receipts told.

    publish ──► lane of (topic, partition) ──linger or full──► create_batch/send_batch ──ack──► receipt.finish(offset)

One batch in flight a lane keeps a key's results in order, and one future a batch instead of one a record is what
makes it cheap. The lanes depart together: every batch that is there goes in one request a broker. A batch that fails
is sent again, over a new producer, until it is through, its lease is revoked, or a record in it turns out too large.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from models.errors import AccessError, MillraceError
from models.histogram import Histogram
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.errors import explain
from streams.kafka.partition_queue import BATCH_BYTES, RETRY_PAUSE, PartitionQueue
from streams.kafka.record import OutgoingRecord
from streams.tasks import first

logger = logging.getLogger(__name__)

LINGER = 0.005
"""Seconds that a batch waits for company."""
DEFAULT_LIMIT = 1_048_588
"""Bytes of one batch that a topic takes unless set otherwise (`max.message.bytes`)."""
USUAL_HEADERS = 7
"""Headers of a result at most: five of CloudEvents and two of its trace. A dead letter has more."""
BACKLOG_RECORDS = 20_000
"""Records waiting for acknowledgement beyond which `pace` holds its caller up."""
BACKLOG_BYTES = 64 << 20
"""Bytes of values waiting for acknowledgement beyond which `pace` holds its caller up."""
REQUEST_TIMEOUT = 30.0
"""Seconds that Kafka may take to acknowledge one batch before it is asked again."""
REFUSED_FOR = 10.0
"""Seconds for which a login that worked may be refused, as by a broker that is starting; then the worker ends."""
ABSENT_FOR = 20.0
"""Seconds for which a partition that was there, or was just added, may not be there."""
LOOK_EVERY = 1.0
"""Seconds between looks at whether the partition of a batch that is under way is still there."""

Acknowledged: TypeAlias = Callable[[str, int, int, Sequence[OutgoingRecord]], None]
"""Called with topic, partition, offset of the first record, and the records of a batch that arrived."""


class Publisher:
    """Opened with `async with`; see the module. `on_crash` is told of a fault of ours that ends a lane, and
    `on_acknowledged` of each batch that arrived, before its records' receipts are.
    """

    def __init__(
        self,
        kafka: Kafka,
        client_id: str,
        on_crash: Callable[[BaseException], None],
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._on_crash = on_crash
        self._on_acknowledged = on_acknowledged
        self._producer: AIOKafkaProducer | None = None
        self._stack = AsyncExitStack()
        self._reopening = asyncio.Lock()
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._counts: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushing_now = False
        self._absent: dict[tuple[str, int], float] = {}
        self._closed = False
        self.limits: dict[str, int] = {}
        self.dropped = 0
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self.backlog = 0
        self.backlog_bytes = 0
        self.congested = False
        self.batches = 0
        self.records = 0
        self.failures = 0
        self.shipping = Histogram()

    async def __aenter__(self) -> Self:
        self._producer = await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True  # a lane that has just arrived must not depart again
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        await asyncio.gather(*(lane.stop() for lane in self._queues.values()))
        await self._close()

    def learn(self, topic: str, partitions: int, limit: int | None = None) -> None:
        """Note how many partitions a topic has and how many bytes a batch to it may have.

        A topic must be learnt before anything is published to it.
        """
        self._counts[topic] = partitions
        self.limits[topic] = limit or DEFAULT_LIMIT

    def publish(self, topic: str, partition: int, parcel: OutgoingRecord) -> None:
        """Put a record on its lane: the partition of the same number, modulo the topic's count. Never blocks."""
        _, _, key, value, headers, _ = parcel
        limit = self.limits[topic]
        fitting: OutgoingRecord | None = parcel
        # Results have few headers, made here: adding them up is for what is large or carries those of others.
        if len(value or b"") >= limit >> 1 or len(key or b"") >= limit >> 2 or len(headers) > USUAL_HEADERS:
            fitting = self._fitting(topic, parcel)
        if fitting is None:
            return
        place = topic, partition % self._counts[topic]
        lane = self._queues.get(place)
        if lane is None:
            lane = self._queues[place] = PartitionQueue(self, *place)
        self.reserve(fitting)
        lane.put(fitting)

    def reserve(self, parcel: OutgoingRecord) -> None:
        """Take note that a record is in a lane; `settled` is the opposite."""
        self.backlog += 1
        self.backlog_bytes += len(parcel.value or b"")
        self.congested = self.backlog >= BACKLOG_RECORDS or self.backlog_bytes >= BACKLOG_BYTES

    def schedule_flush(self, *, now: bool) -> None:
        """Have the lanes depart together, soon or now: aiokafka sends what is there at once in one request a broker."""
        if self._closed:
            return
        if now and not self._flushing_now:
            self._flushing_now = True
            self._loop.call_soon(self._flush)
        elif self._flush_timer is None and not self._flushing_now:
            self._flush_timer = self._loop.call_later(LINGER, self._flush)

    def crashed(self, reason: BaseException) -> None:
        """Pass on a fault of ours that ended a lane."""
        self._on_crash(reason)

    def acknowledged(self, topic: str, partition: int, base: int, parcels: Sequence[OutgoingRecord]) -> None:
        """Pass on that a batch arrived, and at which offset its first record is."""
        if self._on_acknowledged is not None:
            self._on_acknowledged(topic, partition, base, parcels)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._flush_timer, self._flushing_now = None, False
        if self._closed:
            return
        for lane in self._queues.values():
            lane.flush()

    def _fitting(self, topic: str, parcel: OutgoingRecord) -> OutgoingRecord | None:
        """Return the parcel, made smaller if the topic would not take it; None once it could not be."""
        limit = self.limits[topic]
        while parcel.size() > limit:
            smaller = parcel.shrink(parcel)
            if smaller is None:
                logger.error("%s: a record of %d bytes fits in no form, the limit is %d: the request at offset %d "
                             "goes without it", topic, parcel.size(), limit, parcel.offset)  # fmt: skip
                self.dropped += 1
                parcel.listener.finish(parcel.offset)
                return None
            parcel = smaller
        return parcel

    def too_large(self, topic: str, parcel: OutgoingRecord) -> OutgoingRecord | None:
        """Kafka refused this record alone: its limit is lower than we knew. Return what fits now, if anything."""
        self.limits[topic] = min(self.limits[topic], parcel.size() - 1)
        return self._fitting(topic, parcel)

    @property
    def failing_since(self) -> float | None:
        """Return the monotonic time since which some partition has taken nothing, None if all do."""
        failing = (lane.failing_since for lane in self._queues.values() if lane.failing_since)
        return min((*failing, *self._absent.values()), default=None)

    async def pace(self) -> None:
        """Wait while too many records are unacknowledged: the one place where Kafka's speed holds up the agents."""
        if self.congested:
            self._room.clear()
            await self._room.wait()

    def release(self, parcels: Sequence[OutgoingRecord]) -> None:
        """Take note that records left a lane."""
        self.backlog -= len(parcels)
        self.backlog_bytes -= sum(len(parcel.value or b"") for parcel in parcels)
        if self.backlog < BACKLOG_RECORDS and self.backlog_bytes < BACKLOG_BYTES:
            self.congested = False
            self._room.set()
        if not self.backlog:
            self._empty.set()

    async def arrived(self, seconds: float) -> bool:
        """Wait so long until all that was published is acknowledged; returns whether it is."""
        try:
            async with asyncio.timeout(seconds):
                while self.backlog:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def new_batch(self) -> Any:
        """Return an empty batch to fill, opening a producer first if there is none."""
        producer = self._producer or await self._reopen(None)
        return producer.create_batch()

    async def send(self, topic: str, partition: int, batch: Any) -> int:
        """Ship one batch and wait for its acknowledgement. Returns the offset of its first record, -1 if the broker
        does not say: it had the batch already. Raises KafkaError; the producer is a new one then.
        """
        producer = self._producer or await self._reopen(None)
        broken = self._broken
        try:
            await self._appears(producer, topic, partition, broken)
            began = self._loop.time()
            acknowledged = await producer.send_batch(batch, topic, partition=partition)
            ends = {acknowledged, broken}
            while not (await asyncio.wait(ends, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED))[0]:
                await self._appears(producer, topic, partition, *ends)
            if not acknowledged.done():
                raise ProducerClosed
            metadata = acknowledged.result()
        except KafkaError as exc:
            self.failures += 1
            refusal = explain(exc, self._kafka)
            if isinstance(refusal, AccessError):  # no ACL comes back by sending again: the worker ends
                self._on_crash(refusal)
                await asyncio.Event().wait()
            # An idempotent producer whose batch failed for good has a gap in its sequence numbers, and every
            # batch after it is refused: only a new producer id helps.
            await self._reopen(producer)
            raise
        self.batches += 1
        self.shipping.add(self._loop.time() - began)
        return int(metadata.offset)

    async def _appears(
        self, producer: AIOKafkaProducer, topic: str, partition: int, *ends: asyncio.Future[Any]
    ) -> None:
        """Wait until a producer knows of a partition, without which aiokafka would assert, or until one of `ends`: a
        closed producer learns nothing more. Raises KafkaError if there is no such topic.
        """
        if partition not in (producer.client.cluster.partitions_for_topic(topic) or ()):
            await first(self._look_for(producer, topic, partition), asyncio.wait(ends))
            if self._producer is not producer:
                raise ProducerClosed

    async def _look_for(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        """Ends the worker if a partition stays away: its topic was made again with fewer, and others must take over."""
        while partition not in (there := await producer.partitions_for(topic)):
            absent = self._loop.time() - self._absent.setdefault((topic, partition), self._loop.time())
            if absent >= ABSENT_FOR:
                self._on_crash(AccessError(f"topic {topic!r} has {len(there)} partitions now, fewer than when this "
                                           "worker began: it must begin again"))  # fmt: skip
                await asyncio.Event().wait()
            await producer.client.force_metadata_update()
            if partition not in await producer.partitions_for(topic):
                await asyncio.sleep(LOOK_EVERY)
        self._absent.pop((topic, partition), None)

    async def _reopen(self, broken: AIOKafkaProducer | None) -> AIOKafkaProducer:
        async with self._reopening:
            if self._producer is not None and self._producer is not broken:
                return self._producer
            await self._close()  # its flush still delivers what other lanes have in flight
            self._broken.set_result(None)
            self._broken = self._loop.create_future()
            deadline = self._loop.time() + REFUSED_FOR
            while True:
                try:
                    self._producer = await self._open()
                except MillraceError as exc:
                    if isinstance(exc, AccessError) and self._loop.time() > deadline:
                        self._on_crash(exc)
                    logger.warning("cannot publish, trying again: %s", exc)
                    await asyncio.sleep(RETRY_PAUSE)
                else:
                    return self._producer

    async def _open(self) -> AIOKafkaProducer:
        return await self._stack.enter_async_context(client.producer(
            self._kafka, client_id=self._client_id, linger_ms=0, max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(REQUEST_TIMEOUT * 1000),
        ))  # fmt: skip

    async def _close(self) -> None:
        self._producer = None
        await self._stack.aclose()
