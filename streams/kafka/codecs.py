"""Inflates what a producer or a topic compressed, a piece at a time: Kafka limits the compressed bytes, and a batch
of 1 MiB may inflate to gigabytes.

Kafka's own frames: gzip (RFC 1952), snappy (a raw block, or xerial's blocks), lz4 (KIP-57), zstd (KIP-110, RFC 8878).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from models.errors import BrokerError

try:
    import cramjam
    import lz4.frame
    import zstandard
except ImportError as exc:
    _MSG = f"a library that inflates batches cannot be loaded: {exc}; install Millrace again with what it depends on"
    raise BrokerError(_MSG) from exc

PIECE = 1 << 20
"""Bytes that are inflated at once; of snappy, which cannot be cut, one block."""
MAX_BATCH = 256 << 20
"""Bytes to which one batch may inflate, most of which are never held: some tenths of a second of CPU."""
MAX_BLOCK = 64 << 20
"""Bytes to which one block of snappy may inflate: all of it is held."""

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
"""Codecs by their number in a batch's attributes."""

_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16
"""Bytes of the magic and two versions."""
_GZIP_WINDOW = 31
"""zlib's way to say that there is a gzip header."""


class CodecError(Exception):
    """A payload that cannot be inflated; the message says why."""


def inflate(codec: int, payload: bytes) -> Iterator[bytes]:
    """Yield a payload's bytes in pieces. Raises CodecError, perhaps after some of them.

    A payload that ends early raises nothing here: parsing its records does.
    """
    size = 0
    for piece in _pieces(codec, payload):
        size += len(piece)
        if size > MAX_BATCH:
            msg = f"it inflates to more than {MAX_BATCH >> 20} MiB"
            raise CodecError(msg)
        yield piece


def _pieces(codec: int, payload: bytes) -> Iterator[bytes]:
    match codec:
        case 0:
            yield from (payload[at : at + PIECE] for at in range(0, len(payload), PIECE))
            return
        case 1:
            pieces = _gzip(payload)
        case 2:
            pieces = _snappy(payload)
        case 3:
            pieces = _lz4(payload)
        case 4:
            pieces = _zstd(payload)
        case _:
            msg = f"its codec number {codec} is unknown to Kafka"
            raise CodecError(msg)
    try:
        yield from pieces
    except (zlib.error, zstandard.ZstdError, cramjam.DecompressionError, RuntimeError, struct.error, EOFError) as exc:
        msg = f"its {NAMES[codec]} is damaged: {exc}"  # lz4 raises RuntimeError
        raise CodecError(msg) from exc


def _gzip(payload: bytes) -> Iterator[bytes]:
    while payload:
        member = zlib.decompressobj(_GZIP_WINDOW)
        while payload and not member.eof:
            yield member.decompress(payload, PIECE)
            payload = member.unconsumed_tail
        payload = member.unused_data.lstrip(b"\0")  # as Python's gzip: there may be another, or padding


def _lz4(payload: bytes) -> Iterator[bytes]:
    while payload:
        frame = lz4.frame.LZ4FrameDecompressor()
        piece = frame.decompress(payload, PIECE)
        while piece or not (frame.eof or frame.needs_input):
            yield piece
            piece = b"" if frame.eof else frame.decompress(b"", PIECE)
        payload = frame.unused_data or b""


def _zstd(payload: bytes) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True) as reader:
        while piece := reader.read(PIECE):
            yield piece


def _snappy(payload: bytes) -> Iterator[bytes]:
    if not payload.startswith(_XERIAL):
        yield _block(payload)
        return
    at = _XERIAL_HEADER
    while at < len(payload):
        (size,) = struct.unpack_from(">i", payload, at)
        if size < 0:
            msg = "a block of negative size"
            raise EOFError(msg)
        at += 4 + size
        yield _block(payload[at - size : at])


def _block(block: bytes) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > MAX_BLOCK:
        msg = f"a block of snappy inflates to {size} bytes, more than {MAX_BLOCK >> 20} MiB"
        raise CodecError(msg)
    return bytes(cramjam.snappy.decompress_raw(block))
