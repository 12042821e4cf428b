"""Writes a row again where the changelog's latest record of its key is another worker's.

A former owner that has not noticed the loss of a partition may still write to it: a process that was frozen, or a batch
in flight. Its rows cover fewer results than the owner's, but come after them, and compaction would keep them. The owner
notices a gap in the offsets of its own records; a recovery notices a row that covers fewer results than an earlier one.
Of a changelog that lost its end, or was made again, the holder writes all rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from aiokafka import TopicPartition

from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka.publisher import Publisher
from streams.tables.pruning import AT_ONCE
from streams.tables.recovery import Place, rows_between
from streams.tables.state import Gap, PartitionRows, TableState
from streams.tables.store import mark

logger = logging.getLogger(__name__)


class ChangelogRepair:
    """Notes what is to be written again. `repair` is called periodically, `begin_anew` before each recovery."""

    def __init__(self, settings: Settings, state: TableState) -> None:
        self._settings = settings
        self._state = state
        self._overwritten: dict[Place, set[bytes]] = {}
        self._lost: set[int] = set()
        self.rewritten = 0

    def begin_anew(self, partitions: Collection[int]) -> None:
        """Forget all notes; a partition with unrepaired rows is dropped, so that all of it is read again."""
        for partition in self._state.store.dirty & set(partitions):
            self._state.store.drop(partition)
        self._overwritten.clear()
        self._lost.clear()
        self._state.gaps_to_repair.clear()
        self._state.truncated.clear()

    def note(self, overwritten: Mapping[Place, Collection[bytes]]) -> None:
        """Note keys whose latest record is another worker's."""
        for place, keys in overwritten.items():
            if keys:
                self._overwritten.setdefault(place, set()).update(keys)
                self._state.store.mark_dirty(place[1])

    async def repair(self, publisher: Publisher) -> None:
        """Read what is in the gaps, and write our rows again."""
        state = self._state
        for gap in list(state.gaps_to_repair):
            if state.in_possession(gap.partition) is not None:
                await self._look(gap)
        for place in list(state.truncated):
            await self._note_all(place)
        for (table, partition), keys in list(self._overwritten.items()):
            rows = state.in_possession(partition)
            if rows is not None and not publisher.congested:
                pending = rows.pending[table]
                self._rewrite(publisher, rows, table, [*islice((k for k in keys if k not in pending), AT_ONCE)])
        if not state.waiting_for:  # a recovery adds its notes at its end
            noted = {place[1] for place in self._overwritten} | {gap.partition for gap in state.gaps_to_repair}
            for partition in state.store.dirty - noted - self._lost:
                state.store.mark_clean(partition)

    async def _note_all(self, place: Place) -> None:
        """Note all rows that the changelog may lack: whoever recovers has them from nowhere else."""
        table, partition = place
        if self._state.in_possession(partition) is None:
            return
        self._state.truncated.discard(place)
        rows = self._state.store.scan(table, partition)
        while keys := [key for key, _ in islice(rows, AT_ONCE)]:
            self._overwritten.setdefault(place, set()).update(keys)  # not dirty: the rows here are right
            await asyncio.sleep(0)

    async def _look(self, gap: Gap) -> None:
        settings = self._settings
        topic = TopicPartition(self._state.topics[gap.table], gap.partition)
        try:
            rows = await rows_between(settings.kafka, settings.worker_id, topic, gap.start, gap.end)
        except (BrokerError, TimeoutError) as exc:
            logger.warning("%s-%d: cannot read offsets %d to %d, which another worker wrote; rows stay as they "
                           "are, and the worker retries: %s", *topic, gap.start, gap.end, exc)  # fmt: skip
            return
        held = self._state.in_possession(gap.partition)
        if held is None or gap not in self._state.gaps_to_repair:
            return  # a recovery has read all of it, or will
        self._state.gaps_to_repair.remove(gap)
        if rows is None:
            logger.warning(
                "%s-%d ends before offset %d: the changelog was truncated or created again; all rows are written "
                "again, no action is needed",
                *topic,
                gap.end,
            )
            self._state.truncated.add((gap.table, gap.partition))
            return
        marks = [found for row in rows.values() if row is not None and (found := mark(row)) is not None]
        if any(found.offset >= (held.lease.position or 0) for found in marks):
            logger.warning(
                "%s-%d: another worker owns the partition now and has counted further; this one stops repairing "
                "it, no action is needed",
                *topic,
            )
            self._lost.add(gap.partition)
            return
        self.note({(gap.table, gap.partition): rows})

    def _rewrite(self, publisher: Publisher, rows: PartitionRows, table: str, keys: Sequence[bytes]) -> None:
        if not keys:
            return
        place = table, rows.partition

        def arrived() -> None:
            self.rewritten += len(keys)
            left = self._overwritten.get(place, set()).difference(keys)
            if left:
                self._overwritten[place] = left
            else:
                self._overwritten.pop(place, None)

        logger.warning(
            "%s: a former owner overwrote %d rows of partition %d; they are written again, no action is needed",
            table,
            len(keys),
            rows.partition,
        )
        self._state.publish(publisher, rows, [(table, key, rows.get(table, key)) for key in keys], then=arrived)
