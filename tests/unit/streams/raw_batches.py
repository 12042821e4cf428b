"""Batches as a producer of any kind may write them, byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from aiokafka.record._crc32c import crc as crc32c
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import decode_varint_py

HEADER = struct.Struct(">qiibIhiqqqhii")
COUNT, ATTRIBUTES, LAST_DELTA = 12, 5, 6


class Name(str):
    """A header name that goes over the wire as bytes of its own."""

    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> Name:
        name = super().__new__(cls, "x")
        name.raw = raw
        return name

    def encode(self, *_) -> bytes:
        return self.raw


def batch(*records, codec: int = 0, timestamp: int = 1000, offset: int = 0) -> bytes:
    """Return a batch of (key, value, headers)."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 1 << 30)
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, timestamp, key, value, headers)
    return changed(bytes(builder.build()), {0: offset})


def changed(raw: bytes, fields: dict[int, int], payload: bytes | None = None) -> bytes:
    """Return a batch with other header fields, another payload, and the checksum that fits."""
    header = list(HEADER.unpack_from(raw))
    for place, value in fields.items():
        header[place] = value
    body = raw[HEADER.size :] if payload is None else payload
    header[1] = HEADER.size - 12 + len(body)
    checked = HEADER.pack(*header)[21:] + body
    header[4] = crc32c(checked)
    return HEADER.pack(*header) + body


def bodies(payload: bytes) -> list[int]:
    """Return where the attributes of each record are: behind its length; a byte of time and the number follow."""
    found, at = [], 0
    while at < len(payload):
        size, body = decode_varint_py(payload, at)
        found.append(body)
        at = body + size
    return found


def legacy(codec: int, value: bytes, *, magic: int = 1, key: bytes | None = None) -> bytes:
    """Return one message of format v0 or v1, whose value is compressed already if it says so."""
    stamp = struct.pack(">q", 1000) if magic else b""
    sized = struct.pack(">i", -1) if key is None else struct.pack(">i", len(key)) + key
    body = struct.pack(">bb", magic, codec) + stamp + sized + struct.pack(">i", len(value)) + value
    message = struct.pack(">I", zlib.crc32(body)) + body
    return struct.pack(">qi", 0, len(message)) + message


def flat(found) -> Sequence:
    """Return the records of what was read."""
    return [record for _, records in found for record in records]
