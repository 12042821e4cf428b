"""What a commit's metadata remembers: the offsets beyond the commit point that are finished.

A commit point can only say "everything before me is done". One slow request would make a thousand finished ones
behind it repeat after a crash, so the commit's metadata string (KIP-211 keeps it as long as the offset) lists
what is finished beyond it. Format, ASCII:

    mr1 <owner> <timestamp> <gap>+<run>,<gap>+<run>,…

`owner` is a checksum of group, topic and partition. `timestamp` is that of the record at the commit point: a log that
was truncated or recreated has another record there, and the list is not trusted. Gaps and runs are counts of offsets
in base 36, from the commit point on. The first gap is 0 when the record at the commit point is finished itself, and
only stands there to know the log by; else it is unfinished.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

METADATA_LIMIT = 4096
"""Bytes of metadata that a broker takes by default (`offset.metadata.max.bytes`)."""

_VERSION = "mr1"
_TIMESTAMP = re.compile(r"[0-9]{1,19}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MAX_DIGITS = 13
"""Base-36 digits of the largest offset, 2^63 - 1."""


class UntrustedMemo(ValueError):
    """The metadata of a commit is not ours, not readable, or does not fit the log: it is ignored and counted."""


@dataclass(frozen=True, slots=True)
class Memo:
    """Finished offsets beyond a commit point as ascending, half-open ranges, and how to know the log again."""

    timestamp: int
    ranges: tuple[tuple[int, int], ...]

    def end(self) -> int:
        """Return the offset after the last one claimed."""
        return self.ranges[-1][1] if self.ranges else 0

    def beyond(self, offset: int) -> Iterator[tuple[int, int]]:
        """Yield what is claimed from `offset` on."""
        return ((max(start, offset), stop) for start, stop in self.ranges if stop > offset)

    def __contains__(self, offset: int) -> bool:
        place = bisect_right(self.ranges, offset, key=lambda run: run[0]) - 1
        return place >= 0 and offset < self.ranges[place][1]


def encode(owner: str, point: int, timestamp: int, ranges: Iterable[tuple[int, int]]) -> str:
    """Write the metadata for a commit at `point`. Ranges that no longer fit the limit are left out, from the end:
    what they hold is repeated after a crash, no more.
    """
    if timestamp < 0:  # a record without a timestamp cannot tell one log from another
        return ""
    head = f"{_VERSION} {_checksum(owner)} {timestamp} "
    parts: list[str] = []
    room = METADATA_LIMIT - len(head)
    position = point
    for start, stop in ranges:
        part = f"{_base36(start - position)}+{_base36(stop - start)}"
        room -= len(part) + 1
        if room < 0:
            break
        parts.append(part)
        position = stop
    return head + ",".join(parts) if parts else ""


def length(metadata: str) -> int:
    """Return how many ranges were written."""
    return metadata.count("+")


def decode(owner: str, point: int, metadata: str) -> Memo | None:
    """Read a commit's metadata; None if it says nothing. Raises UntrustedMemo for what is not ours or not readable."""
    if not metadata:
        return None
    match metadata.split(" "):
        case [version, checksum, timestamp, ranges] if version == _VERSION and _TIMESTAMP.fullmatch(timestamp):
            if checksum != _checksum(owner):
                msg = "written for another group, topic or partition"
                raise UntrustedMemo(msg)
            return Memo(int(timestamp), tuple(_ranges(point, ranges)))
    msg = "not in our format"
    raise UntrustedMemo(msg)


def _ranges(point: int, text: str) -> Iterator[tuple[int, int]]:
    position = point
    for part in text.split(","):
        gap, _, run = part.partition("+")
        start = position + _number(gap)
        position = start + _number(run)
        if position == start:
            msg = f"{part[:20]!r} claims nothing"
            raise UntrustedMemo(msg)
        yield start, position


def _number(digits: str) -> int:
    if not 1 <= len(digits) <= _MAX_DIGITS or not set(digits) <= set(_DIGITS):
        msg = f"{digits[:20]!r} is no count"
        raise UntrustedMemo(msg)
    return int(digits, 36)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _checksum(owner: str) -> str:
    return f"{zlib.crc32(owner.encode()):08x}"
