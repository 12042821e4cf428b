"""Confirmed delivery. A record handed to `publish` joins its partition's lane; the lane ships batches one after
the other, and only when Kafka has acknowledged a batch (acks=all, idempotent) are its records' receipts told.

    publish ──► lane of (topic, partition) ──linger or full──► create_batch/send_batch ──ack──► receipt.finish(offset)

One batch in flight a lane keeps a key's results in order, and one future a batch instead of one a record is what
makes it cheap: 0.9 µs a record against 20 for aiokafka's `send` (bench/). A batch that fails is sent again, over a
new producer if this one is broken, until it is through, its lease is revoked, or a record in it turns out too large.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    RecordListTooLargeError,
    RecordTooLargeError,
)

from models.errors import BrokerError
from streams.kafka.client import connection, explain
from streams.settings import Kafka

logger = logging.getLogger(__name__)

LINGER = 0.005
"""Seconds that a batch waits for company."""
BATCH_BYTES = 256 * 1024
"""Bytes of a batch that is shipped without waiting."""
DEFAULT_LIMIT = 1_048_588
"""Bytes of one batch that a topic takes unless set otherwise (`max.message.bytes`)."""
USUAL_HEADERS = 8
"""Headers of a record up to which their size needs no adding up."""
BACKLOG_RECORDS = 20_000
"""Records waiting for acknowledgement beyond which `pace` holds its caller up."""
RETRY_PAUSE = 0.5
"""Seconds before a failed batch is sent again."""
REQUEST_TIMEOUT = 30.0
"""Seconds that Kafka may take to acknowledge one batch before it is asked again."""
STOP_TIMEOUT = 5.0
"""Seconds that closing a producer may take."""
RECORD_OVERHEAD = 96
"""Bytes of batch and record framing beside key, value and headers: 61 of the batch's header, the rest varints."""

Headers = list[tuple[str, bytes]]
"""A list, because that is what aiokafka's batch builder takes."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)


class Receipt(Protocol):
    """Who wants to know that a record was delivered: a lease, or a step that comes after."""

    @property
    def alive(self) -> bool:
        """Whether it still matters; records of a dead receipt are dropped unsent."""
        ...

    def finish(self, offset: int) -> None:
        """Take note: the record published for the request at `offset` was acknowledged."""
        ...


class Parcel(NamedTuple):
    """One record on its way. `shrink` makes a smaller one when Kafka finds it too large; None: it is dropped."""

    receipt: Receipt
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    shrink: Callable[[Parcel], Parcel | None]

    def size(self) -> int:
        """Return how many bytes Kafka will count."""
        size = RECORD_OVERHEAD + len(self.key or b"") + len(self.value or b"")
        for name, content in self.headers:
            size += len(name) + len(content or b"") + 4
        return size


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
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.limits: dict[str, int] = {}
        self.dropped = 0
        self._ebb = asyncio.Event()
        self._ebb.set()
        self.backlog = 0
        self.batches = 0
        self.records = 0
        self.failures = 0
        self.failing_since: float | None = None

    async def __aenter__(self) -> Self:
        self._producer = await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [lane.task for lane in self._lanes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()

    def learn(self, topic: str, partitions: int, limit: int | None = None) -> None:
        """Note how many partitions a topic has and how many bytes a batch to it may have.

        A topic must be learnt before anything is published to it.
        """
        self._counts[topic] = partitions
        self.limits[topic] = limit or DEFAULT_LIMIT

    def publish(self, topic: str, partition: int, parcel: Parcel) -> None:
        """Put a record on its lane: the partition of the same number, modulo the topic's count. Never blocks."""
        fitting = self._fitting(topic, parcel)
        if fitting is None:
            return
        place = topic, partition % self._counts[topic]
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane(self, *place)
            lane.task.add_done_callback(self._lane_ended)
        lane.put(fitting)

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_crash(exc)

    def _fitting(self, topic: str, parcel: Parcel) -> Parcel | None:
        """Return the parcel, made smaller if the topic would not take it; None once it could not be."""
        limit = self.limits[topic]
        _, _, key, value, headers, _ = parcel
        if len(value or b"") < limit >> 1 and len(key or b"") < limit >> 2 and len(headers) <= USUAL_HEADERS:
            return parcel
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

    async def pace(self) -> None:
        """Wait while too many records are unacknowledged: the one place where Kafka's speed holds up the agents."""
        if self.backlog >= BACKLOG_RECORDS:
            self._ebb.clear()
            await self._ebb.wait()

    async def flush(self) -> None:
        """Wait until everything published so far is acknowledged or dropped."""
        await asyncio.gather(*(lane.idle.wait() for lane in self._lanes.values()))

    def settled(self, count: int) -> None:
        """Take note that records left a lane."""
        self.backlog -= count
        if self.backlog < BACKLOG_RECORDS:
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
            self.failing_since = self.failing_since or time.monotonic()
            # An idempotent producer whose batch failed for good has a gap in its sequence numbers, and every
            # batch after it is refused: only a new producer id helps.
            await self._reopen(producer)
            raise
        self.batches += 1
        self.failing_since = None

    async def _reopen(self, broken: AIOKafkaProducer | None) -> AIOKafkaProducer:
        async with self._reopening:
            if self._producer is not None and self._producer is not broken:
                return self._producer
            self._broken.set_result(None)
            self._broken = asyncio.get_running_loop().create_future()
            await self._close()
            while True:
                try:
                    self._producer = await self._open()
                except BrokerError as exc:
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


class _Lane:
    """What waits for one partition, and the task that ships it."""

    def __init__(self, publisher: Publisher, topic: str, partition: int) -> None:
        self._publisher = publisher
        self._topic = topic
        self._partition = partition
        self._waiting: deque[Parcel] = deque()
        self._bytes = 0
        self._alone = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.task = asyncio.create_task(self._ship(), name=f"publish {topic}-{partition}")

    def put(self, parcel: Parcel) -> None:
        if not self._waiting:
            self._arrived.set()
            self.idle.clear()
        self._waiting.append(parcel)
        self._publisher.backlog += 1
        self._bytes += len(parcel.value or b"")
        if self._bytes >= BATCH_BYTES:
            self._full.set()

    async def _ship(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._full.is_set():
                await _either(self._full, LINGER)
            await self._ship_waiting()
            self._arrived.clear()
            self._full.clear()
            self._bytes = 0
            self.idle.set()

    async def _ship_waiting(self) -> None:
        while self._waiting:
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
            self._waiting.extendleft(reversed(parcels))
            await asyncio.sleep(RETRY_PAUSE)
        else:
            for parcel in parcels:
                parcel.receipt.finish(parcel.offset)
            self._publisher.records += len(parcels)
            self._publisher.settled(len(parcels))

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
                self._publisher.settled(1)
                continue
            if parcels and (self._alone or (tight and batch.size() + parcel.size() > limit)):
                break
            _, _, key, value, headers, _ = parcel
            if append(timestamp=None, key=key, value=value, headers=headers) is None:
                break
            parcels.append(waiting.popleft())
        self._alone = max(0, self._alone - len(parcels))
        return parcels

    def _cut(self, parcels: list[Parcel]) -> None:
        """Kafka found a batch too large: several records are sent one by one, a single one is made smaller."""
        if len(parcels) > 1:
            self._alone = len(parcels)
            self._waiting.extendleft(reversed(parcels))
            return
        fitting = self._publisher.too_large(self._topic, parcels[0])
        if fitting is None:
            self._publisher.settled(1)
        else:
            self._waiting.appendleft(fitting)


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
