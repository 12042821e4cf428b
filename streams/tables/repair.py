"""Writes our rows again where a changelog's latest record of a key is not ours.

A former owner that does not know yet that it lost a partition may still write to it: a process that was frozen, or a
batch that was under way. Its rows count less far than the holder's, and stand behind them; compaction would keep
them. The holder notices by a gap in the offsets of what it writes itself, and whoever recovers by a row that counts
less far than one before it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from aiokafka import TopicPartition

from models.errors import BrokerError
from streams.config.settings import Settings
from streams.tables.pruning import AT_ONCE
from streams.tables.recovery import Place, rows_between
from streams.tables.state import Gap, PartitionRows, Publishes, TableState
from streams.tables.store import mark

logger = logging.getLogger(__name__)


class ChangelogRepair:
    """What is to be written again. `mend` is called now and then, `begin_anew` before each recovery."""

    def __init__(self, settings: Settings, shelves: TableState) -> None:
        self._settings = settings
        self._shelves = shelves
        self._overwritten: dict[Place, set[bytes]] = {}
        self._lost: set[int] = set()
        self.rewritten = 0

    def begin_anew(self, partitions: Collection[int]) -> None:
        """Forget what was noted: of a partition where something was still to be mended, all is read again."""
        for partition in self._shelves.store.dirty & set(partitions):
            self._shelves.store.drop(partition)
        self._overwritten.clear()
        self._lost.clear()
        self._shelves.unmended.clear()

    def note(self, overwritten: Mapping[Place, Collection[bytes]]) -> None:
        """Take note of keys whose latest record is not ours."""
        for place, keys in overwritten.items():
            if keys:
                self._overwritten.setdefault(place, set()).update(keys)
                self._shelves.store.mark_dirty(place[1])

    async def repair(self, publisher: Publishes) -> None:
        """Look into gaps, and write what is ours again."""
        shelves = self._shelves
        for gap in list(shelves.unmended):
            if shelves.in_possession(gap.partition) is not None:
                await self._look(gap)
        for (table, partition), keys in list(self._overwritten.items()):
            shelf = shelves.in_possession(partition)
            if shelf is not None and not publisher.congested:
                on_its_way = shelf.pending[table]
                self._rewrite(publisher, shelf, table, [*islice((k for k in keys if k not in on_its_way), AT_ONCE)])
        if not shelves.waiting_for:  # a recovery notes at its end what it made doubtful
            noted = {place[1] for place in self._overwritten} | {gap.partition for gap in shelves.unmended}
            for partition in shelves.store.dirty - noted - self._lost:
                shelves.store.mark_clean(partition)

    async def _look(self, gap: Gap) -> None:
        settings = self._settings
        topic = TopicPartition(self._shelves.topics[gap.table], gap.partition)
        try:
            rows = await rows_between(settings.kafka, settings.worker_id, topic, gap.start, gap.end)
        except (BrokerError, TimeoutError) as exc:
            logger.warning("%s-%d: offsets %d to %d cannot be read, trying again: %s", *topic, gap.start, gap.end, exc)
            return
        shelf = self._shelves.in_possession(gap.partition)
        if shelf is None or gap not in self._shelves.unmended:
            return  # a recovery came in between, or will: it reads all of it
        self._shelves.unmended.remove(gap)
        if rows is None:
            logger.warning("%s-%d ends before offset %d: it is read again at the next recovery", *topic, gap.end)
            self._lost.add(gap.partition)
            return
        marks = [found for row in rows.values() if row is not None and (found := mark(row)) is not None]
        if any(found.offset >= (shelf.lease.position or 0) for found in marks):
            logger.warning("%s-%d is another worker's now: it counts further than this one has read", *topic)
            self._lost.add(gap.partition)
            return
        self.note({(gap.table, gap.partition): rows})

    def _rewrite(self, publisher: Publishes, shelf: PartitionRows, table: str, keys: Sequence[bytes]) -> None:
        if not keys:
            return
        place = table, shelf.partition

        def arrived() -> None:
            self.rewritten += len(keys)
            left = self._overwritten.get(place, set()).difference(keys)
            if left:
                self._overwritten[place] = left
            else:
                self._overwritten.pop(place, None)

        logger.warning("%s: %d rows of partition %d are written again", table, len(keys), shelf.partition)
        self._shelves.publish(publisher, shelf, [(table, key, shelf.get(table, key)) for key in keys], then=arrived)
