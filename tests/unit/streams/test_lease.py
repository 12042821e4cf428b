"""The lease: the commit point never passes an unfinished request, and reaches the end when all is finished."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.kafka import commit_metadata as memo
from streams.kafka.commit_metadata import Identity
from streams.kafka.lease import CommitPoint, Lease
from tests.fakes import Record

HERE = Identity("cluster", "topic-id")


def records(*offsets: int) -> list[Record]:
    return [Record(offset, offset * 7 + 1) for offset in offsets]


def held(position: int | None = 0, metadata: str = "") -> Lease:
    return Lease("group", "topic", 0, HERE, position=position, metadata=metadata)


def signed(offset: int) -> CommitPoint:
    """The commit of a lease that has nothing to remember."""
    return CommitPoint(offset, memo.sign(held().owner, HERE))


class Partition(RuleBasedStateMachine):
    """A log with holes, owners that come and go with or without a last commit, work that finishes in any order."""

    @initialize(steps=st.lists(st.integers(1, 4), max_size=60))
    def write_the_log(self, steps: list[int]) -> None:
        offsets, offset = [], -1
        for step in steps:  # a step of more than one leaves a hole
            offset += step
            offsets.append(offset)
        self.log = records(*offsets)
        self.end = offset + 2  # a transaction marker after the last record
        self.answered: set[int] = set()
        self.commit = CommitPoint(0, "")
        self.committed_answers: set[int] = set()
        self.retired: list[Lease] = []
        self.take_over()

    def take_over(self) -> None:
        self.lease = held(*self.commit)
        self.open: list[int] = []
        self.answered_here: set[int] = set()

    @rule(share=st.integers(0, 10))
    def poll(self, share: int) -> None:
        assert self.lease.position is not None
        ahead = [record for record in self.log if record.offset >= self.lease.position]
        taken = ahead[:share]
        at_end = len(taken) == len(ahead)
        position = self.end if at_end else taken[-1].offset + 1 if taken else self.lease.position
        fresh = self.lease.deliver(taken, position, self.end)
        self.open += [record.offset for record in fresh]
        for record in taken:
            if record not in fresh:
                assert record.offset in self.answered, "a memo skipped a request without an answer"

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self.open))
        self.open.remove(offset)
        self.answered.add(offset)
        self.answered_here.add(offset)
        self.lease.begun += 1
        self.lease.finish(offset)

    @rule()
    def commit_now(self) -> None:
        point = self.lease.commit_point()
        assert point is not None
        assert point.offset >= self.commit.offset, "a commit went back"
        self.commit = point
        self.committed_answers |= self.answered_here

    @rule()
    def crash_and_restart(self) -> None:
        """The next owner reads from the last commit: what was answered before it must not be delivered again."""
        self.retired.append(self.lease)
        self.take_over()

    @rule()
    def revoke_in_order(self) -> None:
        self.commit_now()
        self.lease.revoke()
        self.crash_and_restart()

    @precondition(lambda self: self.retired)
    @rule(offset=st.integers(0, 100))
    def a_former_owner_finishes_late(self, offset: int) -> None:
        if not self.retired[-1].alive:
            before = self.retired[-1].commit_point()
            self.retired[-1].finish(offset)
            assert self.retired[-1].commit_point() == before, "a revoked lease changed"

    @invariant()
    def the_commit_never_passes_an_unfinished_request(self) -> None:
        for point in (self.commit, self.lease.commit_point()):
            assert point is not None
            remembered = memo.decode(self.lease.owner, HERE, *point)
            for record in self.log:
                claimed = record.offset < point.offset or (remembered is not None and record.offset in remembered)
                assert not claimed or record.offset in self.answered

    @invariant()
    def the_last_commit_remembers_all_that_was_answered(self) -> None:
        remembered = memo.decode(self.lease.owner, HERE, *self.commit)
        for offset in self.committed_answers:
            assert offset < self.commit.offset or (remembered is not None and offset in remembered)

    def teardown(self) -> None:
        """With everything read and finished, the commit point is the end of the log, markers and all."""
        if not hasattr(self, "lease"):
            return
        while self.lease.position != self.end:
            self.poll(10)
        for offset in self.open:
            self.answered.add(offset)
            self.lease.finish(offset)
        assert self.lease.commit_point() == signed(self.end)


Partition.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPartition = Partition.TestCase


def test_finishing_behind_a_slow_one_is_remembered_in_the_metadata() -> None:
    """One unfinished request holds the commit point; what is finished behind it is in the metadata."""
    lease = held()
    lease.deliver(records(0, 1, 2, 3, 9), 10)
    for offset in (1, 2, 9):
        lease.finish(offset)
    point = lease.commit_point()
    assert point is not None
    assert point.offset == 0
    remembered = memo.decode(lease.owner, HERE, *point)
    assert remembered is not None
    assert [record.offset for record in records(0, 1, 2, 3, 9, 10) if record.offset in remembered] == [1, 2, 9]


def test_a_new_owner_runs_only_what_was_unfinished() -> None:
    """A lease taken with the metadata of a former one delivers only the requests that were open."""
    former = held()
    log = records(*range(10))
    former.deliver(log, 10)
    for offset in (1, 2, 3, 7):
        former.finish(offset)
    point = former.commit_point()
    assert point is not None
    lease = held(*point)
    assert [record.offset for record in lease.deliver(log, 10, 10)] == [0, 4, 5, 6, 8, 9]
    assert lease.skipped_completed == 4


def _point(**changes: Any) -> CommitPoint:
    """The commit of a lease that has finished offset 2 of 0 to 4."""
    former = Lease(
        str(changes.get("group", "group")),
        str(changes.get("topic", "topic")),
        0,
        changes.get("identity", HERE),
        position=0,
    )
    former.deliver(records(0, 1, 2, 3, 4), 5)
    former.finish(2)
    point = former.commit_point()
    assert point is not None
    return point


@pytest.mark.parametrize(
    ("point", "log", "end"),
    [
        (_point(group="another"), records(0, 1, 2, 3), 5),
        (_point(topic="another"), records(0, 1, 2, 3), 5),
        (_point(identity=Identity("cluster", "another-id")), records(0, 1, 2, 3, 4), 5),  # a topic made again
        (_point(identity=Identity("mirror", "topic-id")), records(0, 1, 2, 3, 4), 5),
        (CommitPoint(0, "some other tool's note"), records(0, 1, 2, 3), 5),
        (CommitPoint(0, "mr2 x x x 0 1+1"), records(0, 1, 2, 3), 5),
        (_point(), [Record(0, 99), Record(2, 100)], 5),  # the topic was made anew: other records at the same offsets
        (_point(), records(1, 2, 3), 5),  # the record at the commit point is gone
        (_point(), records(0, 1), 2),  # the log is shorter than what the memo claims
    ],
)
def test_metadata_that_cannot_be_trusted_is_ignored_and_counted(
    point: CommitPoint, log: list[Record], end: int
) -> None:
    """Another group's, topic's or log's memo, or none of ours, skips no request."""
    lease = held(*point)
    assert lease.deliver(log, log[-1].offset + 1, end) == log
    assert lease.invalid_metadata == 1
    assert lease.skipped_completed == 0


def test_a_memo_whose_records_are_all_gone_does_not_hold_the_commit_back() -> None:
    """Reading goes on past a remembered stretch that compaction took: the commit point follows."""
    lease = held(*_point())
    assert lease.commit_point() == _point()
    lease.deliver([], 40, 40)
    assert lease.commit_point() == signed(40)


@pytest.mark.slow
def test_too_much_to_remember_is_cut_to_the_brokers_limit() -> None:
    """With more gaps than fit 4,096 bytes, the nearest are remembered and the rest repeat."""
    lease = held()
    lease.deliver(records(*range(10_000)), 10_000)
    for offset in range(1, 10_000, 2):
        lease.finish(offset)
    point = lease.commit_point()
    assert point is not None
    assert len(point.metadata) <= memo.METADATA_LIMIT
    remembered = memo.decode(lease.owner, HERE, *point)
    assert remembered is not None
    assert 1 in remembered
    assert 2 not in remembered
    assert lease.unremembered == sum(offset not in remembered for offset in range(1, 10_000, 2)) > 3_900
    for offset in range(0, 9_990, 2):
        lease.finish(offset)
    lease.commit_point()
    assert lease.unremembered == 0


@pytest.mark.slow
def test_a_slow_one_costs_no_memory_of_what_is_finished_behind_it() -> None:
    """Behind one request that takes long, a million others leave nothing but their count, and the commit knows all."""
    lease = held()
    for start in range(0, 1_000_000, 10_000):
        lease.deliver(records(*range(start, start + 10_000)), start + 10_000)
        lease.finish_all(range(max(start, 1), start + 10_000))
    assert len(lease._delivered) < 20_000
    assert (lease.uncommitted, lease.unfinished, lease.ahead, lease.unremembered) == (1_000_000, 1, 999_999, 0)
    point = lease.commit_point()
    assert point is not None
    remembered = memo.decode(lease.owner, HERE, *point)
    assert remembered is not None
    assert (point.offset, remembered.ranges) == (0, ((1, 1_000_000),))
    lease.finish(0)
    assert lease.commit_point() == signed(1_000_000)


def test_large_records_are_counted_until_they_are_finished() -> None:
    """The bytes of large records leave the count as they are finished, one by one or together, and with the lease."""
    lease = held()
    lease.deliver(records(0, 1, 2, 3), 4, large={0: 2_000, 1: 3_000, 3: 5_000})
    assert lease.bytes == 10_000
    lease.finish(1)
    lease.finish(1)
    lease.finish(2)
    assert lease.bytes == 7_000
    lease.finish_all([0])
    assert lease.bytes == 5_000
    lease.revoke()
    assert lease.bytes == 0


def test_nothing_is_committed_before_a_position_is_known() -> None:
    """A group without a commit, before its first poll, has nothing to say."""
    lease = held(None)
    assert lease.commit_point() is None
    lease.deliver([], 5)
    assert lease.commit_point() == signed(5)


def test_the_watchdog_is_told_what_can_be_committed() -> None:
    """Nothing, while a topic that was made again has nothing finished; the last record, while the list of what is
    finished beyond it is not read to its end: waiting for a commit further on would be waiting for ever.
    """
    anew = Lease("g", "t", 0, Identity("c", "t"), position=0, anew=True)
    anew.deliver([], 7)
    assert (anew.point, anew.committable, anew.commit_point()) == (7, None, None)
    first = held()
    first.deliver(records(*range(9)), 9)
    for offset in range(1, 9):
        first.finish(offset)
    second = held(0, first.commit_point().metadata)
    assert second.committable == 0
    second.deliver(records(*range(4)), 4)
    second.finish(0)
    point = second.commit_point()
    assert point is not None
    assert second.point is not None
    assert second.committable == point.offset < second.point


@given(st.lists(st.sampled_from("udf"), min_size=2, max_size=60), st.sampled_from([1, 2]))
def test_what_was_dropped_is_in_no_list_by_itself(fates: list[str], step: int) -> None:
    """Whoever takes the partition gets every unfinished record again and none that was finished; of dropped ones those
    that stand alone, for which the list would lack room. Holes between the offsets change nothing.
    """
    log = records(*range(0, len(fates) * step, step))
    lease = held()
    lease.deliver(log, len(fates) * step)
    for record, fate in zip(log, fates, strict=True):
        if fate == "f":
            lease.finish(record.offset)
    runs = len(listed(lease))
    for record, fate in zip(log, fates, strict=True):
        if fate == "d":
            lease.drop(record.offset)
    point = lease.commit_point()
    assert point is not None
    assert len(listed(lease)) <= runs, "dropped records never take room"
    rest, end = [record for record in log if record.offset >= point.offset], len(fates) * step
    fresh = {record.offset for record in held(*point).deliver(rest, end, end)}
    wanted = {record.offset: fate for record, fate in zip(log, fates, strict=True) if record.offset >= point.offset}
    assert {offset for offset, fate in wanted.items() if fate == "u"} <= fresh
    assert not {offset for offset, fate in wanted.items() if fate == "f"} & fresh


def test_what_was_dropped_is_not_remembered_for_ever() -> None:
    """A route that drops nearly all: once the point has passed them, nobody needs to know."""
    lease = held()
    for start in range(0, 100_000, 1_000):
        lease.deliver(records(*range(start, start + 1_000)), start + 1_000)
        for offset in range(start, start + 1_000):
            lease.finish(offset) if offset % 100 == 7 else lease.drop(offset)
    assert len(lease._dropped) == 0
    lease.deliver(records(*range(100_000, 110_000)), 110_000)
    for offset in range(100_001, 110_000):
        lease.drop(offset)
    assert len(lease._dropped) == 9_999
    lease.finish(100_000)
    assert len(lease._dropped) == 0


def listed(lease: Lease) -> list[tuple[int, int]]:
    """Return the ranges that a commit lists while something is unfinished."""
    return list(lease._finished_ranges(lease._delivered[0][0])) if lease._delivered else []


def test_finishing_twice_or_what_was_never_delivered_changes_nothing() -> None:
    """Repeated and foreign acknowledgements are ignored."""
    lease = held()
    lease.deliver(records(0, 1), 2)
    lease.begun = 2
    lease.finish(0)
    lease.finish(0)
    lease.finish(17)
    assert lease.in_progress == 1
    assert lease.commit_point() == signed(1)


async def test_a_drain_waits_for_what_was_begun_only() -> None:
    """Delivered records that nobody began are left to the next owner; begun ones are waited for."""
    lease = held()
    lease.deliver(records(0, 1, 2), 3)
    lease.begun = 2
    draining = asyncio.ensure_future(lease.drain(30))
    await asyncio.sleep(0)
    assert not lease.taking
    lease.finish(0)
    await asyncio.sleep(0)
    assert not draining.done()
    lease.finish(1)
    assert await draining
    assert lease.unfinished == 1


async def test_what_has_to_wait_holds_up_no_drain() -> None:
    """A record that waits for its turn is left to the next owner; at the commit point, it is known to wait."""
    lease = held()
    lease.deliver(records(0), 1)
    lease.begun = 1
    draining = asyncio.ensure_future(lease.drain(30))
    await asyncio.sleep(0)
    assert not lease.point_waits
    lease.wait(0)
    assert lease.point_waits
    assert await draining
    lease.resume(0)
    assert (lease.point_waits, lease.in_progress) == (False, 1)


async def test_a_drain_that_is_not_done_in_time_says_so() -> None:
    """The deadline ends the wait, and an idle or revoked lease needs none."""
    lease = held()
    lease.deliver(records(0), 1)
    lease.begun = 1
    assert not await lease.drain(0.001)
    lease.revoke()
    assert await lease.drain(0.001)
    assert await held().drain(0.001)


async def test_revoking_cancels_the_work_and_ends_the_wait() -> None:
    """What runs for a revoked lease is cancelled, and whoever drains it is let go."""
    lease = held()
    lease.deliver(records(0), 1)
    lease.begun = 1
    work = asyncio.ensure_future(asyncio.Event().wait())
    lease.work.add(work)  # type: ignore[arg-type]
    draining = asyncio.ensure_future(lease.drain(30))
    await asyncio.sleep(0)
    lease.revoke()
    assert await draining
    with pytest.raises(asyncio.CancelledError):
        await work
    assert lease.deliver(records(1), 2) == ()
    assert "revoked" in repr(lease)


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)))
def test_the_oldest_unfinished_is_the_record_at_the_commit_point(offsets: set[int], done: set[int]) -> None:
    """What the worker reports as oldest is what holds the commit back."""
    lease = held()
    lease.deliver(records(*sorted(offsets)), 201)
    for offset in done & offsets:
        lease.finish(offset)
    left = sorted(offsets - done)
    assert lease.oldest_unfinished == (left[0] * 7 + 1 if left else None)
    assert lease.unfinished == len(left)
    assert lease.uncommitted == len([offset for offset in offsets if left and offset >= left[0]])


def test_records_without_timestamps_are_committed_by_position_alone() -> None:
    """What is finished beyond a record without a timestamp is not remembered, for nobody could know the log again."""
    lease = held()
    lease.deliver([Record(0, -1), Record(1, -1), Record(2, -1)], 3)
    lease.finish(1)
    assert lease.commit_point() == signed(0)
    lease.finish(0)
    lease.finish(2)
    assert lease.commit_point() == signed(3)


def test_the_end_of_the_log_and_the_commit_tell_the_lag() -> None:
    """Lag counts from what is committed, or from the point before the first commit; without an end it is unknown."""
    lease = Lease("g", "t", 0)
    assert lease.lag is None
    lease.deliver(records(0, 1, 2), 3, 10)
    assert (lease.lag, lease.end) == (10, 10)
    lease.finish(0)
    lease.finish(2)
    assert (lease.lag, lease.finished, lease.ahead) == (9, 2, 1)
    lease.committed = CommitPoint(1, "")
    lease.deliver((), 3)
    assert (lease.lag, lease.end) == (9, 10)
    lease.deliver((), 3, 20)
    assert lease.lag == 19


def test_what_a_former_owner_finished_is_not_ahead() -> None:
    """Only what was begun in order tells that the point is behind; what a memo recalls does not."""
    lease = held(*_point())
    lease.deliver(records(0, 1, 2, 3), 4, 5)
    assert lease.skipped_completed > 0
    assert lease.ahead == 0
