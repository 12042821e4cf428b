"""The agent: results → tables. One batch after the other; each touched row is written once a batch.

A batch's rows go to the changelogs; when Kafka has acknowledged them, its offsets are finished. The next batch is
counted meanwhile: pending rows lie over the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from aiokafka import ConsumerRecord

from agents.tables.aggregate import OUTCOMES_AGE, Aggregator
from agents.tables.result_parser import ResultParser
from streams import ticks
from streams.config.settings import Settings
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease
from streams.kafka.publisher import Publisher
from streams.tables.pruning import Bounds
from streams.tables.repair import ChangelogRepair
from streams.tables.state import TableState

logger = logging.getLogger(__name__)

SLICE, SLICE_BYTES = 250, 256 << 10
"""Results, and bytes of them, counted in one step of a few milliseconds; other tasks run between steps."""
HOSTS = 10_000
"""Hosts kept of one partition; those seen the longest ago are deleted."""
CHECKS = 1_000
"""Checks kept of one partition."""
MINUTES = 10_000
"""Minutes kept of one partition, unless their age ends them earlier."""
PRUNE_EVERY = 0.25
"""Seconds between two rounds of pruning and repair while there is something to do."""
REST = 1.0
"""The same while there is nothing to do."""


def bounds_of(settings: Settings) -> dict[str, Bounds]:
    """Return the bounds of each table."""
    return {
        "answers": Bounds(settings.answers_rows, settings.answers_age),
        "hosts": Bounds(HOSTS),
        "outcomes": Bounds(MINUTES, OUTCOMES_AGE),
        "checks": Bounds(CHECKS),
    }


class Tabulator:
    """Counts batches of results; one for each worker. `apart`: sources with a row of their own among the hosts."""

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        state: TableState,
        repair: ChangelogRepair,
        apart: frozenset[str] = frozenset(),
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._state = state
        self._repair = repair
        self._parser = ResultParser(apart)
        self._aggregators: dict[int, tuple[Lease, Aggregator]] = {}
        self.records = 0
        self.unreadable = 0
        self.pruned = 0

    async def tabulate(self, batch: RecordBatch) -> None:
        """Count a batch and publish its rows; returns early if its lease takes no more work."""
        lease, records = batch.lease, batch.records
        await self._publisher.pace()
        if lease.taking and not self._is_recovered(lease):
            for _ in self._state.forget_if_foreign(self._publisher, lease, records[0].offset):
                await asyncio.sleep(0)
                await self._publisher.pace()
        if not lease.taking:  # the partition may have another lease by now
            return
        aggregator = self._aggregator(lease)
        done = 0
        while done < len(records) and lease.taking:
            part = records[done : done + _some(records, done)]
            aggregator.add(part, time.time())
            done += len(part)
            lease.begun += len(part)
            await asyncio.sleep(0)
        if lease.alive:
            self._state.publish(
                self._publisher, self._state.of(lease), list(aggregator.changes(time.time())), records[:done]
            )
        self.records += done
        self._count_unreadable(lease, aggregator)

    async def prune(self) -> None:
        """Prune the tables and repair their changelogs, until cancelled."""
        while True:
            before = self.pruned
            await self._repair.repair(self._publisher)
            if not self._publisher.congested:
                for gone in self._state.prune(self._publisher):
                    self.pruned += gone
                    await asyncio.sleep(0)
            await ticks.sleep(PRUNE_EVERY if self.pruned > before or self._state.store.dirty else REST)

    def _is_recovered(self, lease: Lease) -> bool:
        entry = self._aggregators.get(lease.partition)
        return entry is not None and entry[0] is lease

    def _aggregator(self, lease: Lease) -> Aggregator:
        if self._is_recovered(lease):
            return self._aggregators[lease.partition][1]
        rows, publisher, state = self._state.of(lease), self._publisher, self._state

        def fits(key: bytes, size: int) -> bool:
            return state.fits(publisher, "answers", key, size)

        aggregator = Aggregator(self._parser, rows.get, fits, self._settings.answers_age)
        self._aggregators = {number: kept for number, kept in self._aggregators.items() if kept[0].alive}
        self._aggregators[lease.partition] = lease, aggregator
        return aggregator

    def _count_unreadable(self, lease: Lease, aggregator: Aggregator) -> None:
        """Count records that are not results; the first one is logged."""
        if aggregator.unreadable:
            if not self.unreadable:
                logger.warning(
                    "%s-%d: records that are not results are left out of the tables, the first %s; look at what else "
                    "writes to this topic",
                    lease.topic,
                    lease.partition,
                    aggregator.first_unreadable,
                )
            self.unreadable += aggregator.unreadable
            aggregator.unreadable = 0


def _some(records: Sequence[ConsumerRecord[bytes, bytes]], start: int) -> int:
    """Return how many records from `start` on are counted in one step: one at least."""
    size = 0
    for count, record in enumerate(records[start : start + SLICE]):
        size += len(record.value or b"")
        if size > SLICE_BYTES:
            return max(count, 1)
    return SLICE
