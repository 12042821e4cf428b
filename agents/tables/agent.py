"""The agent: results → tables. One after the other, a batch at a time, each touched row once a batch.

A batch's rows go to the changelogs; when Kafka has acknowledged them, its offsets are finished. The next batch is
counted meanwhile: what is on its way lies over the store until then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from aiokafka import ConsumerRecord

from agents.tables.aggregate import OUTCOMES_AGE, Aggregator
from agents.tables.result_parser import ResultParser
from streams.config.settings import Settings
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease
from streams.kafka.publisher import Publisher
from streams.tables.pruning import Bounds
from streams.tables.repair import ChangelogRepair
from streams.tables.state import TableState

logger = logging.getLogger(__name__)

SLICE, SLICE_BYTES = 250, 256 << 10
"""Results counted in one go, and bytes of them: some milliseconds, between which the loop is others'."""
HOSTS = 10_000
"""Hosts kept of one partition; those seen the longest ago go."""
CHECKS = 1_000
"""Checks kept of one partition."""
MINUTES = 10_000
"""Minutes kept of one partition, should their age not end them."""
PRUNE_EVERY = 0.25
"""Seconds between two looks at what is beyond its bounds or to be mended, while there is such."""
REST = 1.0
"""The same while there is not."""


def bounds_of(settings: Settings) -> dict[str, Bounds]:
    """Return what each table keeps."""
    return {
        "answers": Bounds(settings.answers_rows, settings.answers_age),
        "hosts": Bounds(HOSTS),
        "outcomes": Bounds(MINUTES, OUTCOMES_AGE),
        "checks": Bounds(CHECKS),
    }


class Tabulator:
    """Counts batches of results; one for each worker."""

    def __init__(self, settings: Settings, publisher: Publisher, shelves: TableState, mending: ChangelogRepair) -> None:
        self._settings = settings
        self._publisher = publisher
        self._shelves = shelves
        self._mending = mending
        self._reader = ResultParser()
        self._aggregators: dict[int, tuple[Lease, Aggregator]] = {}
        self.records = 0
        self.unreadable = 0
        self.pruned = 0

    async def tabulate(self, batch: RecordBatch) -> None:
        """Count a batch and send its rows on their way; returns early if its lease takes no more work."""
        lease, records = batch.lease, batch.records
        await self._publisher.pace()
        if lease.taking and not self._is_recovered(lease):
            for _ in self._shelves.forget_if_foreign(self._publisher, lease, records[0].offset):
                await asyncio.sleep(0)
                await self._publisher.pace()
        if not lease.taking:  # and the partition may be another lease's by now
            return
        tally = self._aggregator(lease)
        done = 0
        while done < len(records) and lease.taking:
            part = records[done : done + _some(records, done)]
            tally.add(part, time.time())
            done += len(part)
            lease.begun += len(part)
            await asyncio.sleep(0)
        if lease.alive:
            self._shelves.publish(
                self._publisher, self._shelves.of(lease), list(tally.changes(time.time())), records[:done]
            )
        self.records += done
        self._write(lease, tally)

    async def prune(self) -> None:
        """Keep the tables within their bounds and their changelogs in order, for ever."""
        while True:
            before = self.pruned
            await self._mending.repair(self._publisher)
            if not self._publisher.congested:
                for gone in self._shelves.prune(self._publisher):
                    self.pruned += gone
                    await asyncio.sleep(0)
            await asyncio.sleep(PRUNE_EVERY if self.pruned > before or self._shelves.store.dirty else REST)

    def _is_recovered(self, lease: Lease) -> bool:
        known = self._aggregators.get(lease.partition)
        return known is not None and known[0] is lease

    def _aggregator(self, lease: Lease) -> Aggregator:
        if self._is_recovered(lease):
            return self._aggregators[lease.partition][1]
        shelf = self._shelves.of(lease)
        publisher, shelves = self._publisher, self._shelves

        def fits(key: bytes, size: int) -> bool:
            return shelves.fits(publisher, "answers", key, size)

        tally = Aggregator(self._reader, shelf.get, fits, self._settings.answers_age)
        self._aggregators = {number: kept for number, kept in self._aggregators.items() if kept[0].alive}
        self._aggregators[lease.partition] = lease, tally
        return tally

    def _write(self, lease: Lease, tally: Aggregator) -> None:
        """Count what was no result; say so in the log once a lease."""
        if tally.unreadable:
            if not self.unreadable:
                logger.warning("%s-%d: records that are no results are left out, the first %s",
                               lease.topic, lease.partition, tally.first_unreadable)  # fmt: skip
            self.unreadable += tally.unreadable
            tally.unreadable = 0


def _some(records: Sequence[ConsumerRecord[bytes, bytes]], start: int) -> int:
    """Return how many records from `start` on are counted in one go: one at least."""
    size = 0
    for count, record in enumerate(records[start : start + SLICE]):
        size += len(record.value or b"")
        if size > SLICE_BYTES:
            return max(count, 1)
    return SLICE
