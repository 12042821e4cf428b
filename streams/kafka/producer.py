"""A producer that survives its failures: one aiokafka producer after the other, each idempotent (acks=all)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from models.errors import AccessError, MillraceError
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.errors import explain
from streams.kafka.outgoing import BATCH_BYTES
from streams.tasks import first

logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.5
"""Seconds between two tries to open a producer."""
REQUEST_TIMEOUT = 30.0
"""Seconds that Kafka may take to acknowledge one batch before it is sent again."""
REFUSED_FOR = 10.0
"""Seconds for which a login that worked may be refused, as by a broker that is starting; then the worker ends."""
ABSENT_FOR = 20.0
"""Seconds for which a partition that was there, or was just added, may not be there."""
LOOK_EVERY = 1.0
"""Seconds between looks at whether the partition of a batch in flight is still there."""


class Producer:
    """Opened with `async with`. `on_crash` is called with an error that no retry mends.

    `absent_since` has the loop's time since which a partition that a batch is for has not been there.
    """

    def __init__(self, kafka: Kafka, client_id: str, on_crash: Callable[[BaseException], None]) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._on_crash = on_crash
        self._producer: AIOKafkaProducer | None = None
        self._stack = AsyncExitStack()
        self._reopening = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._refused_since: float | None = None
        self.absent_since: dict[tuple[str, int], float] = {}

    async def __aenter__(self) -> Self:
        self._producer = await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def new_batch(self) -> Any:
        """Return an empty batch to fill, opening a producer first if there is none."""
        producer = self._producer or await self._reopen(None)
        return producer.create_batch()

    async def send(self, topic: str, partition: int, batch: Any) -> int:
        """Send one batch and wait for its acknowledgement. Returns the offset of its first record, -1 if the broker
        does not say: it had the batch already. Raises KafkaError; the producer is a new one then.
        """
        producer = self._producer or await self._reopen(None)
        broken = self._broken
        try:
            await self._appears(producer, topic, partition, broken)
            metadata = await self._acknowledged(producer, topic, partition, batch, broken)
        except KafkaError as exc:
            refusal = explain(exc, self._kafka)
            if isinstance(refusal, AccessError):  # no ACL comes back by sending again: the worker ends
                self._on_crash(refusal)
                await asyncio.Event().wait()
            # An idempotent producer whose batch failed for good has a gap in its sequence numbers, and every
            # batch after it is refused: only a new producer id helps.
            await self._reopen(producer)
            raise
        return int(metadata.offset)

    async def _acknowledged(
        self, producer: AIOKafkaProducer, topic: str, partition: int, batch: Any, broken: asyncio.Future[None]
    ) -> Any:
        """Send a batch and return what its acknowledgement says. Raises KafkaError if there will be none."""
        acknowledged = await producer.send_batch(batch, topic, partition=partition)
        ends = {acknowledged, broken}
        try:
            while not (await asyncio.wait(ends, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED))[0]:
                client.require_tasks(producer)
                await self._appears(producer, topic, partition, *ends)
            if not acknowledged.done():
                raise ProducerClosed
            return acknowledged.result()
        finally:
            acknowledged.cancel()  # if it has not come, nobody awaits it any more

    async def _appears(
        self, producer: AIOKafkaProducer, topic: str, partition: int, *ends: asyncio.Future[Any]
    ) -> None:
        """Wait until a producer knows of a partition, without which aiokafka would assert, or until one of `ends`: a
        closed producer learns nothing more. Raises KafkaError if there is no such topic.
        """
        if partition not in (producer.client.cluster.partitions_for_topic(topic) or ()):
            await first(
                self._look_for(producer, topic, partition), asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            )
            if self._producer is not producer:
                raise ProducerClosed

    async def _look_for(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        """Ends the worker if a partition stays away: its topic was made again with fewer, and others must take over."""
        while partition not in (there := await producer.partitions_for(topic)):
            if self._see_absence(topic, partition, len(there)):
                await asyncio.Event().wait()
            await producer.client.force_metadata_update()
            if partition not in await producer.partitions_for(topic):
                await asyncio.sleep(LOOK_EVERY)
        self.absent_since.pop((topic, partition), None)

    def _see_absence(self, topic: str, partition: int, there: int) -> bool:
        """End the worker if a partition has been away for long; returns whether it has. Its topic has `there`."""
        absent = self._loop.time() - self.absent_since.setdefault((topic, partition), self._loop.time())
        if absent < ABSENT_FOR:
            return False
        self._on_crash(AccessError(f"topic {topic!r} has {there} partitions now, fewer than when this worker began: it "
                                   "must begin again"))  # fmt: skip
        return True

    async def _reopen(self, broken: AIOKafkaProducer | None) -> AIOKafkaProducer:
        async with self._reopening:
            if self._producer is not None and self._producer is not broken:
                return self._producer
            await self._close()  # its flush still delivers what other partitions have in flight
            self._broken.set_result(None)
            self._broken = self._loop.create_future()
            while True:
                try:
                    self._producer = await self._open()
                except MillraceError as exc:
                    self._see_refusal(exc)
                    logger.warning("cannot publish, trying again: %s; results wait, none is lost", exc)
                    await asyncio.sleep(RETRY_PAUSE)
                else:
                    self._refused_since = None
                    return self._producer

    def _see_refusal(self, exc: MillraceError) -> None:
        """End the worker if its login has been refused for long."""
        if not isinstance(exc, AccessError):
            self._refused_since = None
            return
        self._refused_since = self._refused_since or self._loop.time()
        if self._loop.time() - self._refused_since >= REFUSED_FOR:
            self._on_crash(exc)

    async def _open(self) -> AIOKafkaProducer:
        return await self._stack.enter_async_context(client.producer(
            self._kafka, client_id=self._client_id, linger_ms=0, max_batch_size=BATCH_BYTES, **self._options(),
        ))  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {"request_timeout_ms": int(REQUEST_TIMEOUT * 1000)}

    async def _close(self) -> None:
        self._producer = None
        await self._stack.aclose()
