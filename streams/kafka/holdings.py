"""The partitions that a consumer holds: from where each lease goes on, and what is kept of it when it ends.

A lease goes on from the group's commit, unless that was made for a former topic: then at the first record. A group may
lose a member that works on, as when the broker stands still for longer than a session: what it finished meanwhile could
not be committed. When it gets a partition back and nobody has committed in between, it goes on from what it knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from models.errors import AccessError
from streams.config import settings as defaults
from streams.kafka.commit_metadata import Identity, is_void, owner, signature
from streams.kafka.lease import CommitPoint, Lease

logger = logging.getLogger(__name__)

ARRIVAL_DEADLINE = 3.0
"""Seconds that acknowledgements may take once nothing more is published."""
COMMIT_DEADLINE = 18.0
"""Seconds after which no further commit is tried; another one and closing still have time before SHUTDOWN_DEADLINE."""
RETRY_PAUSE = 0.5
"""Seconds before a commit is tried again."""

Arrived = Callable[[float], Awaitable[bool]]
"""Waits so many seconds until all that was published is acknowledged; returns whether it is."""
Commit = Callable[[], Awaitable[bool | None]]
"""Returns whether all was committed; None if there was nothing to commit, or never will be."""


class Kept(NamedTuple):
    """What a lease knew at its end: of which topic, how far it was, and what the group's commit may be if nobody else
    has committed since.
    """

    identity: Identity
    point: CommitPoint
    commits: frozenset[CommitPoint]


class Holdings(dict[TP, Lease]):
    """The leases of a group's member by partition. `recalled` and `untrusted` count those of the leases that ended.

    Not `keeping`, leases go on from the group's commit alone: with transactions it says all that is finished.
    """

    def __init__(self, group: str, *, keeping: bool = True) -> None:
        super().__init__()
        self.group = group
        self._keeping = keeping
        self.recalled = 0
        self.untrusted = 0
        self._declined: frozenset[int] = frozenset()
        self._kept: dict[TP, Kept] = {}

    def decline(self, partitions: Collection[int]) -> None:
        """Take nothing from these partitions, though the group gives them to us."""
        self._declined = frozenset(partitions)
        for tp, lease in self.items():
            lease.draining = lease.draining or tp.partition in self._declined

    def lease(self, tp: TP, identity: Identity, commit: OffsetAndMetadata | None, *, anew: bool = False) -> Lease:
        """Make a lease that goes on from the group's commit, or from what we know better; the caller puts it in."""
        if commit is not None and is_void(owner(self.group, *tp), identity, commit.metadata):
            logger.warning("%s-%d: the group's commit was made for a former topic of this name: beginning at the first "
                           "record; no request is lost", *tp)  # fmt: skip
            commit, anew = None, True
        committed = None if commit is None else CommitPoint(commit.offset, commit.metadata)
        start = committed
        kept = self._kept.get(tp)  # for the next lease, too, if this one never begins
        if kept is not None and kept.identity == identity and (committed is None or committed in kept.commits):
            start = kept.point
        lease = Lease(
            self.group, tp.topic, tp.partition, identity, anew=anew,
            position=None if start is None else start.offset, metadata="" if start is None else start.metadata,
        )  # fmt: skip
        lease.committed = committed
        lease.draining = tp.partition in self._declined
        return lease

    def lease_at(self, tp: TP, position: int) -> Lease:
        """Make a lease in place of one whose log has lost its end: what was committed and finished says nothing."""
        former = self[tp]
        self.give_up(tp)
        self._kept.pop(tp, None)
        self[tp] = lease = Lease(self.group, tp.topic, tp.partition, former.identity, position=position, anew=True)
        lease.committed = None
        lease.member = former.member  # else no transaction would take its offsets
        return lease

    def give_up(self, tp: TP) -> None:
        """End a lease, and keep what it knows."""
        lease = self[tp]
        if self._keeping and lease.alive and (point := lease.knowledge()) is not None:
            commits = {*lease.tried, *(() if lease.committed is None else (lease.committed,))}
            bare = {each._replace(metadata=signature(each.metadata)) for each in commits}  # all that some brokers take
            self._kept[tp] = Kept(lease.identity, point, frozenset(commits | bare))
        self.recalled += lease.skipped_completed
        self.untrusted += lease.invalid_metadata
        lease.skipped_completed = lease.invalid_metadata = 0
        lease.revoke()

    def give_up_all(self) -> None:
        """End every lease."""
        for tp in self:
            self.give_up(tp)


async def hand_over(
    leases: Sequence[Lease], arrived: Arrived, commit: Commit, crash: BaseException | None, *, lost: bool = False
) -> None:
    """End leases so that the next owner repeats as little as can be: begin nothing more, wait for what is in progress,
    cancel what is not finished in time, wait for the acknowledgements of what was published by then, and commit, again
    if Kafka does not take it at once. After a `crash` because Kafka refuses access nothing is waited for. Once the
    group has `lost` this member, nothing that is in progress will be published: what is on its way is waited for.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    refused = isinstance(crash, AccessError)
    seconds = 0.0 if refused or lost else defaults.DRAIN_DEADLINE
    if not all(await asyncio.gather(*(lease.drain(seconds) for lease in leases))):
        for lease in leases:
            lease.cancel()
        if not refused:
            await arrived(ARRIVAL_DEADLINE)
        if seconds:
            _report_late(leases, seconds)
    while await commit() is False and crash is None and loop.time() - began < COMMIT_DEADLINE:  # noqa: ASYNC110  no event says that Kafka would take it
        await asyncio.sleep(RETRY_PAUSE)


def _report_late(leases: Sequence[Lease], seconds: float) -> None:
    late = [lease for lease in leases if lease.in_progress > 0]
    if late:
        logger.warning("%g s were not enough for %d requests in progress in %s: the next owner answers them",
                       seconds, sum(lease.in_progress for lease in late),
                       ", ".join(f"{lease.topic}-{lease.partition}" for lease in late))  # fmt: skip
