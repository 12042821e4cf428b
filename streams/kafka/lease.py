"""A lease: our hold on one assigned partition for one generation of the group.

It knows which delivered offsets are unfinished, hence how far the commit may go: to the first unfinished one, or,
with none, to where reading goes on. Compacted topics and transaction markers leave holes, so it counts delivered
records, never the integers between their offsets.

    delivered ──begin──► in progress ──finish──► finished        (revoke: what finishes later changes nothing)
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeVar

from streams.kafka import commit_metadata
from streams.kafka.commit_metadata import CompletedOffsets, Identity, InvalidCommitMetadata

logger = logging.getLogger(__name__)


class Record(Protocol):
    """What a lease reads of a consumed record."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102


R = TypeVar("R", bound=Record)
SPARE = 1_024
"""Finished records among the unfinished ones that are kept until they are swept out together."""
UNKNOWN = Identity("", "")
UNLIMITED = 1 << 62
TRIED = 16
"""Commits that a lease remembers to have sent."""


class CommitPoint(NamedTuple):
    """What a commit says of one partition: the next offset to read, and what beyond it is finished."""

    offset: int
    metadata: str


class Member(NamedTuple):
    """Who we are to the group during one generation: the broker refuses a transaction's offsets from any other."""

    generation: int
    id: str


class Lease:
    """See the module. Not thread-safe: it lives on the event loop of the agents.

    `position` is the next offset that will be delivered; None until it is known, and then `start` is where reading is
    to begin. `begun` counts up when work on a delivered record starts: a drain waits for what was begun, not for what
    was only delivered. `work` holds the tasks started for it, which end with the lease. `point` is how far the commit
    may go, `committed` what the broker last took, `resumed` where that was when the lease began, `finished` how many
    were finished, `end` where the log ended when last heard of, `identity` which topic it is of. `anew` says that
    what was committed, or read by a lease before, is of a former topic of this name: nothing is committed then before
    something is finished. `tried` are the last commits that were sent, whatever became of them. `bytes` is the size
    of the large records that are unfinished, `rests` that no more is to be polled for now, `unremembered` how many
    finished ones the metadata had no room for when it was last written. `keys` has the records that wait for an
    earlier one of their key (streams/kafka/key_order.py), `held` is how many they are. `member` is who offsets in
    transactions are committed by, None without transactions.
    """

    __slots__ = (
        "_completed", "_count", "_delivered", "_drained", "_dropped", "_large", "_last", "_metadata", "_unfinished",
        "_waiting", "alive", "anew", "begun", "bytes", "committed", "draining", "end", "finished", "group", "held",
        "identity", "invalid_metadata", "keys", "member", "partition", "point", "position", "rests", "resumed",
        "skipped_completed",
        "start", "topic", "tried", "unremembered", "work"
    )  # fmt: skip

    def __init__(
        self, group: str, topic: str, partition: int, identity: Identity = UNKNOWN, *, position: int | None = None,
        metadata: str = "", anew: bool = False,
    ) -> None:  # fmt: skip
        self.identity = identity
        self.anew = anew
        self.group = group
        self.topic = topic
        self.partition = partition
        self.position = position
        self.start = position
        self.alive = True
        self.draining = False
        self.rests = False
        self.begun = 0
        self.resumed = position
        self.committed = None if position is None else CommitPoint(position, metadata)
        self.tried: deque[CommitPoint] = deque(maxlen=TRIED)
        self.work: set[asyncio.Task[Any]] = set()
        self.skipped_completed = 0
        self.invalid_metadata = 0
        self.finished = 0
        self.end: int | None = None
        self.bytes = 0
        self.unremembered = 0
        self.keys: dict[bytes, Any] = {}
        self.held = 0
        self.member: Member | None = None
        # Offset, timestamp and number of the unfinished, from the point on, and of some that are finished.
        self._delivered: deque[tuple[int, int, int]] = deque()
        self._count = 0
        self._large: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._unfinished: set[int] = set()
        self._dropped: set[int] = set()
        self._drained: asyncio.Event | None = None
        self.point = position
        self._metadata = metadata
        self._completed: CompletedOffsets | None = None
        self._last: tuple[int, int] | None = None

    def __repr__(self) -> str:
        state = "revoked" if not self.alive else "draining" if self.draining else "held"
        return f"<Lease {self.topic}-{self.partition} {state} at {self.point}, {len(self._unfinished)} unfinished>"

    @property
    def owner(self) -> str:
        """Return what a commit's metadata is signed with, so that no other partition's is taken for ours."""
        return commit_metadata.owner(self.group, self.topic, self.partition)

    @property
    def next_offset(self) -> int:
        """Return where reading must go on: what begins elsewhere has missed something, or repeats it."""
        offset = self.start if self.position is None else self.position
        assert offset is not None  # who makes a lease without a position says where it is to start
        return offset

    @property
    def taking(self) -> bool:
        """Whether delivered records may still be begun."""
        return self.alive and not self.draining

    @property
    def uncommitted(self) -> int:
        """Return how many records were delivered from the commit point on."""
        return self._count - self._delivered[0][2] if self._delivered else 0

    @property
    def unfinished(self) -> int:
        """Return how many delivered records are not finished."""
        return len(self._unfinished)

    def unfinished_of(self, offsets: AbstractSet[int]) -> set[int]:
        """Return those of these offsets that are not finished."""
        return self._unfinished.intersection(offsets)

    @property
    def in_progress(self) -> int:
        """Return how many records were begun and are not finished."""
        return self.begun - self.finished

    @property
    def ahead(self) -> int:
        """Return how many were finished beyond the point; 0 if a former owner's may be among them."""
        return 0 if self.skipped_completed else self.uncommitted - len(self._unfinished)

    @property
    def lag(self) -> int | None:
        """Return how many offsets there are from the group's commit to the end of the log, None as long as unknown."""
        start = self.point if self.committed is None else self.committed.offset
        return None if start is None or self.end is None else max(0, self.end - start)

    @property
    def oldest_unfinished(self) -> int | None:
        """Return the timestamp (ms) of the record at the commit point, None if nothing is unfinished."""
        return self._delivered[0][1] if self._delivered else None

    def deliver(
        self, records: Sequence[R], position: int, end: int | None = None, large: Mapping[int, int] | None = None
    ) -> Sequence[R]:
        """Take note of records handed over, in offset order, and of where reading goes on after them.

        Returns those to work on: without the ones that a former owner finished. `end` is the end of the log, if
        known; commit metadata that claims offsets beyond it is not of this log. `large` has the bytes of large records.
        """
        if not self.alive:
            return ()
        self.end = self.end if end is None else end
        if self._metadata and (records or position != self.point):
            self._completed = self._completed_offsets(records[0] if records else None, end)
        completed = self._completed
        fresh = records if completed is None else [record for record in records if record.offset not in completed]
        if len(self._delivered) > 2 * len(self._unfinished) + SPARE:
            self._delivered = deque(each for each in self._delivered if each[0] in self._unfinished)
        offsets = [record.offset for record in records]
        self._delivered.extend(zip(offsets, [record.timestamp for record in records], count(self._count)))
        self._count += len(records)
        self._unfinished.update(offsets if completed is None else [record.offset for record in fresh])
        if large:
            self._large.update((record.offset, large[record.offset]) for record in fresh if record.offset in large)
            self.bytes = sum(self._large.values())
        self.skipped_completed += len(records) - len(fresh)
        if records:
            self._last = records[-1].offset, records[-1].timestamp
        if completed is not None and position >= completed.end():
            self._completed = None
        self.position = position
        self._advance()
        return fresh

    def drop(self, offset: int) -> None:
        """Finish a record of which nothing was published. A later owner may drop it again: the list of what is finished
        beyond the point, which takes only so many ranges, has none of dropped records alone.
        """
        if self.alive and offset in self._unfinished:
            self._dropped.add(offset)
            self.finish(offset)

    def finish(self, offset: int) -> None:
        """Note that the answer to the record at `offset` was delivered. Repeats and foreign offsets change nothing."""
        if self.alive and offset in self._unfinished:
            self._unfinished.discard(offset)
            if self._large:
                self.bytes -= self._large.pop(offset, 0)
            self.finished += 1
            if offset == self._delivered[0][0]:
                self._advance()
            if self._drained is not None:
                self._see_drained()

    def finish_all(self, offsets: Iterable[int]) -> None:
        """Finish many at once, at a fraction of what one by one would cost."""
        if self.alive:
            before = len(self._unfinished)
            self._unfinished.difference_update(offsets)
            self.finished += before - len(self._unfinished)
            if self._large:
                self._large = {offset: size for offset, size in self._large.items() if offset in self._unfinished}
                self.bytes = sum(self._large.values())
            self._advance()
            self._see_drained()

    def wait(self, offset: int) -> None:
        """Take back one `begun`: the work on the record at `offset` has to wait, which no drain is to wait for."""
        self._waiting.add(offset)
        self.begun -= 1
        self._see_drained()

    def resume(self, offset: int) -> None:
        """Begin what had to wait."""
        self._waiting.discard(offset)
        self.begun += 1

    @property
    def point_waits(self) -> bool:
        """Whether the record at the commit point has to wait, so that no fault keeps it from being finished."""
        return bool(self._waiting) and self.point in self._waiting

    def commit_point(self) -> CommitPoint | None:
        """Return what may be committed now; None as long as no position is known."""
        if self.committable is None:
            return None
        return self._up_to(commit_metadata.METADATA_LIMIT)

    @property
    def committable(self) -> int | None:
        """Return the offset of what may be committed now."""
        if self.point is None or (self.anew and not self.finished):
            return None
        anchor = self._anchor()
        return self.point if self._metadata or anchor is None else anchor[0]

    def _anchor(self) -> tuple[int, int] | None:
        """Return offset and timestamp of the record that a commit stands at, if it has to stand at one."""
        if self._delivered:
            return self._delivered[0][:2]
        return self._last if self._completed is not None else None

    def point_with(self, offsets: Iterable[int], limit: int) -> tuple[CommitPoint | None, bool]:
        """Return what a commit would say if these offsets were finished as well, and whether it lists all of them: its
        metadata takes `limit` bytes. Nothing changes here.
        """
        then = copy.copy(self)
        then._delivered = deque(self._delivered)
        then._unfinished, then.unremembered = self._unfinished.difference(offsets), 0
        if self.point is None or (self.anew and not self.finished and len(then._unfinished) == len(self._unfinished)):
            return None, True
        then._advance()
        point = then._up_to(limit)
        return point, not then.unremembered

    def knowledge(self) -> CommitPoint | None:
        """Return all that is finished in the form of a commit, longer perhaps than a broker would take."""
        return None if self.point is None else self._up_to(UNLIMITED)

    def skip_to(self, position: int) -> None:
        """Go on at an offset beyond what was delivered: what lies between is gone from the log."""
        self._metadata = ""
        self.position = position
        self._advance()

    def _up_to(self, limit: int) -> CommitPoint:
        assert self.point is not None
        if self._metadata:  # nothing was read yet: what the former owner wrote still holds
            return CommitPoint(
                self.point, self._metadata if limit == UNLIMITED else commit_metadata.cut(self._metadata)
            )
        anchor = self._anchor()
        self.unremembered = 0
        if anchor is None or (self._completed is None and self.uncommitted == len(self._unfinished)):
            return CommitPoint(self.point, commit_metadata.sign(self.owner, self.identity))
        offset, timestamp = anchor
        ranges = list(self._finished_ranges(offset))
        metadata = commit_metadata.encode(self.owner, self.identity, offset, timestamp, ranges, limit=limit)
        self.unremembered = sum(stop - start for start, stop in ranges[commit_metadata.length(metadata) :])
        return CommitPoint(offset, metadata)

    async def drain(self, seconds: float) -> bool:
        """Begin nothing more and wait for what is in progress; returns whether all of it finished in time."""
        self.draining = True
        if self.in_progress <= 0 or not self.alive:
            return True
        self._drained = self._drained or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), seconds)
            return True
        return False

    def cancel(self) -> None:
        """Cancel the work in progress. What it has published may still be acknowledged, which finishes it."""
        for task in self.work:
            task.cancel()
        self.work.clear()

    def revoke(self) -> None:
        """Give the partition up: from here on nothing changes any more, and what is in progress is cancelled."""
        self.alive = False
        self.cancel()
        self._unfinished.clear()
        self._dropped.clear()
        self._delivered.clear()
        self._large.clear()
        self._waiting.clear()
        self.keys.clear()
        self.held = 0
        self.bytes = 0
        if self._drained is not None:
            self._drained.set()

    def _see_drained(self) -> None:
        if self._drained is not None and self.in_progress <= 0:
            self._drained.set()

    def _advance(self) -> None:
        delivered, unfinished = self._delivered, self._unfinished
        while delivered and delivered[0][0] not in unfinished:
            delivered.popleft()
        self.point = delivered[0][0] if delivered else self.position
        if self._dropped and (not delivered or len(self._dropped) > SPARE + self.uncommitted):
            # never in place: `point_with` shares them
            self._dropped = {offset for offset in self._dropped if delivered and offset > delivered[0][0]}

    def _finished_ranges(self, anchor: int) -> Iterator[tuple[int, int]]:
        """Yield half-open ranges of what is finished from the anchor on: all that is not unfinished, holes included.

        With nothing unfinished and commit metadata not yet read past, the anchor is the last delivered record, finished
        itself: a reader trusts commit metadata only if it finds the anchor's record in the log.
        """
        before, number = anchor - 1, self._delivered[0][2] - 1 if self._delivered else self._count - 2
        dropped = sorted(self._dropped)
        for offset, _, this in self._delivered:
            if offset in self._unfinished:
                if this > number + 1 and (found := _without(dropped, before + 1, offset, this - number - 1)):
                    yield found
                before, number = offset, this
        if number + 1 < self._count and self._last is not None:
            finished = self._count - number - 1
            if found := _without(dropped, before + 1, self._last[0] + 1, finished):
                yield found
        if self._completed is not None and self.position is not None:
            yield from self._completed.beyond(self.position)

    def _completed_offsets(self, first: Record | None, end: int | None) -> CompletedOffsets | None:
        metadata, self._metadata = self._metadata, ""
        anchor = None if first is None else (first.offset, first.timestamp)
        try:
            return commit_metadata.trusted(self.owner, self.identity, self.point or 0, metadata, anchor=anchor, end=end)
        except InvalidCommitMetadata as exc:
            self.invalid_metadata += 1
            logger.warning("%s-%d: the commit's list of completed offsets is ignored: %s; requests finished beyond the "
                           "commit point are answered again", self.topic, self.partition, exc)  # fmt: skip
            return None


def _without(dropped: Sequence[int], start: int, stop: int, finished: int) -> tuple[int, int] | None:
    """Return a range with so many finished records without those at its ends that were dropped; None if all were."""
    first, last = bisect_left(dropped, start), bisect_left(dropped, stop)
    if last - first >= finished:
        return None
    while first < last and dropped[first] == start:
        first, start = first + 1, start + 1
    while first < last and dropped[last - 1] == stop - 1:
        last, stop = last - 1, stop - 1
    return start, stop
