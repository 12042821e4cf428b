"""The end of the results topic, read without a group, for those who wait for one result and those who watch.

One consumer for all of them: started when somebody comes, stopped when nobody has been there for a while. Who waits for
a result names its partition, and that one is read record by record; the others are skipped through when results come
faster than anybody could watch them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition

from models.errors import BrokerError, MillraceError
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.topics import require
from streams.tasks import end_tasks, start

logger = logging.getLogger(__name__)

SHOW_EVERY = 0.25
"""Seconds between two handfuls of results for those who watch."""
MAX_SHOWN = 500
"""Records of one handful; the rest is counted as dropped."""
MAX_SHOWN_BYTES = 8 << 20
"""Bytes of their values."""
MAX_BEHIND = 500
"""Records that a partition for which nobody waits may be behind before the reader skips ahead."""
IDLE_STOP = 30.0
"""Seconds without anybody after which reading stops."""
START_LIMIT = 10.0
"""Seconds that it may take until the topic's end is known."""
RETRY_PAUSE = 1.0
"""Seconds between two tries to read when Kafka is not there."""
FETCH_BYTES = 256 << 10
"""Bytes of one partition that are fetched at once."""

Watcher: TypeAlias = Callable[[Sequence["ConsumerRecord[bytes, bytes]"], int], None]
"""Called with the records since the last call, and how many beside them were dropped. Must not raise or block."""


class Tail:
    """Opened with `async with`; see the module."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._expected: dict[bytes, set[asyncio.Future[bytes]]] = {}
        self._awaited: Counter[int] = Counter()
        self._watchers: set[Watcher] = set()
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[int] | None = None
        self._shown: list[ConsumerRecord[bytes, bytes]] = []
        self._dropped = self._shown_bytes = 0
        self._last_shown = self._last_needed = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._reading)

    @property
    def reading(self) -> bool:
        """Whether the topic is being read."""
        return self._reading is not None and not self._reading.done()

    @asynccontextmanager
    async def expecting(self, request_id: str, request_partition: int) -> AsyncIterator[asyncio.Future[bytes]]:
        """Give a future that gets the first result with this id from now on; its request is sent inside.

        `request_partition` is the request's: its result goes to the same one, modulo the count of results' partitions.
        Raises BrokerError if the topic's end cannot be found out.
        """
        partition = request_partition % await self._started()
        wanted, future = request_id.encode(), _on_failure()
        self._expected.setdefault(wanted, set()).add(future)
        self._awaited[partition] += 1
        try:
            yield future
        finally:
            self._awaited[partition] -= 1
            self._expected[wanted].discard(future)
            if not self._expected[wanted]:
                del self._expected[wanted]
            self._last_needed = time.monotonic()

    @contextmanager
    def watching(self, watcher: Watcher) -> Iterator[None]:
        """Have `watcher` called with what comes, four times a second."""
        self._start()
        self._watchers.add(watcher)
        try:
            yield
        finally:
            self._watchers.discard(watcher)
            self._last_needed = time.monotonic()

    def _start(self) -> asyncio.Future[int]:
        self._last_needed = time.monotonic()
        if self._ready is None or not self.reading:
            self._ready = _on_failure()
            self._reading = start(self._read(), "follow the results", means="nobody sees new results", fatal=False)
        return self._ready

    async def _started(self) -> int:
        """Return how many partitions are read, once their ends are known."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._start()), START_LIMIT)
        except TimeoutError:
            msg = f"the end of topic {self._topic!r} could not be determined within {START_LIMIT:g} s"
            raise BrokerError(msg) from None

    def _needed(self) -> bool:
        if self._watchers or self._expected:
            self._last_needed = time.monotonic()
        return time.monotonic() - self._last_needed < IDLE_STOP

    async def _read(self) -> None:
        while self._needed():
            try:
                partitions = (await require(self._kafka, self._topic))[self._topic].partitions
                latest = client.consumer(
                    self._kafka, auto_offset_reset="latest", max_partition_fetch_bytes=FETCH_BYTES,
                    isolation_level="read_committed",
                )  # fmt: skip
                async with latest as consumer:
                    await self._follow(consumer, [TopicPartition(self._topic, number) for number in range(partitions)])
            except MillraceError as exc:
                logger.warning("cannot follow the results, trying again: %s; answering goes on", exc)
                self._fail(exc)
                await asyncio.sleep(RETRY_PAUSE)
            except Exception:  # whatever it is, those who wait must not wait for ever
                logger.exception("following the results failed, trying again")
                self._fail(BrokerError("following the results failed; the worker's log has the traceback"))
                await asyncio.sleep(RETRY_PAUSE)

    async def _follow(self, consumer: Any, places: list[TopicPartition]) -> None:
        consumer.assign(places)
        for place, end in (await consumer.end_offsets(places)).items():
            consumer.seek(place, end)
        assert self._ready is not None
        if not self._ready.done():
            self._ready.set_result(len(places))
        while self._needed():
            began = time.monotonic()
            found = await client.poll(consumer, seconds=SHOW_EVERY, limit=MAX_SHOWN)
            for records in found.values():
                self._take(records)
            self._show()
            await self._skip(consumer, places)
            if not self._expected:
                await asyncio.sleep(max(0.0, SHOW_EVERY - (time.monotonic() - began)))
        self._ready = _on_failure()  # who comes while the consumer is closed waits for the next one

    def _take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        if self._expected:
            for record in records:
                for name, content in record.headers:
                    if name == "ce_id" and content in self._expected and record.value is not None:
                        for future in self._expected[content]:
                            if not future.done():
                                future.set_result(record.value)
        if self._watchers:
            for record in records:
                size = len(record.value or b"")
                if len(self._shown) < MAX_SHOWN and self._shown_bytes + size <= MAX_SHOWN_BYTES:
                    self._shown.append(record)
                    self._shown_bytes += size
                else:
                    self._dropped += 1

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last_shown < SHOW_EVERY or not (self._shown or self._dropped):
            return
        shown, dropped = self._shown, self._dropped
        self._shown, self._shown_bytes, self._dropped, self._last_shown = [], 0, 0, now
        for watcher in list(self._watchers):
            watcher(shown, dropped)

    async def _skip(self, consumer: Any, places: Sequence[TopicPartition]) -> None:
        """Leave out what is too much to watch, in the partitions where nobody waits for a result."""
        for place in places:
            end = consumer.highwater(place)
            if end is None or self._awaited[place.partition]:
                continue
            behind = end - await consumer.position(place)
            if behind > MAX_BEHIND and not self._awaited[place.partition]:
                consumer.seek(place, end - MAX_BEHIND // 5)
                self._dropped += behind - MAX_BEHIND // 5

    def _fail(self, fault: MillraceError) -> None:
        """Tell those who wait: what they wait for may be in the gap. Whoever comes next waits for the next try."""
        waiting: list[asyncio.Future[Any]] = [future for futures in self._expected.values() for future in futures]
        if self._ready is not None:
            waiting.append(self._ready)
        for future in waiting:
            if not future.done():
                future.set_exception(fault)
        self._ready = _on_failure()


def _on_failure() -> asyncio.Future[Any]:
    """Return a future whose fault nobody need look at."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
