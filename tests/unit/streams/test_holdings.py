"""Giving up leases: what the next owner would repeat is committed if there is any time left for it."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from models.errors import AccessError
from streams.config import settings as defaults
from streams.kafka import holdings
from streams.kafka.commit_metadata import Identity, signature
from streams.kafka.holdings import Holdings
from streams.kafka.lease import CommitPoint, Lease


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "DRAIN_DEADLINE", 0.02)
    monkeypatch.setattr(holdings, "RETRY_PAUSE", 0.0)


def at_work(count: int) -> Lease:
    """Return a lease with so many records begun."""
    lease = Lease("g", "t", 0, Identity("c", "t"), position=0)
    records: Any = [SimpleNamespace(offset=offset, timestamp=5) for offset in range(count)]
    lease.deliver(records, count)
    lease.begun = count
    return lease


class Commits:
    """Answers commits as told, with None from then on; keeps where each would have been."""

    def __init__(self, lease: Lease, *ends: bool | None) -> None:
        self._lease = lease
        self._ends = deque(ends)
        self.points: list[int | None] = []

    async def __call__(self) -> bool | None:
        self.points.append(self._lease.point)
        return self._ends.popleft() if self._ends else None


async def nothing_left(_: float) -> bool:
    """Wait for no acknowledgement."""
    return True


async def hands_over(*, lost: bool, end: bool | None) -> list[int | None]:
    """Hand over a lease with a request in progress, and one whose result is on its way; return what is committed."""
    lease = at_work(2)
    commits = Commits(lease, end)
    work = asyncio.ensure_future(asyncio.Event().wait())
    lease.work.add(work)

    async def arrived(_: float) -> bool:
        await asyncio.sleep(0)
        assert work.cancelled()
        lease.finish(0)
        return True

    async with asyncio.timeout(5):
        await holdings.hand_over([lease], arrived, commits, None, lost=lost)
    return commits.points


async def test_what_is_on_its_way_when_the_time_is_up_is_committed() -> None:
    """The work is cancelled first, so that nothing more is published; then acknowledgements are waited for."""
    assert await hands_over(lost=False, end=True) == [1]


async def test_a_last_commit_that_fails_is_tried_again() -> None:
    """One that Kafka did not take in time would have everything since the one before repeated."""
    lease = at_work(0)
    commits = Commits(lease, False, False, True, True)
    await holdings.hand_over([lease], nothing_left, commits, None)
    assert len(commits.points) == 3


@pytest.mark.parametrize("end", [None, True])
async def test_a_commit_that_nothing_mends_is_not_tried_again(end: bool | None) -> None:
    """The group has moved on, or there is nothing to commit."""
    lease = at_work(0)
    commits = Commits(lease, end, True)
    await holdings.hand_over([lease], nothing_left, commits, None)
    assert len(commits.points) == 1


def test_what_others_committed_at_the_same_offset_is_better() -> None:
    """A slow request keeps the commit where it was: of two that stand there, that of the worker in between lists what
    it has finished since; who has heard of neither knows less.
    """
    held, tp, identity = Holdings("g"), TP("t", 0), Identity("c", "t")
    records: Any = [SimpleNamespace(offset=offset, timestamp=5) for offset in range(9)]

    def works(held: Holdings, commit: CommitPoint | None, done: range) -> CommitPoint:
        given = None if commit is None else OffsetAndMetadata(commit.offset, commit.metadata)
        lease = held[tp] = held.lease(tp, identity, given)
        lease.deliver(records, 9)
        lease.begun = 9
        for offset in done:
            lease.finish(offset)
        point = lease.commit_point()
        assert point is not None
        lease.tried.append(point)
        held.give_up(tp)
        return point

    first = works(held, None, range(1, 3))
    other = works(Holdings("g"), first, range(3, 8))
    assert first.offset == other.offset == 0
    assert held.lease(tp, identity, OffsetAndMetadata(other.offset, other.metadata)).committed == other
    again = works(held, other, range(0))
    assert again == other
    lease = held.lease(tp, identity, OffsetAndMetadata(first.offset, first.metadata))
    assert (lease.commit_point(), lease.committed) == (first, first)


def test_a_broker_that_takes_no_lists_is_recognised() -> None:
    """Its commits are their signatures alone: what the lease knew is taken up again all the same."""
    held, tp, identity = Holdings("g"), TP("t", 0), Identity("c", "t")
    lease = held[tp] = held.lease(tp, identity, None)
    records: Any = [SimpleNamespace(offset=offset, timestamp=5) for offset in range(9)]
    lease.deliver(records, 9)
    lease.finish(4)
    point = lease.commit_point()
    assert point is not None
    lease.tried.append(point)
    held.give_up(tp)
    again = held.lease(tp, identity, OffsetAndMetadata(point.offset, signature(point.metadata)))
    assert again.commit_point() == point


async def test_commits_are_not_tried_beyond_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has to end before it is ended."""
    monkeypatch.setattr(holdings, "COMMIT_DEADLINE", 0.05)
    lease = at_work(0)

    async def refused() -> bool:
        return False

    async with asyncio.timeout(5):
        await holdings.hand_over([lease], nothing_left, refused, None)


async def test_what_kafka_refuses_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends because it cannot publish ends at once, with one commit."""
    monkeypatch.setattr(defaults, "DRAIN_DEADLINE", 60.0)
    lease = at_work(1)
    commits = Commits(lease, False, True)

    async def arrived(_: float) -> bool:
        raise AssertionError

    async with asyncio.timeout(5):
        await holdings.hand_over([lease], arrived, commits, AccessError("no"))
    assert commits.points == [0]


async def test_a_lost_member_waits_for_what_is_on_its_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it still has in progress would never be published: that is cancelled, and what was sent may be finished."""
    monkeypatch.setattr(defaults, "DRAIN_DEADLINE", 60.0)
    assert await hands_over(lost=True, end=None) == [1]
