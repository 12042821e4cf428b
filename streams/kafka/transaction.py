"""What one transaction takes: of all that waits, what the offsets committed with it can say to be finished."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from faust.types import TP

from streams.kafka.commit_metadata import decode
from streams.kafka.lease import CommitPoint, Lease
from streams.kafka.outgoing import DeliveryListener, OutgoingRecord, PartitionQueue


class Transaction(NamedTuple):
    """Records by their queues, what they finish of each listener, and what is committed of each lease."""

    records: list[tuple[PartitionQueue, list[OutgoingRecord]]]
    finished: dict[DeliveryListener, set[int]]
    points: dict[TP, tuple[Lease, CommitPoint]]

    @property
    def leases(self) -> list[Lease]:
        """Return the leases of which something is committed."""
        return [lease for lease, _ in self.points.values()]

    @property
    def size(self) -> int:
        """Return how many records there are."""
        return sum(len(records) for _, records in self.records)


def choose(
    lease: Lease, offsets: AbstractSet[int], limit: int, share: float = 1.0
) -> tuple[set[int], CommitPoint | None]:
    """Return which of these offsets a commit of the lease can say to be finished, the first ones if not all, and what
    it says then. None: its metadata, of `limit` bytes, has no room for what was finished before. `share` is how large
    a part of the offsets is wanted. Those that are finished already, since a record of theirs fits nowhere, are in
    what any commit says: the rest of their records goes with it.
    """
    order = sorted(lease.unfinished_of(offsets))
    done = offsets - {*order} if len(order) < len(offsets) else ()
    if share < 1.0:
        order = order[: max(1, int(len(order) * share))]
    point, whole = lease.point_with(order, limit)
    if whole:
        return {*order, *done}, point
    enough, many = 0, len(order)
    if point is not None and (listed := decode(lease.owner, lease.identity, *point)) is not None:
        likely = bisect_left(order, listed.end())
        point, whole = lease.point_with(order[:likely], limit)
        if whole and likely:  # as mostly: one look more, where a search takes a tenth of a second of many
            return {*order[:likely], *done}, point
    while many - enough > 1:
        middle = (enough + many) // 2
        if lease.point_with(order[:middle], limit)[1]:
            enough = middle
        else:
            many = middle
    point, whole = lease.point_with(order[:enough], limit)
    return ({*order[:enough], *done}, point) if whole else (set(), None)
