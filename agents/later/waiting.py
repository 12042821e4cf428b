"""The records of delay topics that were read and are not due yet, and the leases under which they are tried again.

All records of a topic wait equally long, so the first of a partition is due first: while it waits, nothing more is
polled of its partition. What waits is not begun, so no drain waits for it, and no watchdog takes it for stuck.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias, cast

from aiokafka import ConsumerRecord

from models.dead_letter import MAX_AT, read_dead_letter
from models.retry_later import due_of
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease

Record: TypeAlias = ConsumerRecord[bytes, bytes]

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes for the name of a topic."""


class RetryLease:
    """A lease on one delayed record, under which the answering part works on it as on the record that it once was:
    whatever offset that had, it is the delayed one that is finished. `finished` is called then.
    """

    __slots__ = ("_begun", "_finished", "_lease", "_offset")

    def __init__(self, lease: Lease, offset: int, finished: Callable[[], None]) -> None:
        self._lease = lease
        self._offset = offset
        self._begun = 0
        self._finished = finished

    @property
    def keys(self) -> dict[bytes, object]:
        """Return no key that others wait for: what is tried again has left the order of its key."""
        return {}

    @property
    def begun(self) -> int:
        """Return 1 once the record is begun, 0 while it waits."""
        return self._begun

    @begun.setter
    def begun(self, count: int) -> None:
        if count > self._begun:
            self._lease.resume(self._offset)
        elif count < self._begun:
            self._lease.wait(self._offset)
        self._begun = count

    def wait(self, _: int) -> None:
        """Have the record wait, for its host for instance."""
        self.begun -= 1

    def resume(self, _: int) -> None:
        """Begin what had to wait."""
        self.begun += 1

    def finish(self, _: int) -> None:
        """Note that what became of the record is acknowledged."""
        self._lease.finish(self._offset)
        self._finished()

    def drop(self, _: int) -> None:
        """Finish the delayed record, of which nothing was published."""
        self.finish(_)

    def finish_all(self, offsets: Sequence[int]) -> None:
        """Do the same: there is one record."""
        self.finish(offsets[0])

    def __getattr__(self, name: str) -> object:
        """Whether it is alive and taking, its tasks, its topic: those of the partition's lease."""
        return getattr(self._lease, name)


class Queue(NamedTuple):
    """What waits of one partition, in order, each with when it is due, in seconds since the epoch."""

    lease: Lease
    records: deque[tuple[float, Record]]

    @property
    def due(self) -> float:
        """Return when its first record is due."""
        return self.records[0][0]


class Waiting:
    """The queues of all partitions that are held. `delays` has the seconds of each topic; `released` the offsets, by
    topic and partition, before which everything is due now.
    """

    def __init__(self, delays: Mapping[str, int]) -> None:
        self._delays = delays
        self._queues: dict[Lease, Queue] = {}
        self.released: Mapping[tuple[str, int], int] = {}
        self.changed = asyncio.Event()

    def add(self, batch: RecordBatch) -> None:
        """Take what was polled of a partition, of which no more is polled until all of it is taken up.

        It was written before now, so its delay is over by then, even if its writer's clock is ahead.
        """
        lease = batch.lease
        queue = self._queues.get(lease)
        if queue is None:
            queue = self._queues[lease] = Queue(lease, deque())
        delay = self._delays[lease.topic]
        latest = time.time() + delay
        for record in batch.records:
            lease.begun += 1
            lease.wait(record.offset)
            queue.records.append((min(latest, due_of(record.headers, record.timestamp, delay)), record))
        lease.rests = True
        self.changed.set()

    def due(self, now: float) -> Iterator[tuple[Record, RetryLease]]:
        """Yield what is due at `now` (seconds since the epoch), each in turn with those of other partitions."""
        self._queues = {lease: queue for lease, queue in self._queues.items() if lease.alive}
        queues = deque(queue for queue in self._queues.values() if queue.records and queue.lease.taking)
        while queues:
            queue = queues.popleft()
            lease = queue.lease
            if not lease.taking or not self._is_due(queue, now):
                continue
            _, record = queue.records.popleft()
            lease.rests = bool(queue.records)
            if queue.records:
                queues.append(queue)
            yield record, RetryLease(lease, record.offset, self.changed.set)

    def next_due(self, topic: str | None = None) -> float | None:
        """Return when the next record is due, of one topic or of all, in seconds since the epoch; None: none waits."""
        heads = (queue.due for queue in self._queues.values()
                 if queue.records and queue.lease.taking and topic in (None, queue.lease.topic))  # fmt: skip
        return min(heads, default=None)

    def count(self, lease: Lease) -> int:
        """Return how many records of a partition wait: those that were read, and those that are still in Kafka."""
        queue = self._queues.get(lease)
        read = 0 if queue is None else len(queue.records)
        return read if lease.end is None or lease.position is None else read + max(0, lease.end - lease.position)

    def in_progress(self) -> int:
        """Return how many records were taken up and are not finished."""
        return sum(queue.lease.unfinished - len(queue.records) for queue in self._queues.values() if queue.lease.alive)

    def _is_due(self, queue: Queue, now: float) -> bool:
        due, record = queue.records[0]
        return record.offset < self.released.get((record.topic, record.partition), 0) or due <= now


def as_first_read(record: Record) -> Record:
    """Return a delayed record as it was first read, with its topic, partition, offset and time: they make its default
    id, the partition of its result, and what its dead letter says. One that has not the headers, or whose topic cannot
    be one, stays as it is.
    """
    letter = read_dead_letter((record.partition, record.offset), record.timestamp, None, None, record.headers)
    if letter.topic is None or not _TOPIC.fullmatch(letter.topic):
        return record
    at = record.timestamp if letter.requested_at is None else min(MAX_AT, round(letter.requested_at * 1000))
    return replace(
        record, topic=letter.topic, partition=letter.origin_partition, offset=letter.origin_offset, timestamp=at
    )


def as_lease(lease: RetryLease) -> Lease:
    """Return it as what the answering part takes for a lease."""
    return cast("Lease", lease)
