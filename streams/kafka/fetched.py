"""What consumers fetched, as it is handed on: a poll never fails for what records hold, and never brings too much.

This replaces two classes of aiokafka, for every consumer of the process; see streams/kafka/transport.py. In place of
what cannot be read comes an `Unreadable`, which to most is a record without key, value and headers.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordPy
from aiokafka.record.legacy_records import _LegacyRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from streams.kafka.codecs import CodecError, inflate
from streams.kafka.lenient import (
    ATTRIBUTES,
    BASE,
    CODEC_MASK,
    HEADER,
    LAST_DELTA,
    MAX_RECORD,
    Flaw,
    Record,
    missing,
    read_batch,
)

logger = logging.getLogger(__name__)

MAX_POLL_BYTES = 32 << 20
"""Bytes of records that one poll brings, by what they are inflated to, and one record or piece more."""
FETCH_TRIES = 3
"""How often a batch with a wrong checksum is fetched: it may have been damaged on its way."""

NO_TIMESTAMP = -1
"""What Kafka writes for a timestamp that nobody gave."""

MAGIC, V2 = 16, 2
"""Where a batch says its format, and the one that has headers and offsets of its own (KIP-98)."""
_LEGACY_ATTRIBUTES = 17
_LEGACY_SIZES = 8
"""Bytes of the lengths of key and value."""
Found: TypeAlias = Iterator[tuple[int, Iterable[Record | Flaw]]]

unreadable: Counter[str] = Counter()
"""How many records could not be read, or not whole, by topic."""


@dataclass
class Unreadable(ConsumerRecord[bytes, bytes]):
    """Stands for a record that cannot be read, or not whole: `reason` says why, `raw` is what there is of it.

    Key, value and headers are None and empty, so that nobody takes it for a tombstone; `sent_key` and `sent_headers`
    are what could be read of them. With `whole_batch` `raw` is the batch that the record is in. A value that was left
    out, being too large, has `left_out` bytes, with what is around it.
    """

    reason: str = ""
    raw: bytes | None = None
    whole_batch: bool = False
    left_out: int | None = None
    sent_key: bytes | None = None
    sent_headers: tuple[tuple[str, bytes | None], ...] = ()

    def sent(self) -> ConsumerRecord[bytes, bytes]:
        """Return what was sent, as far as it could be read; in place of an unreadable value its raw bytes."""
        return ConsumerRecord(
            self.topic, self.partition, self.offset, self.timestamp, self.timestamp_type, self.sent_key, self.raw, None,
            -1, -1, self.sent_headers,
        )  # fmt: skip


class PartitionRecords(fetcher.PartitionRecords):
    """The records of one fetch and partition: aiokafka's, but that no batch ends the iteration by an error.

    `served` counts the bytes of what was begun, `inflating` says whether it is of a batch that is being inflated.
    """

    served = 0
    inflating = False
    next_fetch_offset: int

    def __init__(self, tp: TopicPartition, *args: Any) -> None:
        super().__init__(tp, *args)
        unreadable.setdefault(tp.topic, 0)  # reported before it grows, so that growth is seen

    def __iter__(self) -> Iterator[ConsumerRecord[bytes, bytes]]:
        return self._records_iterator or iter(())

    def _unpack_records(self) -> Iterator[ConsumerRecord[bytes, bytes]]:
        batches = self._records
        topic, partition = self._tp
        while batches.has_next():
            raw = bytes(batches._next_slice)
            found, end = self._read(batches.next_batch(), raw)
            if end == self.next_fetch_offset:
                return  # it is fetched again
            reported = False
            for size, records in found:
                self.served += size
                for record in records:
                    if record.offset < self.next_fetch_offset:
                        continue
                    self.next_fetch_offset = record.offset + 1
                    if isinstance(record, Flaw):
                        reported = reported or self._report(record, end)
                        yield self._unreadable(record)
                        continue
                    key, value = record.key, record.value
                    yield ConsumerRecord(  # without a call of aiokafka's, which would be paid per record
                        topic, partition, record.offset, record.timestamp, record.timestamp_type, key, value,
                        record.checksum, -1 if key is None else len(key), -1 if value is None else len(value),
                        tuple(record.headers),
                    )  # fmt: skip
            self.inflating = False
            self.next_fetch_offset = end

    def _read(self, batch: Any, raw: bytes) -> tuple[Found, int]:
        """Return the records of a batch and where the next one begins: here, if it is to be fetched again."""
        if self._check_crcs and not batch.validate_crc():
            return self._damaged(raw) if self._is_damaged_for_good() else (iter(()), self.next_fetch_offset)
        if self._is_skipped(batch):
            return iter(()), batch.next_offset
        if raw[MAGIC] < V2:
            return self._legacy(batch, raw), batch.next_offset
        self.inflating = bool(HEADER.unpack_from(raw)[ATTRIBUTES] & CODEC_MASK)
        return read_batch(raw), batch.next_offset

    def _is_skipped(self, batch: Any) -> bool:
        """Whether it is a control batch, or of a transaction that was aborted."""
        if self._isolation_level == fetcher.READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)

    def _contains_abort_marker(self, batch: Any) -> bool:
        try:
            return bool(super()._contains_abort_marker(batch))
        except Exception:  # noqa: BLE001  a marker that no Kafka writes
            return False

    def _is_damaged_for_good(self) -> bool:
        """Whether the batch at this offset had a wrong checksum each time."""
        offset, tries = _tries.get(self._tp, (-1, 0))
        tries = tries + 1 if offset == self.next_fetch_offset else 1
        _tries[self._tp] = self.next_fetch_offset, tries
        return tries >= FETCH_TRIES

    def _damaged(self, raw: bytes) -> tuple[Found, int]:
        """Return what stands for the records of a batch whose header may be wrong, too, and where the next begins."""
        at, following = self.next_fetch_offset, self._records._next_slice
        reason = "its batch has a wrong checksum"
        if following is not None:
            end: int = HEADER.unpack_from(following)[BASE] if following[MAGIC] >= V2 else at + 1
        else:
            end = at + 1
        if raw[MAGIC] >= V2 and HEADER.unpack_from(raw)[BASE] + HEADER.unpack_from(raw)[LAST_DELTA] + 1 == end:
            return iter([(len(raw), missing(raw, at, reason))]), end
        return iter([(len(raw), [Flaw(at, NO_TIMESTAMP, reason, raw, whole_batch=True)])]), max(end, at + 1)

    def _legacy(self, batch: Any, raw: bytes) -> Found:
        """Yield what a batch of format v0 or v1 holds, which Kafka 4 no longer takes and may still have."""
        try:
            _check_size(raw)
            found: list[Record | Flaw] = [_with_timestamp(record) for record in batch]
        except Exception as exc:  # noqa: BLE001  whatever the parser dies of
            found = [Flaw(batch.next_offset - 1, NO_TIMESTAMP, str(exc), raw, whole_batch=True)]
        yield len(raw), found

    def _unreadable(self, flaw: Flaw) -> Unreadable:
        unreadable[self._tp.topic] += 1
        key = headers = None
        if flaw.record is not None:
            key, headers = flaw.record.key, flaw.record.headers
        return Unreadable(
            self._tp.topic, self._tp.partition, flaw.offset, flaw.timestamp, 0, None, None, None, -1, -1, (),
            flaw.reason, flaw.raw, flaw.whole_batch, flaw.left_out, key, tuple(headers or ()),
        )  # fmt: skip

    def _report(self, flaw: Flaw, end: int) -> bool:
        """Log, once a batch, what is wrong with it."""
        logger.warning("%s-%d offset %d, of a batch that ends before %d, cannot be read: %s",
                       self._tp.topic, self._tp.partition, flaw.offset, end, flaw.reason)  # fmt: skip
        return True


class FetchResult(fetcher.FetchResult):
    """aiokafka's, but that a poll ends when all partitions together have brought MAX_POLL_BYTES, if `begin_poll` was
    called before it, else when each has brought its share of them.
    """

    _partition_records: PartitionRecords | None

    def getall(self, max_records: int | None = None) -> list[ConsumerRecord[bytes, bytes]]:
        """Return the next records: one at least, if there is one."""
        records = self._partition_records
        if not self.check_assignment(self._topic_partition) or records is None:
            return []
        room = getattr(self._assignment, "room", None)
        if room is not None and room <= 0:
            return []  # at the next poll
        starts = getattr(self._assignment, "starts", None)
        if starts is not None:
            starts.setdefault(self._topic_partition, records.next_fetch_offset)
        begun = records.served
        stop = begun + (MAX_POLL_BYTES // max(1, len(self._assignment.tps)) if room is None else room)
        taken: list[ConsumerRecord[bytes, bytes]] = []
        for record in records:
            taken.append(record)
            if len(taken) == max_records or records.served >= stop:
                self._update_position()
                break
        else:
            self._update_position()
            self._partition_records = None
        if room is not None:
            self._assignment.room = room - (records.served - begun)
        return taken


def begin_poll(consumer: Any, wanted: Collection[TopicPartition], kept: int | None = None) -> dict[TopicPartition, int]:
    """Bound what the next poll brings, and inflates, which holds up the heartbeats meanwhile. Returns where it begins
    to read, by partition: filled in as it reads. `kept`: bytes that all partitions together may keep for long, of which
    a poll brings the share of one at most.

    The partition that came first comes last, so that none holds up the others. Batches half inflated in partitions
    that are not read for now are let go, and fetched again.
    """
    starts: dict[TopicPartition, int] = {}
    subscription = consumer._subscription.subscription
    if subscription is not None and subscription.assignment is not None:
        share = MAX_POLL_BYTES if kept is None else kept // max(1, len(subscription.assignment.tps))
        subscription.assignment.room = max(1, min(MAX_POLL_BYTES, share))
        subscription.assignment.starts = starts
    pending = consumer._fetcher._records
    for tp in [tp for tp, found in pending.items() if tp not in wanted and _holds_much(found)]:
        del pending[tp]
    if pending:
        pending.move_to_end(next(iter(pending)))
    return starts


def _holds_much(found: Any) -> bool:
    if not isinstance(found, FetchResult) or found._partition_records is None:
        return False
    return found._partition_records.inflating


def _check_size(raw: bytes) -> None:
    """Raise CodecError if what one legacy record wraps is damaged, or inflates to more than is held at once."""
    codec = raw[_LEGACY_ATTRIBUTES] & CODEC_MASK
    if codec:
        at = _LegacyRecordBatchPy.KEY_OFFSET_V1 if raw[MAGIC] else _LegacyRecordBatchPy.KEY_OFFSET_V0
        (key_size,) = struct.unpack_from(">i", raw, at)
        if sum(map(len, inflate(codec, raw[at + max(key_size, 0) + _LEGACY_SIZES :]))) > MAX_RECORD:
            msg = f"it inflates to more than {MAX_RECORD >> 20} MiB"
            raise CodecError(msg)


def _with_timestamp(record: Record) -> Record:
    """Return a legacy record with a timestamp, which v0 has not."""
    timestamp = NO_TIMESTAMP if record.timestamp is None else record.timestamp
    return _DefaultRecordPy(record.offset, timestamp, record.timestamp_type or 0, record.key, record.value, [])


_tries: dict[TopicPartition, tuple[int, int]] = {}

fetcher.MemoryRecords = _MemoryRecordsPy
fetcher.PartitionRecords = PartitionRecords
fetcher.FetchResult = FetchResult
