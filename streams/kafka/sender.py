"""Puts single records on a topic, and says where they went. For what a person sends, not for what a worker answers:
that is streams/kafka/producer.py.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.errors import explain
from streams.kafka.outgoing import Headers

SEND_LIMIT = 10.0
"""Seconds that connecting and being acknowledged may take."""
STOP_LIMIT = 2.0
"""Seconds that closing may take."""

_partition = DefaultPartitioner()


class Sender:
    """Opened with `async with`; it connects when it is first needed. Raises BrokerError."""

    def __init__(self, kafka: Kafka, client_id: str) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def partition_for(self, topic: str, key: bytes | None) -> int:
        """Return the partition of a key, as Kafka's own clients choose it; any one for no key."""
        producer = await self._connected()
        try:
            async with asyncio.timeout(SEND_LIMIT):
                partitions = sorted(await producer.partitions_for(topic))
        except (KafkaError, TimeoutError) as exc:
            raise explain(exc, self._kafka) from exc
        return int(_partition(key, partitions, partitions))

    async def send(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers) -> int:
        """Put one record there and return its offset once Kafka has acknowledged it."""
        producer = await self._connected()
        try:
            async with asyncio.timeout(SEND_LIMIT):
                sent = await producer.send_and_wait(topic, value, key=key, partition=partition, headers=headers)
        except TimeoutError as exc:
            msg = f"Kafka did not acknowledge within {SEND_LIMIT:g} s: it may have the record, or may still receive it"
            raise BrokerError(msg) from exc
        except KafkaError as exc:
            await self._forget(producer)
            raise explain(exc, self._kafka) from exc
        return int(sent.offset)

    async def _forget(self, producer: AIOKafkaProducer) -> None:
        """Close a producer of which a record failed: a gap in its sequence numbers has all later ones refused."""
        async with self._opening:
            if self._producer is producer:
                self._producer = None
                await self._stack.aclose()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                opening = client.producer(
                    self._kafka, client_id=self._client_id, request_timeout_ms=int(SEND_LIMIT * 1000),
                    stop_timeout=STOP_LIMIT,
                )  # fmt: skip
                try:
                    async with asyncio.timeout(SEND_LIMIT):
                        self._producer = await self._stack.enter_async_context(opening)
                except TimeoutError as exc:
                    raise explain(exc, self._kafka) from exc
            return self._producer
