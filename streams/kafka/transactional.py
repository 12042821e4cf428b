"""Publishes in transactions: the records of many requests and, with them, how far the group has come.

    publish ──► queue ──0.1 s──► begin ► records ► offsets of the group, as its member ► commit ──► lease.finish(offset)

A transaction takes all that waits, and says of each lease what a commit would say once that is finished: results, dead
letters and offsets become visible together, or not at all. What the coordinator of the group fences is the member and
its generation (KIP-447, see txn_offsets.py): a worker that the group has left behind commits nothing, however long it
slept, and whatever producer it opens. After a failure the next transaction begins with a new producer, which aborts
the last one. If that failed while it was being committed, nobody here knows how it ended: its leases are taken anew,
from what the group has by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Self

from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    OffsetMetadataTooLargeError,
    ProducerFenced,
)
from faust.types import TP

from models.errors import AccessError, reason_of
from streams.config.settings import Kafka
from streams.kafka.commit_metadata import METADATA_LIMIT
from streams.kafka.errors import explain
from streams.kafka.lease import CommitPoint, Lease
from streams.kafka.outgoing import DeliveryListener, OutgoingRecord, PartitionQueue
from streams.kafka.publisher import TOO_LARGE, Publisher
from streams.kafka.transaction import Transaction, choose
from streams.kafka.txn_leases import TransactionLeases
from streams.kafka.txn_offsets import GroupMovedOn
from streams.kafka.txn_producer import TRANSACTION_TIMEOUT, TransactionalProducer
from streams.tasks import end_tasks, every, keep

logger = logging.getLogger(__name__)

EVERY = 0.1
"""Seconds for which records wait for others of their transaction."""
EARLY_BYTES = 8 << 20
"""Bytes of values that wait, with which a transaction begins at once."""
LOCK_TIMEOUT = 5.0
"""Seconds that a commit waits for the transaction before it."""
RETRY_PAUSE = 0.5
"""Seconds between a transaction that failed and the next."""
LEAST_SHARE = 1 / 1024
"""Part of what waits that a transaction takes at least, after many that took too long."""
COMMITTED, ABORTED, UNKNOWN = "committed", "aborted", "unknown"


class _Refused(Exception):
    """Kafka does not take a batch: too large, or of a wrong time."""

    def __init__(self, queue: PartitionQueue, records: Sequence[OutgoingRecord]) -> None:
        super().__init__(f"{queue.topic}-{queue.partition} does not take a batch of {len(records)}")
        self.queue = queue
        self.records = records


class _LeaseEnded(KafkaError):
    """A lease ended while its records were on their way."""


class TransactionalPublisher(Publisher):
    """See the module. `name` is the transactional id, of this worker alone; `group` that of the `holder`'s leases."""

    def __init__(
        self, kafka: Kafka, client_id: str, on_crash: Callable[[BaseException], None], *, group: str, name: str,
        holder: Callable[[], TransactionLeases],
    ) -> None:  # fmt: skip
        super().__init__(kafka, client_id, on_crash)
        self._kafka = kafka
        self._group = group
        self._holder = holder
        self._producer: TransactionalProducer = TransactionalProducer(kafka, client_id, on_crash, name)
        self._lock = asyncio.Lock()
        self._due = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._failing_since: float | None = None
        self._metadata_limit = METADATA_LIMIT
        self._share = 1.0
        self._kept_back: dict[PartitionQueue, tuple[int, int]] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._running = keep(self._run, "committing transactions", means="nothing is published")
        return self

    async def __aexit__(self, *error: object) -> None:
        await end_tasks(self._running)
        await super().__aexit__(*error)

    @property
    def failing_since(self) -> float | None:
        """Return the monotonic time since which no transaction was committed though some were tried."""
        return self._failing_since

    def is_full(self, partition: int) -> bool:
        """Whether a request of this partition should wait: its results have their share of the backlog, and cannot be
        committed before the requests that came before them are answered.
        """
        return any(self._fills(queue, *kept, partition) for queue, kept in self._kept_back.items())

    async def commit(self) -> bool | None:
        """Commit all that waits in one transaction; returns whether it is committed, None if there was nothing."""
        try:
            async with asyncio.timeout(LOCK_TIMEOUT):
                await self._lock.acquire()
        except TimeoutError:
            return False
        try:
            transaction = self._gather()
            if transaction is None:
                if self._holder().is_whole():
                    self._failing_since = None  # what failed went with its leases, and new ones are there
                return None
            return await self._commit(transaction)
        finally:
            self._lock.release()

    # -- when

    def _schedule_flush(self, queue: PartitionQueue) -> None:  # noqa: ARG002  all queues go together
        if self._closed or self._due.is_set():
            return
        if self.backlog_bytes - self._kept_back_bytes >= EARLY_BYTES:
            self._due.set()
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(EVERY, self._due.set)

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            if await self.commit() is False:
                await asyncio.sleep(RETRY_PAUSE)
                self._due.set()

    def _weight(self) -> tuple[int, int]:
        """Return the backlog without what is kept back: that waits for requests that may wait for room."""
        kept_back = sum(records for records, _ in self._kept_back.values())
        return self.backlog - kept_back, self.backlog_bytes - self._kept_back_bytes

    @property
    def _kept_back_bytes(self) -> int:
        return sum(size for _, size in self._kept_back.values())

    # -- what

    def _gather(self) -> Transaction | None:
        """Take all that waits, but what the commit's metadata has no room to remember. None: nothing is to commit."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._flush_timer = None
        self._due.clear()
        waiting = [(queue, records) for queue in self._queues.values() if (records := self._taken(queue))]
        offered: dict[DeliveryListener, set[int]] = {}
        for _, records in waiting:
            for listener, found in groupby(records, attrgetter("listener")):
                offered.setdefault(listener, set()).update(record.offset for record in found)
        finished = {listener: offsets for listener, offsets in offered.items() if not isinstance(listener, Lease)}
        points: dict[TP, tuple[Lease, CommitPoint]] = {}
        for tp, lease in self._holder().committable().items():
            offsets, point = choose(lease, offered.get(lease, set()), self._metadata_limit, self._share)
            if offsets:
                finished[lease] = offsets
            if point is not None and (offsets or point != lease.committed):
                points[tp] = lease, point
        if offered != finished:
            waiting = self._keep_back(waiting, finished)
        elif self._kept_back:
            self._kept_back.clear()
            self._weigh()
        return Transaction(waiting, finished, points) if waiting or points else None

    def _taken(self, queue: PartitionQueue) -> list[OutgoingRecord]:
        records = [record for record in queue.waiting if record.listener.alive]
        if len(records) < len(queue.waiting):
            self._release(queue, [record for record in queue.waiting if not record.listener.alive])
        queue.waiting.clear()
        queue.batch_bytes = 0
        return records

    def _keep_back(
        self,
        waiting: Iterable[tuple[PartitionQueue, list[OutgoingRecord]]],
        finished: Mapping[DeliveryListener, set[int]],
    ) -> list[tuple[PartitionQueue, list[OutgoingRecord]]]:
        """Put back what is not to be finished now; return the rest."""
        taken: list[tuple[PartitionQueue, list[OutgoingRecord]]] = []
        self._kept_back.clear()
        for queue, records in waiting:
            now = [record for record in records if record.offset in finished.get(record.listener, ())]
            if len(now) < len(records):
                later = [record for record in records if record.offset not in finished.get(record.listener, ())]
                queue.put_back(later)
                self._kept_back[queue] = len(later), sum(len(record.value or b"") for record in later)
            if now:
                taken.append((queue, now))
        self._weigh()
        return taken

    # -- how

    async def _commit(self, transaction: Transaction) -> bool:
        """Run a transaction; returns whether it was committed."""
        began, opened, deciding = self._loop.time(), False, False
        points = {tp: point for tp, (_, point) in transaction.points.items()}
        try:
            async with asyncio.timeout(TRANSACTION_TIMEOUT):
                await self._producer.begin()
                opened = True
                await every(*(self._ship(queue, records) for queue, records in transaction.records))
                if not all(lease.alive for lease in transaction.leases):
                    raise _LeaseEnded
                for member in {lease.member for lease in transaction.leases}:  # one, or none
                    assert member is not None
                    await self._producer.add_offsets(self._group, member, points)
                deciding = True
                await self._producer.commit()
        except (KafkaError, TimeoutError, _Refused) as exc:
            if opened and isinstance(exc, TimeoutError):  # it was too large, perhaps; else there is no broker
                self._share = max(LEAST_SHARE, self._share / 2)
            await self._failed(transaction, exc, deciding=deciding)
            return False
        self._committed(transaction, self._loop.time() - began)
        return True

    async def _ship(self, queue: PartitionQueue, records: Sequence[OutgoingRecord]) -> None:
        """Send the records of one queue, batch by batch."""
        left = PartitionQueue(queue.topic, queue.partition)
        left.waiting.extend(records)
        left.alone = queue.alone
        while left.waiting:
            batch = await self._producer.new_batch()
            taken, dropped = left.fill(batch, self.limits[queue.topic])
            if dropped:
                raise _LeaseEnded
            try:
                await self._producer.ship(queue.topic, queue.partition, batch)
            except (*TOO_LARGE, InvalidTimestampError) as exc:
                if isinstance(exc, InvalidTimestampError) and all(record.timestamp is None for record in taken):
                    raise
                raise _Refused(queue, taken) from exc
            self.batches += 1

    def _committed(self, transaction: Transaction, seconds: float) -> None:
        self.transactions[COMMITTED] += 1
        self.shipping.add(seconds)
        self._failing_since = None
        if self._share < 1.0:
            self._share = min(1.0, self._share * 2)
            self._due.set()  # for the rest
        for lease, offsets in transaction.finished.items():
            lease.finish_all(list(offsets))
        for lease, point in transaction.points.values():
            lease.committed = point
        for queue, records in transaction.records:
            queue.alone = 0
            self.records += len(records)
            self._release(queue, records)

    async def _failed(self, transaction: Transaction, exc: Exception, *, deciding: bool) -> None:
        """Do what a failed transaction leaves to do: its records go into the next one, unless they are another's to
        publish now, or it may be committed all the same.
        """
        self.transactions[UNKNOWN if deciding else ABORTED] += 1
        self.failures += 1
        self._failing_since = self._failing_since or time.monotonic()
        if isinstance(exc, OffsetMetadataTooLargeError):
            self._metadata_limit //= 2
        elif isinstance(exc, KafkaError) and isinstance(refusal := explain(exc, self._kafka), AccessError):
            self._on_crash(refusal)
        number, reason = transaction.size, _reason(exc)
        if deciding:
            logger.warning("a transaction of %d records failed while it was being committed: %s; its partitions "
                           "are read from the group's commits, nothing is lost or doubled", number, reason)  # fmt: skip
            self._holder().retake(transaction.leases)
        elif isinstance(exc, GroupMovedOn):
            logger.warning("a transaction of %d records was refused, the group has moved on (%s): the new owners "
                           "answer these requests, nothing is lost or doubled", number, exc)  # fmt: skip
            self._holder().lost(transaction.leases)
        elif not isinstance(exc, _LeaseEnded):
            logger.warning("a transaction of %d records was aborted: %s; they go into the next one, nothing is lost "
                           "or doubled", number, reason)  # fmt: skip
        await self._put_back(transaction, exc if isinstance(exc, _Refused) else None)
        with contextlib.suppress(KafkaError):
            await self._producer.discard(fenced=isinstance(exc, ProducerFenced))

    async def _put_back(self, transaction: Transaction, refused: _Refused | None) -> None:
        """Put records back into their queues, where those whose lease has ended are dropped; what Kafka refused goes
        alone, or becomes another record.
        """
        for queue, records in transaction.records:
            if refused is None or queue is not refused.queue:
                queue.put_back(records)
                continue
            first = next(number for number, record in enumerate(records) if record is refused.records[0])
            queue.put_back(records[first + len(refused.records) :])
            if isinstance(refused.__cause__, InvalidTimestampError):
                await self._refuse_times(queue, refused.records)
            else:
                await self._shrink(queue, refused.records)
            queue.put_back(records[:first])  # each stays in its place, as the order of keys has it
            if len(refused.records) > 1:
                queue.alone += first


def _reason(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return f"it took over {TRANSACTION_TIMEOUT:g} s"
    if isinstance(exc, ProducerFenced):
        return "Kafka had ended it as too old, or another worker has this MILLRACE_WORKER_ID"
    return reason_of(exc)
