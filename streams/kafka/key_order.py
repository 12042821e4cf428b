"""The order of keys: of the records of one partition that share a key, one at a time is worked on.

A record whose key is open waits for its turn; any other passes. A key is open from the moment at which a record has to
wait for something until its outcome has joined the queue of what is published, which keeps the order. So a later record
is never finished before an earlier one of its key, and what is repeated after a crash is repeated in order.

    holds? ──no──► worked on ──open──► fetched, checked, … ──close──► the next of its key
      └─yes──► waits in its lease, like all that was delivered and is not finished
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiokafka import ConsumerRecord

from streams.kafka.batch import RecordBatch
from streams.kafka.fetched import Unreadable
from streams.kafka.lease import Lease
from streams.tasks import start

KEY = "key"
"""The value of a setting `order` by which this is done."""
TURN = 0.005
"""Seconds of work on the records of one key after which another key gets its turn."""

_Record: TypeAlias = ConsumerRecord[bytes, bytes]


class KeyQueue:
    """The records of a key that wait, with the monotonic times at which they were received; `open` is the offset of
    the one that they wait for, `turn` of the one that is being handed over.
    """

    __slots__ = ("open", "turn", "waiting")

    def __init__(self) -> None:
        self.open: int | None = None
        self.turn: int | None = None
        self.waiting: deque[tuple[_Record, float]] = deque()


class KeyOrder:
    """Decides which records wait, and hands them to `take` when their turn has come, each in a batch of its own."""

    def __init__(self, take: Callable[[RecordBatch], Awaitable[None]]) -> None:
        self._take = take
        self._ready: deque[tuple[Lease, bytes]] = deque()
        self._task: asyncio.Task[None] | None = None

    def holds(self, record: _Record, lease: Lease, received_at: float) -> bool:
        """Whether a record has to wait for an earlier one of its key; if so, it is kept until then."""
        key = record.key
        if key is None and (key := _key_of(record)) is None:
            return False
        queue = lease.keys.get(key)
        if queue is None or queue.turn == record.offset:
            return False
        queue.waiting.append((record, received_at))
        lease.held += 1
        lease.begun += 1
        lease.wait(record.offset)
        return True

    def open(self, record: _Record, lease: Lease) -> None:
        """Let later records of this one's key wait until it is closed."""
        if (key := _key_of(record)) is None:
            return
        queue = lease.keys.get(key)
        if queue is None:
            queue = lease.keys[key] = KeyQueue()
        queue.open = record.offset

    def close(self, record: _Record, lease: Lease) -> None:
        """Note that a record's outcome has its place among what is published: the next of its key may begin."""
        key = _key_of(record)
        queue = None if key is None else lease.keys.get(key)
        if key is None or queue is None or queue.open != record.offset:
            return
        queue.open = None
        if queue.turn is not None:
            return  # it is being handed over, and the next follows at once
        if not queue.waiting:
            del lease.keys[key]
            return
        self._ready.append((lease, key))
        if self._task is None:
            self._task = start(self._run(), "records in the order of their keys", means="they are never answered")

    async def _run(self) -> None:
        while self._ready:
            await self._hand_over(*self._ready.popleft())
        self._task = None

    async def _hand_over(self, lease: Lease, key: bytes) -> None:
        """Hand over records of one key until one of them has to wait for something."""
        queue = lease.keys.get(key)
        if queue is None:
            return  # the lease has ended
        end = time.monotonic() + TURN
        while queue.waiting and queue.open is None and lease.taking:
            if time.monotonic() >= end:
                self._ready.append((lease, key))
                await asyncio.sleep(0)
                return
            record, received_at = queue.waiting.popleft()
            queue.turn = record.offset
            lease.held -= 1
            lease.resume(record.offset)
            lease.begun -= 1  # who takes it begins it
            await self._take(RecordBatch((record,), lease, received_at))
            queue.turn = None
        if not queue.waiting and queue.open is None:
            lease.keys.pop(key, None)


def _key_of(record: _Record) -> bytes | None:
    """Return a record's key, also of one that cannot be read whole."""
    key: bytes | None = record.key
    return record.sent_key if key is None and isinstance(record, Unreadable) else key
