"""Reading records whose header names are not UTF-8.

A producer may write any bytes as a header's name; the broker does not look. aiokafka's parser raises
UnicodeDecodeError in the middle of the batch, and every record after it in that batch is out of reach, so one such
record would end every worker in turn. Once one was met, batches are read for a while by aiokafka's own pure-Python
parser with names decoded leniently: some 15 µs a record dearer, which is why it is not always so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

LENIENT_FOR = 60.0
"""Seconds that batches are read leniently after one needed it."""
NOT_YET = 0.05
"""Seconds until positions are looked for again, while a consumer that has just started has none."""
MAGIC_OFFSET, MAGIC_V2 = 16, 2
"""Where a batch says its format, and the format that has headers (KIP-82)."""

_strict_after = 0.0


def begin() -> None:
    """Read leniently from the next fetch on."""
    global _strict_after  # noqa: PLW0603  what it governs is a name of aiokafka's module, one for the process
    _strict_after = time.monotonic() + LENIENT_FOR
    fetcher.MemoryRecords = LenientRecords


def end_if_over() -> None:
    """Go back to the quick parser once the time is over."""
    if fetcher.MemoryRecords is LenientRecords and time.monotonic() >= _strict_after:
        fetcher.MemoryRecords = MemoryRecords


async def getmany(
    consumer: AIOKafkaConsumer, *tps: TopicPartition, timeout_ms: int, max_records: int | None = None
) -> Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]]:
    """Return what a poll brings; nothing where it met such a record: the next poll reads all of that again."""
    end_if_over()
    at = _positions(consumer, tps)
    if not at:
        await asyncio.sleep(NOT_YET)
        return {}
    try:
        polled: Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]] = await consumer.getmany(
            *at, timeout_ms=timeout_ms, max_records=max_records
        )
    except UnicodeDecodeError:  # what was fetched with it is lost, of other partitions too
        begin()
        for tp, offset in at.items():
            consumer.seek(tp, offset)
        return {}
    return polled


def _positions(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Return where reading goes on, of those partitions (none given: all) of which that is known."""
    subscription = consumer._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None:
        return {}
    states = {tp: assignment.state_value(tp) for tp in tps or assignment.tps}
    return {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}


class _Slice(bytearray):
    def decode(self, *_: Any) -> str:
        return super().decode("utf-8", "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        found = super().__getitem__(key)
        return _Slice(found) if isinstance(found, bytearray) else found


class _LenientBatch(_DefaultRecordBatchPy):
    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Buffer(self._buffer)


class LenientRecords:
    """A stand-in for aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self._records = _MemoryRecordsPy(data)

    def size_in_bytes(self) -> int:
        """Return how many bytes there are."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Whether there is another whole batch."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch."""
        raw = self._records._next_slice
        batch = self._records.next_batch()
        return _LenientBatch(raw) if raw is not None and raw[MAGIC_OFFSET] >= MAGIC_V2 else batch
