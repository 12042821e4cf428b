"""Confirmed delivery. A record handed to `publish` joins the queue of its partition, which is sent batch by batch; only
when Kafka has acknowledged a batch (acks=all, idempotent) do the listeners of its records learn of it.

    publish ──► queue of (topic, partition) ──linger or full──► Producer.send ──ack──► listener.finish(offset)

One batch in flight a partition keeps a key's results in order, and one future a batch instead of one a record is what
makes it cheap. The queues are flushed together: every batch that is there goes in one request a broker. A batch that
fails is sent again, over a new producer, until it is through, its lease is revoked, or a record in it is too large.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Self, TypeAlias

from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)

from models.errors import reason_of
from models.histogram import Histogram
from streams.config.settings import Kafka
from streams.kafka.outgoing import BATCH_BYTES, Headers, OutgoingRecord, PartitionQueue, TakeBack
from streams.kafka.producer import Producer
from streams.tasks import end_tasks, start

logger = logging.getLogger(__name__)

LINGER = 0.005
"""Seconds that a batch waits for company."""
LONELY = 8
"""Records in one flush, of all partitions, up to which the next does not wait if so long has passed since: few come, so
waiting would bring no company."""
DEFAULT_LIMIT = 1_048_588
"""Bytes of one batch that a topic takes unless set otherwise (`max.message.bytes`)."""
USUAL_HEADERS = 7
"""Headers of a result at most: five of CloudEvents and two of its trace. A dead letter has more."""
BACKLOG_RECORDS = 20_000
"""Records waiting for acknowledgement beyond which `pace` waits."""
BACKLOG_BYTES = 64 << 20
"""Bytes of values waiting for acknowledgement beyond which `pace` waits."""
FENCE_PAUSE = 0.05
"""Seconds between looks at whether this member may publish again."""
STUCK_AFTER = 1.0
"""Seconds without acknowledgement after which a partition counts as stuck, as one without a leader is."""

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)

Acknowledged: TypeAlias = Callable[[str, int, int, Sequence[OutgoingRecord]], None]
"""Called with topic, partition, offset of the first record, and the records of a batch that was acknowledged."""


class Publisher:
    """Opened with `async with`; see the module. `on_crash` is called with a fault that no retry mends,
    `on_acknowledged` with each batch that was acknowledged, before the listeners of its records.

    Nothing is sent while `is_fenced`: the records may be another's by now, and wait until that is known.
    `backlog` and `backlog_bytes` count what waits for acknowledgement. Of a stuck partition, no more counts towards
    `congested` than its share, so that it does not hold up the others; `is_full` says that it has its share.
    `transactions` counts those that ended, by how, where there are any.
    """

    def __init__(
        self,
        kafka: Kafka,
        client_id: str,
        on_crash: Callable[[BaseException], None],
        on_acknowledged: Acknowledged | None = None,
        is_fenced: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_fenced = is_fenced
        self._producer = Producer(kafka, client_id, on_crash)
        self._on_crash = on_crash
        self._on_acknowledged = on_acknowledged
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._stuck: set[PartitionQueue] = set()
        self._counts: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushing_now = False
        self._flushed_at = self._loop.time()
        self._lonely = True
        self._closed = False
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self.limits: dict[str, int] = {}
        self.dropped = 0
        self.backlog = 0
        self.backlog_bytes = 0
        self.congested = False
        self.batches = 0
        self.records = 0
        self.failures = 0
        self.shipping = Histogram()
        self.transactions: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._producer.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True  # a queue whose batch was just acknowledged must not send another
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        await end_tasks(*(queue.sending for queue in self._queues.values()))
        await self._producer.__aexit__()

    def learn(self, topic: str, partitions: int, limit: int | None = None) -> None:
        """Note, before anything is published to a topic, how many partitions it has and how large a batch may be."""
        self._counts[topic] = partitions
        self.limits[topic] = limit or DEFAULT_LIMIT

    def may_exceed(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Whether a record may be more than a topic takes: results have few headers, made here, so adding all up is for
        what is large or carries those of others.
        """
        limit = self.limits[topic]
        return len(value or b"") >= limit >> 1 or len(key or b"") >= limit >> 2 or len(headers) > USUAL_HEADERS

    def publish(self, topic: str, partition: int, record: OutgoingRecord, *, fits: bool = False) -> None:
        """Put a record into the queue of the partition of the same number, modulo the topic's count. Never blocks.

        `fits`: the caller knows that its topic takes it.
        """
        fitting: OutgoingRecord | None = record
        if not fits and self.may_exceed(topic, record.key, record.value, record.headers):
            fitting = self._fitting(topic, record)
        if fitting is not None:
            self.publish_all(topic, partition, (fitting,))

    def publish_all(self, topic: str, partition: int, records: Sequence[OutgoingRecord]) -> None:
        """Put records that their topic takes, one or more, into the queue of a partition, as `publish` does."""
        place = topic, partition % self._counts[topic]
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = PartitionQueue(*place)
        self._reserve(queue, records)
        queue.waiting.extend(records)
        if self._flush_timer is None or queue.batch_bytes >= BATCH_BYTES:
            self._schedule_flush(queue)

    def is_full(self, partition: int) -> bool:
        """Whether a request of this partition should wait: where its result, or dead letter, goes is stuck, and has its
        share of the backlog.
        """
        return any(self._fills(queue, queue.records, queue.bytes, partition) for queue in self._stuck)

    def _fills(self, queue: PartitionQueue, records: int, size: int, partition: int) -> bool:
        """Whether a queue takes what is published of this partition, and so much is its share of the backlog."""
        count = self._counts[queue.topic]
        full = records >= BACKLOG_RECORDS // count or size >= BACKLOG_BYTES // count
        return full and queue.partition == partition % count

    @property
    def failing_since(self) -> float | None:
        """Return the monotonic time since which some partition has taken nothing, None if all do."""
        failing = (queue.failing_since for queue in self._queues.values() if queue.failing_since)
        return min((*failing, *self._producer.absent_since.values()), default=None)

    async def pace(self) -> None:
        """Wait while too many records are unacknowledged: the one place where Kafka's speed holds up the agents."""
        if self.congested:
            self._room.clear()
            await self._room.wait()

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

    # -- the backlog

    def _reserve(self, queue: PartitionQueue, records: Sequence[OutgoingRecord]) -> None:
        size = len(records[0].value or b"") if len(records) == 1 else sum([len(each.value or b"") for each in records])
        queue.records += len(records)
        queue.bytes += size
        queue.batch_bytes += size
        self.backlog += len(records)
        self.backlog_bytes += size
        if self.backlog >= BACKLOG_RECORDS or self.backlog_bytes >= BACKLOG_BYTES:
            self._weigh()

    def _release(self, queue: PartitionQueue, records: Sequence[OutgoingRecord]) -> None:
        size = sum([len(record.value or b"") for record in records])
        queue.records -= len(records)
        queue.bytes -= size
        self.backlog -= len(records)
        self.backlog_bytes -= size
        self._weigh()
        if not self.backlog:
            self._empty.set()

    def _weigh(self) -> None:
        """See whether the backlog is too large."""
        records, size = self._weight()
        self.congested = records >= BACKLOG_RECORDS or size >= BACKLOG_BYTES
        if not self.congested:
            self._room.set()

    def _weight(self) -> tuple[int, int]:
        """Return the records and bytes of the backlog, of which a stuck partition has its share. What it has beyond
        counts as soon as it would make the backlog twice as large: outputs go by their keys, from partitions that
        `is_full` does not close.
        """
        records = size = 0
        for queue in self._stuck:
            count = self._counts[queue.topic]
            records += max(0, queue.records - BACKLOG_RECORDS // count)
            size += max(0, queue.bytes - BACKLOG_BYTES // count)
        return self.backlog - min(records, BACKLOG_RECORDS), self.backlog_bytes - min(size, BACKLOG_BYTES)

    def _mark_stuck(self, queue: PartitionQueue) -> None:
        queue.stands_still(STUCK_AFTER)
        self._stuck.add(queue)
        self._weigh()

    def _mark_moving(self, queue: PartitionQueue) -> None:
        queue.succeeded()
        if queue in self._stuck:
            self._stuck.discard(queue)
            self._weigh()

    # -- sending

    def _schedule_flush(self, queue: PartitionQueue) -> None:
        """Flush all queues together, soon or, for a full batch, now: aiokafka sends what is there in one request."""
        if self._closed or self._flushing_now:
            return
        if queue.batch_bytes >= BATCH_BYTES:
            self._flushing_now = True
            self._loop.call_soon(self._flush)
        elif self._flush_timer is None:
            lingered = self._loop.time() - self._flushed_at if self._lonely else 0.0
            self._flush_timer = self._loop.call_later(max(0.0, LINGER - lingered), self._flush)

    def _flush(self) -> None:
        """Begin to send what waits where no batch is in flight: the end of one is followed by another flush."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._flush_timer, self._flushing_now = None, False
        if self._closed:
            return
        self._flushed_at, flushed = self._loop.time(), 0
        for queue in self._queues.values():
            if queue.waiting and queue.sending is None:
                flushed += len(queue.waiting)
                name = f"publish {queue.topic}-{queue.partition}"
                queue.sending = start(self._send(queue), name, means="nothing is published", fatal=False)
                queue.sending.add_done_callback(partial(self._sent, queue))
        self._lonely = flushed <= LONELY

    def _sent(self, queue: PartitionQueue, task: asyncio.Task[None]) -> None:
        queue.sending = None
        if task.cancelled():
            return
        if (exc := task.exception()) is not None:
            self._on_crash(exc)
        elif queue.waiting:
            self._schedule_flush(queue)
        else:  # also if no listener of what had failed is alive any more
            self._mark_moving(queue)

    async def _send(self, queue: PartitionQueue) -> None:
        batch = await self._producer.new_batch()
        await self._until_ours(queue)
        records, dropped = queue.fill(batch, self.limits[queue.topic])
        if dropped:
            self._release(queue, dropped)
        if not records:
            return
        began = self._loop.time()
        stuck = self._loop.call_later(STUCK_AFTER, self._mark_stuck, queue)
        try:
            base = await self._producer.send(queue.topic, queue.partition, batch)
        except KafkaError as exc:
            self.failures += 1
            if isinstance(exc, TOO_LARGE):
                await self._shrink(queue, records)
                return
            if isinstance(exc, InvalidTimestampError) and any(record.timestamp is not None for record in records):
                await self._refuse_times(queue, records)
                return
            logger.warning("%s-%d: a batch of %d was not acknowledged, sending it again: %s; none is lost, each may "
                           "come once more", queue.topic, queue.partition, len(records), reason_of(exc))  # fmt: skip
            queue.put_back(records)
            self._mark_stuck(queue)
            await asyncio.sleep(queue.failed())
        else:
            self.batches += 1
            self.shipping.add(self._loop.time() - began)
            self._acknowledged(queue, base, records)
        finally:
            stuck.cancel()

    async def _until_ours(self, queue: PartitionQueue) -> None:
        """Wait while others may have what the records are of: until their listeners have ended, or it is ours again."""
        began = self._loop.time()
        while self._is_fenced() and any(record.listener.alive for record in queue.waiting):
            if self._loop.time() > began + STUCK_AFTER:
                self._mark_stuck(queue)
            await asyncio.sleep(FENCE_PAUSE)

    def _acknowledged(self, queue: PartitionQueue, base: int, records: Sequence[OutgoingRecord]) -> None:
        if self._on_acknowledged is not None:
            self._on_acknowledged(queue.topic, queue.partition, base, records)
        for listener, finished in groupby(records, attrgetter("listener")):
            listener.finish_all([record.offset for record in finished])
        self.records += len(records)
        self._release(queue, records)
        self._mark_moving(queue)

    # -- records that Kafka refuses

    async def _refuse_times(self, queue: PartitionQueue, records: Sequence[OutgoingRecord]) -> None:
        """Kafka found a timestamp out of the range of the topic: send several records one by one, give a single one
        back to its owner, or the time of now.
        """
        if len(records) > 1:
            queue.put_back(records, alone=True)
            return
        [record] = records
        if record.take_back is None:
            queue.put_back([record._replace(timestamp=None)])
            return
        await self._take_back(queue, record, record.take_back)

    async def _take_back(self, queue: PartitionQueue, record: OutgoingRecord, take_back: TakeBack) -> None:
        """Give a refused record back to its owner, and wait for what takes its place, if anything does."""
        making = take_back(record)
        made = None if making is None else await making
        self._replace(queue, record, None if made is None else self._fitting(queue.topic, made))

    def _replace(self, queue: PartitionQueue, record: OutgoingRecord, fitting: OutgoingRecord | None) -> None:
        self._release(queue, [record])
        if fitting is not None:
            self._reserve(queue, [fitting])
            queue.put_back([fitting])

    async def _shrink(self, queue: PartitionQueue, records: Sequence[OutgoingRecord]) -> None:
        """Kafka found a batch too large: send several records one by one, and make a single one smaller."""
        if len(records) > 1:
            queue.put_back(records, alone=True)
            return
        [record] = records
        self.limits[queue.topic] = min(self.limits[queue.topic], record.size() - 1)  # lower than we knew
        if record.take_back is None:
            self._replace(queue, record, self._fitting(queue.topic, record))
        else:
            await self._take_back(queue, record, record.take_back)

    def _fitting(self, topic: str, record: OutgoingRecord) -> OutgoingRecord | None:
        """Return the record, made smaller if the topic would not take it; None if it cannot be made small enough."""
        limit = self.limits[topic]
        while record.size() > limit:
            smaller = record.shrink(record)
            if smaller is None:
                logger.error("%s: a record of %d bytes fits in no form, the limit is %d: the request at offset %d "
                             "goes without it; raise max.message.bytes, then send it again",
                             topic, record.size(), limit, record.offset)  # fmt: skip
                self.dropped += 1
                record.listener.finish(record.offset)
                return None
            record = smaller
        return record
