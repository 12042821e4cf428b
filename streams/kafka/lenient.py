"""Reads the records of a batch, whatever a producer wrote: what cannot be read costs itself alone.

aiokafka's own parser ends at the first fault, a header name that is not UTF-8 say, with every record behind it out of
reach; and it inflates a batch at once, however much that is. Here a batch is cut into pieces of whole records, each
parsed by aiokafka, and only a piece that will not parse is looked at record by record. An ordinary batch is one piece.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter, eq
from typing import Any, NamedTuple, TypeAlias

from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.util import decode_varint, decode_varint_py, encode_varint_py

from streams.kafka.codecs import PIECE, CodecError, inflate

MAX_RECORD = 32 << 20
"""Bytes of a record that are held; of a larger one the value is left out."""
MAX_KEPT = 1 << 20
"""Bytes of the key, and of the headers, of a larger one that are kept all the same."""

HEADER = _DefaultRecordBatchPy.HEADER_STRUCT
"""A batch's header (format v2, KIP-98), whose fields these are places in."""
BASE, ATTRIBUTES, LAST_DELTA, MAX_TIMESTAMP, COUNT = 0, 5, 6, 8, 12
CODEC_MASK = _DefaultRecordBatchPy.CODEC_MASK

_offset = attrgetter("offset")
_MAX_VARINT = 10
"""Bytes of the longest; aiokafka's quick decoder reads so far, whether they are there or not."""
_NULL, _NO_HEADERS = b"\x01", b"\x00"
"""The lengths -1 and 0."""

Record: TypeAlias = Any
"""A record of aiokafka's parser: offset, timestamp, timestamp_type, key, value, checksum, headers."""


class Flaw(NamedTuple):
    """What stands for a record that cannot be read, or not all of it.

    `raw` is what there is of it, of the first of a batch the whole batch. For one that is too large `record` has
    everything but the value, which has `left_out` bytes with what is around it.
    """

    offset: int
    timestamp: int
    reason: str
    raw: bytes | None = None
    whole_batch: bool = False
    record: Record = None
    left_out: int | None = None


class _FramingError(Exception):
    """Where the next record begins is not known."""


def read_batch(batch: bytes) -> Iterator[tuple[int, Iterable[Record | Flaw]]]:
    """Yield what a batch of format v2 holds, in offset order: how many bytes were inflated and the records that they
    are, again and again. Never raises for what is in it.
    """
    fields = list(HEADER.unpack_from(batch))
    codec, count, at = fields[ATTRIBUTES] & CODEC_MASK, fields[COUNT], fields[BASE]
    whole = count == fields[LAST_DELTA] + 1  # else compaction took some
    if not codec and len(batch) <= PIECE:
        with contextlib.suppress(Exception):  # whatever it is, it is looked for below
            found: Sequence[Record | Flaw] = list(DefaultRecordBatch(batch))
            yield len(batch), _numbered(found, at) if whole else found
            return
    fields[ATTRIBUTES] &= ~CODEC_MASK  # what is parsed was inflated
    try:
        for number, piece, left_out in _Stream(inflate(codec, batch[HEADER.size :])).pieces(count):
            found = _parse(fields, number, piece, at)
            found = _numbered(found, at) if whole else found
            at = found[-1].offset + 1
            if left_out:
                yield left_out, [_too_large(each, left_out) for each in found]
            else:
                yield len(piece), found
    except (CodecError, _FramingError) as exc:
        yield len(batch), missing(batch, at, str(exc))  # perhaps of millions: none is made before it is wanted


def missing(batch: bytes, at: int, reason: str) -> Iterator[Flaw]:
    """Yield what stands for the records of a batch from an offset on: one each, if it is known how many there are."""
    fields = HEADER.unpack_from(batch)
    end = fields[BASE] + fields[LAST_DELTA] + 1
    at = max(at, fields[BASE]) if fields[COUNT] == fields[LAST_DELTA] + 1 else max(at, end - 1)
    if at < end:
        yield Flaw(at, fields[MAX_TIMESTAMP], reason, batch, whole_batch=True)
    for offset in range(at + 1, end):
        yield Flaw(offset, fields[MAX_TIMESTAMP], f"{reason}; its batch is with offset {at}")


def _numbered(found: Sequence[Record | Flaw], at: int) -> Sequence[Record | Flaw]:
    """Return records with the offsets that Kafka counts them by, from `at` on.

    A producer may number those of a batch wrongly. Kafka 4.3 takes that if it is not compressed, and a record whose
    number was there before would be taken for read.
    """
    if all(map(eq, map(_offset, found), range(at, at + len(found)))):
        return found
    return [_moved(record, offset) for offset, record in enumerate(found, at)]


def _moved(record: Record | Flaw, offset: int) -> Record | Flaw:
    if isinstance(record, Flaw):
        return record._replace(offset=offset)
    return _DefaultRecordPy(
        offset, record.timestamp, record.timestamp_type, record.key, record.value, list(record.headers)
    )


def _too_large(record: Record | Flaw, size: int) -> Flaw:
    reason = f"it has {size} bytes, and {MAX_RECORD >> 20} MiB are read of a compressed record"
    if isinstance(record, Flaw):
        return record._replace(reason=reason, left_out=size)
    return Flaw(record.offset, record.timestamp, reason, record=record, left_out=size)


def _parse(fields: list[int], number: int, piece: bytes, at: int) -> Sequence[Record | Flaw]:
    """Return the records of a piece, the first of which should be at offset `at`."""
    with contextlib.suppress(Exception):  # whatever the parser dies of
        return list(DefaultRecordBatch(_batch(fields, number, piece)))
    found: list[Record | Flaw] = []
    begin = 0
    for _ in range(number):
        size, body = decode_varint_py(piece, begin)
        record = bytearray(piece[begin : body + size])
        found.append(_parse_one(fields, record, body - begin, at))
        at = found[-1].offset + 1
        begin = body + size
    return found


def _parse_one(fields: list[int], piece: bytearray, attributes: int, at: int) -> Record | Flaw:
    raw = bytes(piece)
    if len(piece) > attributes:
        piece[attributes] = 0  # nobody has a use for them, and of a value over 127 aiokafka reads two bytes
    try:
        return _LenientBatch(_batch(fields, 1, piece))._read_msg(decode_varint_py)
    except Exception as exc:  # noqa: BLE001  whatever the parser dies of
        return Flaw(at, fields[MAX_TIMESTAMP], f"its structure is broken: {exc}", raw)


def _batch(fields: list[int], number: int, piece: bytes | bytearray) -> bytes:
    header: bytes = HEADER.pack(*fields[:COUNT], number)
    return header + piece


class _Stream:
    """Pieces of a payload as they come, cut where records end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray()
        self._taken = 0

    def pieces(self, count: int) -> Iterator[tuple[int, bytes, int | None]]:
        """Yield how many records, their bytes, and of one that is too large, and alone, how many bytes it has."""
        while count > 0:
            size, body = self._varint(0)
            if size < 0:
                msg = f"a record claims to have {size} bytes"
                raise _FramingError(msg)
            if size > MAX_RECORD:
                self._take(body)
                yield 1, self._shrink(size), size
                count -= 1
                continue
            self._need(body + size)
            number, end = self._whole(body + size, count)
            yield number, self._take(end), None
            count -= number

    def _whole(self, end: int, most: int) -> tuple[int, int]:
        """Return how many whole records are there, the first of which ends at `end`, and where the last ends."""
        buffer, number = self._buffer, 1
        limit = min(len(buffer), PIECE)  # a block of snappy is more than is parsed at once
        while number < most and end + _MAX_VARINT <= limit:
            try:
                size, body = decode_varint(buffer, end)
            except ValueError:
                break
            if not 0 <= size <= limit - body:
                break
            end = body + size
            number += 1
        return number, end

    def _shrink(self, size: int) -> bytes:
        """Return a record without its value, and without key and headers if those are too large, too."""
        begun = self._taken
        _, at = self._varint(1)  # behind the attributes
        _, at = self._varint(at)
        key, behind = self._varint(at)
        if 0 <= key <= MAX_KEPT:
            self._need(behind + key)
            kept = self._take(behind + key)
        else:
            kept = self._take(at) + _NULL
            self._drop(behind - at + max(key, 0))
        value, at = self._varint(0)
        self._drop(at + max(value, 0))
        left = begun + size - self._taken
        if left < 0:
            msg = "a record is longer than it claims"
            raise _FramingError(msg)
        if left <= MAX_KEPT:
            self._need(left)
            kept += _NULL + self._take(left)
        else:
            self._drop(left)
            kept += _NULL + _NO_HEADERS
        length = bytearray()
        encode_varint_py(len(kept), length.append)
        return bytes(length + kept)

    def _varint(self, at: int) -> tuple[int, int]:
        while True:
            try:
                found: tuple[int, int] = decode_varint_py(self._buffer, at)
            except IndexError:
                self._more()
            except ValueError as exc:
                msg = "a number has too many bytes"
                raise _FramingError(msg) from exc
            else:
                return found

    def _need(self, size: int) -> None:
        while len(self._buffer) < size:
            self._more()

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            msg = "it ends in the middle of a record"
            raise _FramingError(msg)
        self._buffer += chunk

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._taken += size
        return taken

    def _drop(self, size: int) -> None:
        self._taken += size
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer.clear()
            self._more()
        del self._buffer[:size]


class _Slice(bytearray):
    def decode(self, *_: Any) -> str:
        return super().decode("utf-8", "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Slice(found) if isinstance(found, bytearray) else found


class _LenientBatch(_DefaultRecordBatchPy):
    """aiokafka's parser in Python, for which a header name may be any bytes.

    Its `_read_msg` must be given the decoder in Python: the quick one reads wherever a length points to.
    """

    def __init__(self, buffer: bytes) -> None:
        super().__init__(buffer)
        self._buffer = _Buffer(buffer)
