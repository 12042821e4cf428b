"""A transactional producer that survives its failures: one of aiokafka after the other."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.lease import CommitPoint, Member
from streams.kafka.producer import Producer
from streams.kafka.txn_offsets import fence_offsets

TRANSACTION_TIMEOUT = 10.0
"""Seconds that a transaction may take; the broker aborts a dead worker's soon after."""
OPEN_TIMEOUT = 40.0
"""Seconds in which the transaction of a former producer of the same id is aborted and ours can begin."""
STOP_TIMEOUT = 1.0
"""Seconds that closing a producer may take: there is nothing to deliver."""


def transactional_id(group: str, worker_id: str) -> str:
    """Return the id of a worker's transactions for a group; a producer that was fenced adds a random part to it."""
    return f"{group}-{worker_id}"


class TransactionalProducer(Producer):
    """One transactional producer of aiokafka after the other. Two processes of one id would fence each other for good:
    one that was fenced goes on with an id of its own.
    """

    def __init__(self, kafka: Kafka, client_id: str, on_crash: Callable[[BaseException], None], name: str) -> None:
        super().__init__(kafka, client_id, on_crash)
        self._name = name
        self._id = name

    async def begin(self) -> None:
        """Begin a transaction, with a new producer if there is none: that ends what another of this id has open."""
        producer = self._producer or await self._reopen(None)
        with _failing():
            await producer.begin_transaction()

    async def ship(self, topic: str, partition: int, batch: Any) -> None:
        """Send one batch and wait for its acknowledgement. Raises KafkaError."""
        producer = self._opened
        if partition not in await producer.partitions_for(topic):
            await producer.client.force_metadata_update()
            if partition not in (there := await producer.partitions_for(topic)):
                self._see_absence(topic, partition, len(there))
                raise UnknownTopicOrPartitionError(topic, partition)
        self.absent_since.pop((topic, partition), None)
        with _failing():
            acknowledged = await producer.send_batch(batch, topic, partition=partition)
            await acknowledged

    async def add_offsets(self, group: str, member: Member, points: Mapping[TP, CommitPoint]) -> None:
        """Commit offsets with the transaction. Raises GroupMovedOn if the group has another member in our place."""
        fence_offsets(self._opened, member)
        offsets = {TopicPartition(*tp): OffsetAndMetadata(*point) for tp, point in points.items()}
        with _failing():
            await self._opened.send_offsets_to_transaction(offsets, group)

    async def commit(self) -> None:
        """Commit the transaction. After any failure it may be committed or not."""
        with _failing():
            await self._opened.commit_transaction()

    async def discard(self, *, fenced: bool) -> None:
        """Close a producer whose transaction failed, with all that it would still send."""
        if fenced:
            self._id = f"{self._name}-{uuid.uuid4().hex[:8]}"
        if self._producer is None:
            return
        waiter = self._producer._txn_manager._transaction_waiter
        if waiter is not None and waiter.done():
            waiter.exception()  # else asyncio reports that nobody awaits it
        client.abandon(self._producer)
        await self._close()

    async def _open(self) -> Any:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                return await super()._open()
        except TimeoutError as exc:
            msg = (
                f"Kafka at {self._kafka.bootstrap_servers} has not answered to transactions for {OPEN_TIMEOUT:g} s: "
                "see that __transaction_state has a leader"
            )
            raise BrokerError(msg) from exc

    @property
    def _opened(self) -> Any:
        assert self._producer is not None
        return self._producer

    def _options(self) -> dict[str, Any]:
        milliseconds = int(TRANSACTION_TIMEOUT * 1000)
        return {"transactional_id": self._id, "transaction_timeout_ms": milliseconds,
                "request_timeout_ms": milliseconds, "stop_timeout": STOP_TIMEOUT}  # fmt: skip


@contextmanager
def _failing() -> Iterator[None]:
    """Raise KafkaError where aiokafka asserts: its producer has failed meanwhile, in the background."""
    try:
        yield
    except AssertionError as exc:
        msg = f"the producer has failed: {exc}"
        raise KafkaError(msg) from exc
