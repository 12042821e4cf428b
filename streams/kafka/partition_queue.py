"""What waits for one partition of a topic, shipped in one batch after the other: in order, again if it must be, and
without what nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)

from models.errors import reason_of
from streams.kafka.record import OutgoingRecord
from streams.tasks import end_tasks, start

logger = logging.getLogger(__name__)

BATCH_BYTES = 256 * 1024
"""Bytes of a batch that is shipped without waiting."""
RETRY_PAUSE = 0.5
"""Seconds before a failed batch is sent again; doubled for each failure in a row, up to MAX_RETRY_PAUSE."""
MAX_RETRY_PAUSE = 30.0

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)


class QueueOwner(Protocol):
    """What a lane needs of the publisher that it belongs to."""

    limits: dict[str, int]
    records: int

    def schedule_flush(self, *, now: bool) -> None: ...  # noqa: D102
    def crashed(self, reason: BaseException) -> None: ...  # noqa: D102
    def reserve(self, parcel: OutgoingRecord) -> None: ...  # noqa: D102
    def release(self, parcels: Sequence[OutgoingRecord]) -> None: ...  # noqa: D102
    def too_large(self, topic: str, parcel: OutgoingRecord) -> OutgoingRecord | None: ...  # noqa: D102
    async def new_batch(self) -> Any: ...  # noqa: D102
    async def send(self, topic: str, partition: int, batch: Any) -> int: ...  # noqa: D102
    def acknowledged(self, topic: str, partition: int, base: int, parcels: Sequence[OutgoingRecord]) -> None: ...  # noqa: D102


class PartitionQueue:
    """What waits for one partition; it is shipped in one batch after the other."""

    def __init__(self, publisher: QueueOwner, topic: str, partition: int) -> None:
        self._publisher = publisher
        self._topic = topic
        self._partition = partition
        self._waiting: deque[OutgoingRecord] = deque()
        self._bytes = 0
        self._alone = 0
        self._shipping: asyncio.Task[None] | None = None
        self._failures = 0
        self.failing_since: float | None = None

    def put(self, parcel: OutgoingRecord) -> None:
        """Add a record at the end."""
        self._waiting.append(parcel)
        self._bytes += len(parcel.value or b"")
        self._publisher.schedule_flush(now=self._bytes >= BATCH_BYTES)

    def flush(self) -> None:
        """Begin to ship what waits, unless a batch is under way: that one's end is followed by another departure."""
        if self._waiting and self._shipping is None:
            self._shipping = start(
                self._ship(), f"publish {self._topic}-{self._partition}", means="nothing is published", fatal=False
            )
            self._shipping.add_done_callback(self._shipped)

    async def stop(self) -> None:
        """End a batch under way, if there is one, and wait for that."""
        await end_tasks(self._shipping)

    def _shipped(self, task: asyncio.Task[None]) -> None:
        self._shipping = None
        if task.cancelled():
            return
        if (exc := task.exception()) is not None:
            self._publisher.crashed(exc)
        elif self._waiting:
            self._publisher.schedule_flush(now=self._bytes >= BATCH_BYTES)
        else:  # also if nobody waits any more for what had failed
            self.failing_since, self._failures = None, 0

    async def _ship(self) -> None:
        self._bytes = 0
        batch = await self._publisher.new_batch()
        parcels = self._fill(batch)
        if parcels:
            await self._send(batch, parcels)

    async def _send(self, batch: Any, parcels: list[OutgoingRecord]) -> None:
        try:
            base = await self._publisher.send(self._topic, self._partition, batch)
        except _TOO_LARGE:
            self._cut(parcels)
        except KafkaError as exc:
            logger.warning("%s-%d: a batch of %d was not acknowledged, sending it again: %s",
                           self._topic, self._partition, len(parcels), reason_of(exc))  # fmt: skip
            self._put_back(parcels)
            self.failing_since = self.failing_since or time.monotonic()
            self._failures += 1
            await asyncio.sleep(min(RETRY_PAUSE * 2 ** (self._failures - 1), MAX_RETRY_PAUSE))
        else:
            self._publisher.acknowledged(self._topic, self._partition, base, parcels)
            for parcel in parcels:
                parcel.listener.finish(parcel.offset)
            self._publisher.records += len(parcels)
            self._publisher.release(parcels)
            self.failing_since, self._failures = None, 0

    def _fill(self, batch: Any) -> list[OutgoingRecord]:
        """Move what fits from the queue into a batch; what nobody waits for any more is dropped."""
        parcels: list[OutgoingRecord] = []
        waiting, append = self._waiting, batch.append
        limit = self._publisher.limits[self._topic]
        tight = limit < BATCH_BYTES
        while waiting:
            parcel = waiting[0]
            if not parcel.listener.alive:
                waiting.popleft()
                self._publisher.release([parcel])
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

    def _cut(self, parcels: list[OutgoingRecord]) -> None:
        """Kafka found a batch too large: several records are sent one by one, a single one is made smaller."""
        if len(parcels) > 1:
            self._alone = len(parcels)
            self._put_back(parcels)
            return
        fitting = self._publisher.too_large(self._topic, parcels[0])
        self._publisher.release(parcels)
        if fitting is not None:
            self._publisher.reserve(fitting)
            self._put_back([fitting])

    def _put_back(self, parcels: list[OutgoingRecord]) -> None:
        self._waiting.extendleft(reversed(parcels))
