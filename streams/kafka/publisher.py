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
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    RecordListTooLargeError,
    RecordTooLargeError,
)

from models.errors import MillraceError
from streams.kafka.client import connection, explain
from streams.kafka.parcel import Parcel
from streams.settings import Kafka

logger = logging.getLogger(__name__)

LINGER = 0.005
"""Seconds that a batch waits for company."""
BATCH_BYTES = 256 * 1024
"""Bytes of a batch that is shipped without waiting."""
DEFAULT_LIMIT = 1_048_588
"""Bytes of one batch that a topic takes unless set otherwise (`max.message.bytes`)."""
USUAL_HEADERS = 7
"""Headers of a result at most: five of CloudEvents and two of its trace. A dead letter has more."""
BACKLOG_RECORDS = 20_000
"""Records waiting for acknowledgement beyond which `pace` holds its caller up."""
BACKLOG_BYTES = 64 << 20
"""Bytes of values waiting for acknowledgement beyond which `pace` holds its caller up."""
RETRY_PAUSE = 0.5
"""Seconds before a failed batch is sent again; doubled for each failure in a row, up to MAX_RETRY_PAUSE."""
MAX_RETRY_PAUSE = 30.0
REQUEST_TIMEOUT = 30.0
"""Seconds that Kafka may take to acknowledge one batch before it is asked again."""
STOP_TIMEOUT = 5.0
"""Seconds that closing a producer may take."""


_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)


class Publisher:
    """Opened with `async with`; see the module. `on_crash` is told of a fault of ours that ends a lane."""

    def __init__(self, kafka: Kafka, client_id: str, on_crash: Callable[[BaseException], None]) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._on_crash = on_crash
        self._producer: AIOKafkaProducer | None = None
        self._reopening = asyncio.Lock()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._counts: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._departure: asyncio.TimerHandle | None = None
        self._hurried = False
        self.limits: dict[str, int] = {}
        self.dropped = 0
        self._ebb = asyncio.Event()
        self._ebb.set()
        self.backlog = 0
        self.backlog_bytes = 0
        self.congested = False
        self.batches = 0
        self.records = 0
        self.failures = 0

    async def __aenter__(self) -> Self:
        self._producer = await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._departure is not None:
            self._departure.cancel()
        for lane in self._lanes.values():
            await lane.stop()
        await self._close()

    def learn(self, topic: str, partitions: int, limit: int | None = None) -> None:
        """Note how many partitions a topic has and how many bytes a batch to it may have.

        A topic must be learnt before anything is published to it.
        """
        self._counts[topic] = partitions
        self.limits[topic] = limit or DEFAULT_LIMIT

    def publish(self, topic: str, partition: int, parcel: Parcel) -> None:
        """Put a record on its lane: the partition of the same number, modulo the topic's count. Never blocks."""
        _, _, key, value, headers, _ = parcel
        limit = self.limits[topic]
        fitting: Parcel | None = parcel
        # Results have few headers, made here: adding them up is for what is large or carries those of others.
        if len(value or b"") >= limit >> 1 or len(key or b"") >= limit >> 2 or len(headers) > USUAL_HEADERS:
            fitting = self._fitting(topic, parcel)
        if fitting is None:
            return
        place = topic, partition % self._counts[topic]
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane(self, *place)
        self.charged(fitting)
        lane.put(fitting)

    def charged(self, parcel: Parcel) -> None:
        """Take note that a record is in a lane; `settled` is the opposite."""
        self.backlog += 1
        self.backlog_bytes += len(parcel.value or b"")
        self.congested = self.backlog >= BACKLOG_RECORDS or self.backlog_bytes >= BACKLOG_BYTES

    def arrived(self, *, now: bool) -> None:
        """Have the lanes depart together, soon or now: aiokafka sends what is there at once in one request a broker."""
        if now and not self._hurried:
            self._hurried = True
            self._loop.call_soon(self._depart)
        elif self._departure is None and not self._hurried:
            self._departure = self._loop.call_later(LINGER, self._depart)

    def crashed(self, reason: BaseException) -> None:
        """Pass on a fault of ours that ended a lane."""
        self._on_crash(reason)

    def _depart(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
        self._departure, self._hurried = None, False
        for lane in self._lanes.values():
            lane.depart()

    def _fitting(self, topic: str, parcel: Parcel) -> Parcel | None:
        """Return the parcel, made smaller if the topic would not take it; None once it could not be."""
        limit = self.limits[topic]
        while parcel.size() > limit:
            smaller = parcel.shrink(parcel)
            if smaller is None:
                logger.error("%s: a record of %d bytes fits in no form, the limit is %d: the request at offset %d "
                             "goes without it", topic, parcel.size(), limit, parcel.offset)  # fmt: skip
                self.dropped += 1
                parcel.receipt.finish(parcel.offset)
                return None
            parcel = smaller
        return parcel

    def too_large(self, topic: str, parcel: Parcel) -> Parcel | None:
        """Kafka refused this record alone: its limit is lower than we knew. Return what fits now, if anything."""
        self.limits[topic] = min(self.limits[topic], parcel.size() - 1)
        return self._fitting(topic, parcel)

    @property
    def failing_since(self) -> float | None:
        """Return the monotonic time since which some partition has taken nothing, None if all do."""
        return min((lane.failing_since for lane in self._lanes.values() if lane.failing_since), default=None)

    async def pace(self) -> None:
        """Wait while too many records are unacknowledged: the one place where Kafka's speed holds up the agents."""
        if self.congested:
            self._ebb.clear()
            await self._ebb.wait()

    def settled(self, parcels: Sequence[Parcel]) -> None:
        """Take note that records left a lane."""
        self.backlog -= len(parcels)
        self.backlog_bytes -= sum(len(parcel.value or b"") for parcel in parcels)
        if self.backlog < BACKLOG_RECORDS and self.backlog_bytes < BACKLOG_BYTES:
            self.congested = False
            self._ebb.set()

    async def new_batch(self) -> Any:
        """Return an empty batch to fill, opening a producer first if there is none."""
        producer = self._producer or await self._reopen(None)
        return producer.create_batch()

    async def send(self, topic: str, partition: int, batch: Any) -> None:
        """Ship one batch and wait for its acknowledgement. Raises KafkaError; the producer is a new one then."""
        producer = self._producer or await self._reopen(None)
        broken = self._broken
        try:
            acknowledged = await producer.send_batch(batch, topic, partition=partition)
            await asyncio.wait({acknowledged, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not acknowledged.done():
                raise ProducerClosed
            acknowledged.result()
        except KafkaError:
            self.failures += 1
            # An idempotent producer whose batch failed for good has a gap in its sequence numbers, and every
            # batch after it is refused: only a new producer id helps.
            await self._reopen(producer)
            raise
        self.batches += 1

    async def _reopen(self, broken: AIOKafkaProducer | None) -> AIOKafkaProducer:
        async with self._reopening:
            if self._producer is not None and self._producer is not broken:
                return self._producer
            await self._close()  # its flush still delivers what other lanes have in flight
            self._broken.set_result(None)
            self._broken = self._loop.create_future()
            while True:
                try:
                    self._producer = await self._open()
                except MillraceError as exc:
                    logger.warning("cannot publish, trying again: %s", exc)
                    await asyncio.sleep(RETRY_PAUSE)
                else:
                    return self._producer

    async def _open(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **connection(self._kafka),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(REQUEST_TIMEOUT * 1000),
        )
        try:
            await producer.start()
        except (KafkaError, OSError) as exc:
            await producer.stop()
            raise explain(exc, self._kafka) from exc
        return producer

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                await asyncio.wait_for(producer.stop(), STOP_TIMEOUT)
            except (TimeoutError, KafkaError) as exc:
                logger.warning("closing the producer failed: %r", exc)
                await producer.client.close()


class _Lane:
    """What waits for one partition; it is shipped in one batch after the other."""

    def __init__(self, publisher: Publisher, topic: str, partition: int) -> None:
        self._publisher = publisher
        self._topic = topic
        self._partition = partition
        self._waiting: deque[Parcel] = deque()
        self._bytes = 0
        self._alone = 0
        self._shipping: asyncio.Task[None] | None = None
        self._failures = 0
        self.failing_since: float | None = None

    def put(self, parcel: Parcel) -> None:
        self._waiting.append(parcel)
        self._bytes += len(parcel.value or b"")
        self._publisher.arrived(now=self._bytes >= BATCH_BYTES)

    def depart(self) -> None:
        """Begin to ship what waits, unless a batch is under way: that one's end is followed by another departure."""
        if self._waiting and self._shipping is None:
            self._shipping = asyncio.create_task(self._ship(), name=f"publish {self._topic}-{self._partition}")
            self._shipping.add_done_callback(self._shipped)

    async def stop(self) -> None:
        """End a batch under way, if there is one, and wait for that."""
        if self._shipping is not None:
            self._shipping.cancel()
            await asyncio.gather(self._shipping, return_exceptions=True)

    def _shipped(self, task: asyncio.Task[None]) -> None:
        self._shipping = None
        if task.cancelled():
            return
        if (exc := task.exception()) is not None:
            self._publisher.crashed(exc)
        elif self._waiting:
            self._publisher.arrived(now=self._bytes >= BATCH_BYTES)

    async def _ship(self) -> None:
        self._bytes = 0
        batch = await self._publisher.new_batch()
        parcels = self._fill(batch)
        if parcels:
            await self._send(batch, parcels)

    async def _send(self, batch: Any, parcels: list[Parcel]) -> None:
        try:
            await self._publisher.send(self._topic, self._partition, batch)
        except _TOO_LARGE:
            self._cut(parcels)
        except KafkaError as exc:
            logger.warning("%s-%d: a batch of %d was not acknowledged, sending it again: %s: %s",
                           self._topic, self._partition, len(parcels), type(exc).__name__, exc)  # fmt: skip
            self._put_back(parcels)
            self.failing_since = self.failing_since or time.monotonic()
            self._failures += 1
            await asyncio.sleep(min(RETRY_PAUSE * 2 ** (self._failures - 1), MAX_RETRY_PAUSE))
        else:
            for parcel in parcels:
                parcel.receipt.finish(parcel.offset)
            self._publisher.records += len(parcels)
            self._publisher.settled(parcels)
            self.failing_since, self._failures = None, 0

    def _fill(self, batch: Any) -> list[Parcel]:
        """Move what fits from the queue into a batch; what nobody waits for any more is dropped."""
        parcels: list[Parcel] = []
        waiting, append = self._waiting, batch.append
        limit = self._publisher.limits[self._topic]
        tight = limit < BATCH_BYTES
        while waiting:
            parcel = waiting[0]
            if not parcel.receipt.alive:
                waiting.popleft()
                self._publisher.settled([parcel])
                continue
            if parcels and (self._alone or (tight and batch.size() + parcel.size() > limit)):
                break
            _, _, key, value, headers, _ = parcel
            if append(timestamp=None, key=key, value=value, headers=headers) is None:
                self._bytes = BATCH_BYTES  # the rest fills another batch already
                break
            parcels.append(waiting.popleft())
        self._alone = max(0, self._alone - len(parcels))
        return parcels

    def _cut(self, parcels: list[Parcel]) -> None:
        """Kafka found a batch too large: several records are sent one by one, a single one is made smaller."""
        if len(parcels) > 1:
            self._alone = len(parcels)
            self._put_back(parcels)
            return
        fitting = self._publisher.too_large(self._topic, parcels[0])
        self._publisher.settled(parcels)
        if fitting is not None:
            self._publisher.charged(fitting)
            self._put_back([fitting])

    def _put_back(self, parcels: list[Parcel]) -> None:
        self._waiting.extendleft(reversed(parcels))
