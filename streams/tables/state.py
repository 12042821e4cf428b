"""The rows of the partitions held here: acknowledged rows are in the store, pending rows lie over it.

    changes ──► pending ──► changelog ──ack──► store, and when all of a batch is there: lease.finish(offsets)

Rows that are not acknowledged when their lease ends are dropped: the store is never ahead of the changelog, so the next
owner of the partition, this worker or another, goes on from the same rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from aiokafka import ConsumerRecord

from streams.kafka.lease import Lease
from streams.kafka.outgoing import RECORD_OVERHEAD, Headers, OutgoingRecord
from streams.kafka.publisher import Publisher
from streams.tables.pruning import Bounds, Look, excess
from streams.tables.store import OFFSET_HEADER, Store, offset_of

logger = logging.getLogger(__name__)

MAX_GAPS = 1_000
"""Gaps that are noted one by one."""
SLICE = 1_000
"""Rows of one step where all rows of a partition are deleted."""


class Gap(NamedTuple):
    """Offsets of a table's changelog, the end excluded, that another worker wrote while this one held the partition: a
    former owner that had not noticed its loss. Its rows cover fewer results than ours, and come after them.
    """

    table: str
    partition: int
    start: int
    end: int


class RowBatchDelivery:
    """The rows of one batch on their way to the changelogs; listens to the delivery of each."""

    __slots__ = ("_left", "keys", "records", "rows", "then")

    def __init__(
        self,
        rows: PartitionRows,
        records: Sequence[ConsumerRecord[bytes, bytes]],
        left: int,
        then: Callable[[], None] | None,
    ) -> None:
        self.rows = rows
        self.records = records
        self.then = then
        self.keys: list[tuple[str, bytes]] = []
        self._left = left

    @property
    def alive(self) -> bool:
        """Whether the lease still holds."""
        return self.rows.lease.alive

    def finish(self, offset: int) -> None:
        """Count an acknowledged row; the last one finishes the batch."""
        self.finish_all((offset,))

    def finish_all(self, offsets: Sequence[int]) -> None:
        """Count acknowledged rows."""
        self._left -= len(offsets)
        if self._left <= 0:
            self.rows.arrived(self)


Pending: TypeAlias = tuple[bytes | None, RowBatchDelivery]
"""A pending row, None for a deletion, and the delivery that it belongs to."""


class PartitionRows:
    """One partition's rows under one lease."""

    def __init__(self, lease: Lease, store: Store, tables: Iterable[str]) -> None:
        self.lease = lease
        self.partition = lease.partition
        self._store = store
        self.pending: dict[str, dict[bytes, Pending]] = {table: {} for table in tables}
        self.looks: dict[str, Look] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return a row as it will be once all pending rows are acknowledged."""
        entry = self.pending[table].get(key)
        return self._store.get(table, self.partition, key) if entry is None else entry[0]

    def arrived(self, delivery: RowBatchDelivery) -> None:
        """Finish a batch: all its rows are in the store, unless the lease ended before."""
        for table, key in delivery.keys:
            entry = self.pending[table].get(key)  # a later batch, whose rows lie over these, may be there before
            if entry is not None and entry[1] is delivery:
                del self.pending[table][key]
        self.lease.finish_all([record.offset for record in delivery.records])
        if delivery.then is not None and delivery.alive:
            delivery.then()


class TableState:
    """All partitions held here; `topics` names each table's changelog, `truncated` those that lack rows of ours."""

    def __init__(
        self,
        store: Store,
        topics: Mapping[str, str],
        bounds: Mapping[str, Bounds],
        leases: Callable[[], Iterable[Lease]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.topics = topics
        self._bounds = bounds
        self._leases = leases
        self._clock = clock
        self._tables = {topic: table for table, topic in topics.items()}
        self._rows: dict[int, PartitionRows] = {}
        self.recovered: set[int] = set()
        self.waiting_for = "the group's assignment"
        self.gaps = 0
        self.gaps_to_repair: list[Gap] = []
        self.truncated: set[tuple[str, int]] = set()

    # -- writing

    def of(self, lease: Lease) -> PartitionRows:
        """Return the rows of a lease; a new lease begins with what the store has."""
        rows = self._rows.get(lease.partition)
        if rows is None or rows.lease is not lease:
            self._rows = {number: kept for number, kept in self._rows.items() if kept.lease.alive}
            rows = self._rows[lease.partition] = PartitionRows(lease, self.store, self.topics)
        return rows

    def publish(
        self,
        publisher: Publisher,
        rows: PartitionRows,
        changes: Sequence[tuple[str, bytes, bytes | None]],
        records: Sequence[ConsumerRecord[bytes, bytes]] = (),
        then: Callable[[], None] | None = None,
    ) -> None:
        """Publish changed rows. Once all are acknowledged, the records are finished, and `then` is called.

        A tombstone carries the offset that its row counted up to, so that recovery recognises an outdated one.
        """
        delivery = RowBatchDelivery(rows, records, len(changes), then)
        if not changes:
            rows.arrived(delivery)
        delivery.keys = [(table, key) for table, key, _ in changes]
        pending, topics, partition, publish = rows.pending, self.topics, rows.partition, publisher.publish
        for table, key, row in changes:
            headers: Headers = []
            if row is None and (there := rows.get(table, key)) is not None:
                headers = [(OFFSET_HEADER, b"%d" % offset_of(there))]
            pending[table][key] = row, delivery
            publish(topics[table], partition, OutgoingRecord(delivery, 0, key, row, headers, _unsendable))

    def acknowledged(self, topic: str, partition: int, base: int, records: Sequence[OutgoingRecord]) -> None:
        """Put acknowledged rows into the store; `base` is the first one's offset, -1 if unknown.

        Rows of a lease that has ended are left to the next recovery.
        """
        if not records[-1].listener.alive:  # all records of a batch are of one lease
            return
        table = self._tables[topic]
        expected = self.store.reaches(table, partition)
        if base > (expected or 0):
            logger.warning(
                "%s-%d: another worker wrote offsets %s to %d while this one held the partition; rows that it "
                "overwrote are written again, no action is needed",
                topic,
                partition,
                expected,
                base,
            )
            self.gaps += 1
            self._note_gap(Gap(table, partition, expected or 0, base))
            self.store.mark_dirty(partition)
        elif 0 <= base < (expected or 0):
            logger.warning("%s-%d was truncated or created again while this worker held it: all rows of this partition "
                           "are written again, no action is needed", topic, partition)  # fmt: skip
            self.truncated.add((table, partition))
        changes = [(record.key or b"", record.value) for record in records]
        self.store.apply(table, partition, changes, base + len(records) if base >= 0 else None)

    def _note_gap(self, gap: Gap) -> None:
        """Note a gap for repair. With too many, it is joined to the last one of its table and partition."""
        numbers = [n for n, each in enumerate(self.gaps_to_repair) if each[:2] == gap[:2]]
        if numbers and len(self.gaps_to_repair) >= MAX_GAPS:
            self.gaps_to_repair[numbers[-1]] = self.gaps_to_repair[numbers[-1]]._replace(end=gap.end)
        else:
            self.gaps_to_repair.append(gap)

    def fits(self, publisher: Publisher, table: str, key: bytes, size: int) -> bool:
        """Whether a row of so many bytes can be sent under this key."""
        return len(key) + size + RECORD_OVERHEAD <= publisher.limits[self.topics[table]]

    def in_possession(self, partition: int) -> PartitionRows | None:
        """Return the rows of a partition that is held, recovered, and not being given up."""
        for lease in self._leases():
            if lease.partition == partition and self._possesses(lease):
                return self.of(lease)
        return None

    def _possesses(self, lease: Lease) -> bool:
        return lease.taking and lease.partition in self.recovered

    def forget_if_foreign(self, publisher: Publisher, lease: Lease, first: int) -> Iterator[None]:
        """Delete a partition's rows if they belong to a topic that was deleted: its lease says so, or they count
        further than its log goes, and reading, at offset `first`, began before the group's commit, or there was none.
        Yields between slices.

        Otherwise every result of the new topic up to that offset would be skipped. A log that only lost its end, or
        whose end is learned late, is read on from the commit: its rows stay.
        """
        newest = {table: self.store.newest(table, lease.partition) for table in self.topics}
        reaches = {table: -1 if row is None else offset_of(row) for table, row in newest.items()}
        reach = max(reaches.values())
        fits = lease.end is None or reach < lease.end or (lease.resumed is not None and first >= lease.resumed)
        if reach < 0 or (fits and not lease.anew):
            return
        logger.warning(
            "%s-%d ends at offset %s, but the tables count up to offset %d: the topic was deleted and created "
            "again; the tables start again from empty for this partition, no action is needed",
            lease.topic,
            lease.partition,
            lease.end,
            reach,
        )
        rows = self.of(lease)
        for table in sorted(reaches, key=reaches.__getitem__):  # the furthest last: if cut off, the next lease goes on
            stored = self.store.scan(table, lease.partition)
            while lease.taking and (gone := [(table, key, None) for key, _ in islice(stored, SLICE)]):
                self.publish(publisher, rows, gone)
                yield

    # -- pruning

    def prune(self, publisher: Publisher) -> Iterator[int]:
        """Publish tombstones for rows beyond the bounds, oldest first. Yields how many, table by table.

        Only rows wholly behind the commit are deleted: no replay counts their results again. So a table is checked
        when the commit has moved or a row behind it expires; at rest it costs nothing.
        """
        for lease in list(self._leases()):
            for table, bounds in self._bounds.items():
                if not self._possesses(lease) or lease.committed is None:
                    break  # the partition may have moved since the last step
                rows, committed, now = self.of(lease), lease.committed.offset, self._clock()
                last = rows.looks.get(table)
                if last is None or last.over(committed, now):
                    place = table, lease.partition
                    gone, rows.looks[table] = excess(
                        self.store, place, rows.pending[table], bounds, committed=committed, now=now
                    )
                    if gone:
                        self.publish(publisher, rows, [(table, key, None) for key in gone])
                    yield len(gone)

    # -- reading

    @property
    def partitions(self) -> frozenset[int]:
        """Return the partitions held here that have recovered."""
        return frozenset(lease.partition for lease in self._leases() if lease.alive) & self.recovered

    def readiness(self) -> str:
        """Return `ok`, or what the tables still wait for."""
        if self.waiting_for:
            return self.waiting_for
        return "ok" if all(lease.alive for lease in self._leases()) else "the group gives partitions anew"

    @property
    def all_recovered(self) -> bool:
        """Whether every assigned partition has recovered."""
        return self.readiness() == "ok"

    def count(self, table: str) -> int:
        """Return how many rows of a table are stored here, on disk perhaps by estimate."""
        return sum(self.store.count(table, partition) for partition in self.partitions)


def _unsendable(parcel: OutgoingRecord) -> None:  # noqa: ARG001  a row that does not fit was made smaller before
    return None
