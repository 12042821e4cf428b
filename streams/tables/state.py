"""The rows held here, by partition: what Kafka has acknowledged is in the store, and over it lies what is on its way.

    changes ──► pending ──► changelog ──ack──► store, and when all of a batch is there: lease.finish(offsets)

What was not acknowledged when its lease ends is forgotten: the store is never ahead of the changelog, so whoever
holds the partition next, this worker or another, goes on from the same rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

from aiokafka import ConsumerRecord

from streams.kafka.lease import Lease
from streams.kafka.outgoing import RECORD_OVERHEAD, Headers, OutgoingRecord
from streams.tables.pruning import Bounds, Look, excess
from streams.tables.store import OFFSET_HEADER, Store, offset_of

logger = logging.getLogger(__name__)

MAX_GAPS = 1_000
"""Gaps that are noted each for itself."""
SLICE = 1_000
"""Rows that go at once where all of them go."""


class Gap(NamedTuple):
    """Offsets of a table's changelog, the end not included, that somebody else wrote while this worker held it: a
    former owner that did not know it yet. Its rows count less far than ours, and stand behind them.
    """

    table: str
    partition: int
    start: int
    end: int


class Publishes(Protocol):
    """What is needed of the publisher."""

    limits: dict[str, int]
    congested: bool

    def publish(self, topic: str, partition: int, parcel: OutgoingRecord) -> None: ...  # noqa: D102


class RowBatchDelivery:
    """The rows of one batch on their way to the changelogs: the receipt of each of their parcels."""

    __slots__ = ("_left", "keys", "records", "rows", "then")

    def __init__(
        self,
        shelf: PartitionRows,
        records: Sequence[ConsumerRecord[bytes, bytes]],
        left: int,
        then: Callable[[], None] | None,
    ) -> None:
        self.rows = shelf
        self.records = records
        self.then = then
        self.keys: list[tuple[str, bytes]] = []
        self._left = left

    @property
    def alive(self) -> bool:
        """Whether the lease still holds."""
        return self.rows.lease.alive

    def finish(self, offset: int) -> None:  # noqa: ARG002  rows are counted, not named
        """Count a row that arrived; with the last one the batch is finished."""
        self._left -= 1
        if self._left <= 0:
            self.rows.arrived(self)


Pending: TypeAlias = tuple[bytes | None, RowBatchDelivery]
"""A row on its way, and with what it travels."""


class PartitionRows:
    """One partition's rows under one lease."""

    def __init__(self, lease: Lease, store: Store, tables: Iterable[str]) -> None:
        self.lease = lease
        self.partition = lease.partition
        self._store = store
        self.pending: dict[str, dict[bytes, Pending]] = {table: {} for table in tables}
        self.looks: dict[str, Look] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return a row as it will be, once what is on its way has arrived."""
        entry = self.pending[table].get(key)
        return self._store.get(table, self.partition, key) if entry is None else entry[0]

    def arrived(self, cargo: RowBatchDelivery) -> None:
        """Take note that all rows of a batch are in the store, unless the lease ended before."""
        for table, key in cargo.keys:
            entry = self.pending[table].get(key)  # a later batch, whose rows lie over these, may be there before
            if entry is not None and entry[1] is cargo:
                del self.pending[table][key]
        self.lease.finish_all([record.offset for record in cargo.records])
        if cargo.then is not None and cargo.alive:
            cargo.then()


class TableState:
    """All that is held; `topics` names each table's changelog."""

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
        self._shelves: dict[int, PartitionRows] = {}
        self.recovered: set[int] = set()
        self.waiting_for = "the group's assignment"
        self.gaps = 0
        self.unmended: list[Gap] = []

    # -- writing

    def of(self, lease: Lease) -> PartitionRows:
        """Return the shelf of a lease; a new lease begins with what the store has."""
        shelf = self._shelves.get(lease.partition)
        if shelf is None or shelf.lease is not lease:
            self._shelves = {number: kept for number, kept in self._shelves.items() if kept.lease.alive}
            shelf = self._shelves[lease.partition] = PartitionRows(lease, self.store, self.topics)
        return shelf

    def publish(
        self,
        publisher: Publishes,
        shelf: PartitionRows,
        changes: Sequence[tuple[str, bytes, bytes | None]],
        records: Sequence[ConsumerRecord[bytes, bytes]] = (),
        then: Callable[[], None] | None = None,
    ) -> None:
        """Send changed rows on their way. Once all have arrived, the records are finished, and `then` is called.

        A tombstone says up to where the row counted that it ends: so an echo of it is known for one.
        """
        cargo = RowBatchDelivery(shelf, records, len(changes), then)
        if not changes:
            shelf.arrived(cargo)
        cargo.keys = [(table, key) for table, key, _ in changes]
        pending, topics, partition, publish = shelf.pending, self.topics, shelf.partition, publisher.publish
        for table, key, row in changes:
            headers: Headers = []
            if row is None and (there := shelf.get(table, key)) is not None:
                headers = [(OFFSET_HEADER, b"%d" % offset_of(there))]
            pending[table][key] = row, cargo
            publish(topics[table], partition, OutgoingRecord(cargo, 0, key, row, headers, _unsendable))

    def acknowledged(self, topic: str, partition: int, base: int, parcels: Sequence[OutgoingRecord]) -> None:
        """Put into the store what Kafka has acknowledged, `base` being the first one's offset, -1 if unknown.

        What a dead lease sent is left to whoever reads the changelog next.
        """
        if not parcels[-1].listener.alive:  # a batch is of one lease: those of a dead one are not filled in any more
            return
        table = self._tables[topic]
        expected = self.store.reaches(table, partition)
        if base > (expected or 0):
            logger.warning("%s-%d: offsets %s to %d are not of this worker's writing", topic, partition, expected, base)
            self.gaps += 1
            self._note_gap(Gap(table, partition, expected or 0, base))
            self.store.mark_dirty(partition)
        changes = [(parcel.key or b"", parcel.value) for parcel in parcels]
        self.store.apply(table, partition, changes, base + len(parcels) if base >= 0 else None)

    def _note_gap(self, gap: Gap) -> None:
        """Have a gap mended. One of too many is mended together with the last of its place, and our rows between."""
        numbers = [n for n, each in enumerate(self.unmended) if each[:2] == gap[:2]]
        if numbers and len(self.unmended) >= MAX_GAPS:
            self.unmended[numbers[-1]] = self.unmended[numbers[-1]]._replace(end=gap.end)
        else:
            self.unmended.append(gap)

    def fits(self, publisher: Publishes, table: str, key: bytes, size: int) -> bool:
        """Whether a row of so many bytes can be sent under this key."""
        return len(key) + size + RECORD_OVERHEAD <= publisher.limits[self.topics[table]]

    def in_possession(self, partition: int) -> PartitionRows | None:
        """Return the shelf of a partition that is held, recovered, and not being given up."""
        for lease in self._leases():
            if lease.partition == partition and self._possesses(lease):
                return self.of(lease)
        return None

    def _possesses(self, lease: Lease) -> bool:
        return lease.taking and lease.partition in self.recovered

    def forget_if_foreign(self, publisher: Publishes, lease: Lease, first: int) -> Iterator[None]:
        """Begin a partition anew if its rows are of a topic that was deleted: its lease says so, or they count further
        than its log goes, and reading, at offset `first`, began before the group's commit, or there was none. Yields
        between slices.

        Counting on would skip every result of the new one up to there. A log that only lost its end, or whose end is
        known late, is read on from the commit: its rows stay.
        """
        newest = {table: self.store.newest(table, lease.partition) for table in self.topics}
        reaches = {table: -1 if row is None else offset_of(row) for table, row in newest.items()}
        reach = max(reaches.values())
        fits = lease.end is None or reach < lease.end or (lease.resumed is not None and first >= lease.resumed)
        if reach < 0 or (fits and not lease.anew):
            return
        logger.warning("%s-%d ends at offset %s, the tables count up to %d: it is another topic of that name, and they "
                       "begin anew", lease.topic, lease.partition, lease.end, reach)  # fmt: skip
        shelf = self.of(lease)
        for table in sorted(reaches, key=reaches.__getitem__):  # should this be cut off, the next lease sees it, too
            rows = self.store.scan(table, lease.partition)
            while lease.taking and (gone := [(table, key, None) for key, _ in islice(rows, SLICE)]):
                self.publish(publisher, shelf, gone)
                yield

    # -- pruning

    def prune(self, publisher: Publishes) -> Iterator[int]:
        """Send tombstones for what is beyond the bounds, oldest first. Yields how many, table by table.

        Only rows that lie wholly behind the commit go: no replay counts again what such a row had counted. So a table
        is looked at when the commit has moved, or a row that was behind it expires; at rest it costs nothing.
        """
        for lease in list(self._leases()):
            for table, bounds in self._bounds.items():
                if not self._possesses(lease) or lease.committed is None:
                    break  # and it may be another's since the last step
                shelf, committed, now = self.of(lease), lease.committed.offset, self._clock()
                last = shelf.looks.get(table)
                if last is None or last.over(committed, now):
                    place = table, lease.partition
                    gone, shelf.looks[table] = excess(
                        self.store, place, shelf.pending[table], bounds, committed=committed, now=now
                    )
                    if gone:
                        self.publish(publisher, shelf, [(table, key, None) for key in gone])
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
