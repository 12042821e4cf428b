"""What a commit's metadata remembers: which topic it was made for, and what beyond the commit point is finished.

A commit point can only say "everything before me is done". One slow request would make a thousand finished ones
behind it repeat after a crash, so the commit's metadata string (KIP-211 keeps it as long as the offset) lists
what is finished beyond it. Format, ASCII:

    mr2 <owner> <cluster> <topic> [<point> <timestamp> <gap>+<run>,<gap>+<run>,…]

`owner` is a checksum of group, topic and partition, `cluster` one of the cluster's id, `topic` the topic's id
(KIP-516): a topic that was deleted and made again has another one, and neither point nor list are true of it; nor is
the list true in a mirror, whose offsets are its own. `point` is the offset, in base 36, that was committed with it: a
tool may commit another and keep the text. `timestamp` is that of the record at the commit point: a log that
was truncated has another record there, and the list is not trusted. Gaps and runs are counts of offsets in base 36,
from the commit point on. The first gap is 0 when the record at the commit point is finished itself, and only stands
there to know the log by; else it is unfinished. Version 1 named no topic: its list is not trusted. Where topics have no
ids (brokers before 2.8), nothing is written: what was finished beyond the point is repeated after a crash.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

METADATA_LIMIT = 4096
"""Bytes of metadata that a broker takes by default (`offset.metadata.max.bytes`)."""

_VERSION = "mr2"
_FORMER = "mr1 "
_TIMESTAMP = re.compile(r"[0-9]{1,19}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SIGNATURE = 4
"""Words of a signature."""
_MAX_DIGITS = 13
"""Base-36 digits of the largest offset, 2^63 - 1."""


class Identity(NamedTuple):
    """Which topic a name stands for, by ids; both empty where the broker has none."""

    cluster: str
    topic: str


class InvalidCommitMetadata(ValueError):
    """The metadata of a commit is not ours, not readable, or does not fit the log: it is ignored and counted."""


@dataclass(frozen=True, slots=True)
class CompletedOffsets:
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


def owner(group: str, topic: str, partition: int) -> str:
    """Return what a commit's metadata is signed with, so that no other partition's is taken for it."""
    return f"{group}/{topic}/{partition}"


def encode(
    owner: str,
    identity: Identity,
    point: int,
    timestamp: int,
    ranges: Iterable[tuple[int, int]],
    *,
    limit: int = METADATA_LIMIT,
) -> str:
    """Write the metadata for a commit at `point`. Ranges that no longer fit the limit are left out, from the end:
    what they hold is repeated after a crash, no more.
    """
    signature = sign(owner, identity)
    if not signature or timestamp < 0:  # a record without a timestamp cannot tell one log from another
        return signature
    head = f"{signature} {_base36(point)} {timestamp} "
    parts: list[str] = []
    room = limit - len(head)
    position = point
    for start, stop in ranges:
        part = f"{_base36(start - position)}+{_base36(stop - start)}"
        room -= len(part) + 1
        if room < 0:
            break
        parts.append(part)
        position = stop
    return head + ",".join(parts) if parts else signature


def length(metadata: str) -> int:
    """Return how many ranges were written."""
    return metadata.count("+")


def sign(owner: str, identity: Identity) -> str:
    """Return what begins the metadata of each commit for this owner; nothing for a topic without an id."""
    return f"{_VERSION} {_checksum(owner)} {_checksum(identity.cluster)} {identity.topic}" if identity.topic else ""


def cut(metadata: str) -> str:
    """Return metadata as far as a broker takes it."""
    return metadata if len(metadata) <= METADATA_LIMIT else metadata[:METADATA_LIMIT].rpartition(",")[0]


def signature(metadata: str) -> str:
    """Return metadata without its list."""
    return " ".join(metadata.split(" ")[:_SIGNATURE])


def is_void(owner: str, identity: Identity, metadata: str) -> bool:
    """Whether a commit was made for a former topic of this name in this cluster, so that its offset says nothing.

    The offset of a commit that came from another cluster was translated by the tool that mirrored it.
    """
    written, ours = metadata.split(" ")[:_SIGNATURE], sign(owner, identity).split(" ")
    return len(written) == len(ours) and written[:-1] == ours[:-1] and written[-1] != ours[-1]


def decode(owner: str, identity: Identity, point: int, metadata: str) -> CompletedOffsets | None:
    """Read a commit's metadata; None if it lists nothing. Raises InvalidCommitMetadata for that of another topic, or
    not in our format.
    """
    if not metadata or metadata.startswith(_FORMER):
        return None
    match metadata.split(" "):
        case [version, who, cluster, topic, *listed] if version == _VERSION:
            if who != _checksum(owner):
                msg = "written for another group, topic or partition"
                raise InvalidCommitMetadata(msg)
            if not topic or (cluster, topic) != (_checksum(identity.cluster), identity.topic):
                msg = "written in another cluster, or for a former topic of this name"
                raise InvalidCommitMetadata(msg)
            match listed:
                case []:
                    return None
                case [offset, timestamp, ranges] if _TIMESTAMP.fullmatch(timestamp):
                    if _number(offset) != point:
                        msg = f"written for offset {_number(offset)}, committed at {point}"
                        raise InvalidCommitMetadata(msg)
                    return CompletedOffsets(int(timestamp), tuple(_ranges(point, ranges)))
    msg = "not in our format"
    raise InvalidCommitMetadata(msg)


def trusted(
    owner: str, identity: Identity, point: int, metadata: str, *, anchor: tuple[int, int] | None, end: int | None
) -> CompletedOffsets | None:
    """Read a commit's metadata, and see that it fits the log: `anchor` is offset and timestamp of the first record from
    the commit point on, `end` the log's end, if known. Raises InvalidCommitMetadata.
    """
    found = decode(owner, identity, point, metadata)
    if found is not None and anchor != (point, found.timestamp):
        msg = "the record at the commit point is another one"
        raise InvalidCommitMetadata(msg)
    if found is not None and end is not None and found.end() > end:
        msg = f"it claims offsets up to {found.end()}, the log ends at {end}"
        raise InvalidCommitMetadata(msg)
    return found


def _ranges(point: int, text: str) -> Iterator[tuple[int, int]]:
    position = point
    for part in text.split(","):
        gap, _, run = part.partition("+")
        start = position + _number(gap)
        position = start + _number(run)
        if position == start:
            msg = f"{part[:20]!r} claims nothing"
            raise InvalidCommitMetadata(msg)
        yield start, position


def _number(digits: str) -> int:
    if not 1 <= len(digits) <= _MAX_DIGITS or not set(digits) <= set(_DIGITS):
        msg = f"{digits[:20]!r} is not a count"
        raise InvalidCommitMetadata(msg)
    return int(digits, 36)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _checksum(owner: str) -> str:
    return f"{zlib.crc32(owner.encode()):08x}"
