"""Records on their way to Kafka, and the queue in which those of one partition wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

RECORD_OVERHEAD = 96
"""Bytes of batch and record framing beside key, value and headers: 61 of the batch's header, the rest varints."""
BATCH_BYTES = 256 * 1024
"""Bytes of a batch that is sent without waiting."""
RETRY_PAUSE = 0.5
"""Seconds before a failed batch is sent again; doubled for each failure in a row, up to MAX_RETRY_PAUSE."""
MAX_RETRY_PAUSE = 30.0

Headers = list[tuple[str, bytes]]
"""A list, because that is what aiokafka's batch builder takes."""


class DeliveryListener(Protocol):
    """Learns that a record was delivered: a lease, or a step that comes after."""

    @property
    def alive(self) -> bool:
        """Whether delivery still matters; otherwise records are dropped unsent."""
        ...

    def finish(self, offset: int) -> None:
        """Take note: the record published for the request at `offset` was acknowledged."""
        ...

    def finish_all(self, offsets: Sequence[int]) -> None:
        """Take note of several at once."""
        ...


UNACKNOWLEDGED = 10.0
"""Seconds without an acknowledgement of what is published after which a worker is not ready."""


def publishing_state(failing_since: float | None, what: str = "") -> str:
    """Return `ok`, or for how long Kafka has acknowledged nothing (of `what`); from monotonic seconds."""
    silent = 0.0 if failing_since is None else time.monotonic() - failing_since
    return f"no acknowledgement {what}from Kafka for {silent:.0f} s" if silent > UNACKNOWLEDGED else "ok"


TakeBack: TypeAlias = "Callable[[OutgoingRecord], Awaitable[OutgoingRecord | None] | None]"


class OutgoingRecord(NamedTuple):
    """One record to publish. `shrink` makes a smaller one when Kafka finds it too large; None: it is dropped.

    With `take_back`, a record that Kafka refuses as too large, or for its timestamp, goes there instead: its owner
    publishes another, or returns an awaitable of the one that takes its place (None: none does), for which all behind
    it wait.
    `timestamp` is in milliseconds since the epoch, None for now. `answered` and `host` are the owner's: the record that
    this one answers, and the host that was requested.
    """

    listener: DeliveryListener
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    shrink: Callable[[OutgoingRecord], OutgoingRecord | None]
    take_back: TakeBack | None = None
    timestamp: int | None = None
    answered: Any = None
    host: str | None = None

    def size(self) -> int:
        """Return how many bytes Kafka will count."""
        size = RECORD_OVERHEAD + len(self.key or b"") + len(self.value or b"")
        for name, content in self.headers:
            size += len(name) + len(content or b"") + 4
        return size


outgoing_record: Callable[[tuple[Any, ...]], OutgoingRecord] = partial(tuple.__new__, OutgoingRecord)
"""Makes one of all its fields, at half the cost: hits are many."""


class PartitionQueue:
    """The records that wait for one partition, in order, and whether it takes them.

    `records` and `bytes` (of values) count those in flight, too; `batch_bytes` those that joined since the last batch.
    `failing_since` is the monotonic time of the first of the failures in a row, `alone` how many of the next records go
    into a batch each.
    """

    __slots__ = ("_failures", "alone", "batch_bytes", "bytes", "failing_since", "partition", "records", "sending",
                 "topic", "waiting")  # fmt: skip

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[OutgoingRecord] = deque()
        self.records = 0
        self.bytes = 0
        self.batch_bytes = 0
        self.sending: asyncio.Task[None] | None = None
        self.failing_since: float | None = None
        self.alone = 0
        self._failures = 0

    def fill(self, batch: Any, limit: int) -> tuple[list[OutgoingRecord], list[OutgoingRecord]]:
        """Move what fits into a batch of at most `limit` bytes; return it, and what was dropped because its listener
        is not alive any more.
        """
        taken: list[OutgoingRecord] = []
        dropped: list[OutgoingRecord] = []
        waiting, append, number = self.waiting, batch._builder.append, 0
        now = int(time.time() * 1000)
        tight = limit < BATCH_BYTES
        self.batch_bytes = 0
        while waiting:
            record = waiting[0]
            listener, _, key, value, headers, _, _, timestamp, _, _ = record
            if not listener.alive:
                dropped.append(waiting.popleft())
                continue
            if taken and (self.alone or (tight and batch.size() + record.size() > limit)):
                break
            if append(number, now if timestamp is None else timestamp, key, value, headers) is None:
                self.batch_bytes = BATCH_BYTES  # the rest fills another batch already
                batch.close()
                break
            number += 1
            taken.append(waiting.popleft())
        batch._relative_offset = number
        self.alone = max(0, self.alone - len(taken))
        return taken, dropped

    def put_back(self, records: Sequence[OutgoingRecord], *, alone: bool = False) -> None:
        """Put records of a failed batch back in front; `alone`: each into a batch of its own."""
        if alone:
            self.alone = len(records)
        self.waiting.extendleft(reversed(records))

    def stands_still(self, seconds: float) -> None:
        """Note that it has taken nothing for so many seconds: aiokafka tries most failures again itself, for ever."""
        self.failing_since = self.failing_since or time.monotonic() - seconds

    def failed(self) -> float:
        """Note a failure; return for how many seconds to pause."""
        self.failing_since = self.failing_since or time.monotonic()
        self._failures += 1
        return min(RETRY_PAUSE * 2.0 ** (self._failures - 1), MAX_RETRY_PAUSE)

    def succeeded(self) -> None:
        """Note that the partition takes records, or that none wait any more."""
        self.failing_since, self._failures = None, 0
