"""Rows whose latest record on the changelog is a former owner's are written again, by the holder alone."""

from __future__ import annotations

import pytest

from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka.lease import CommitPoint, Lease
from streams.tables import repair as module
from streams.tables.pruning import Bounds
from streams.tables.repair import ChangelogRepair
from streams.tables.state import Gap
from tests.unit.streams.test_state import filled, row

PLACE = "a", 0


class Scene:
    """Three rows that are held and acknowledged, and a changelog between 3 and 5 that somebody else wrote."""

    def __init__(self, monkeypatch):
        self.scene = filled(3, Bounds(10), committed=3)
        self.shelves, self.publisher = self.scene.shelves, self.scene.publisher
        self.mending = ChangelogRepair(Settings(), self.shelves)
        self.theirs = {}
        monkeypatch.setattr(module, "rows_between", self._rows_between)

    async def _rows_between(self, *_):
        if isinstance(self.theirs, Exception):
            raise self.theirs
        return self.theirs

    async def mend(self):
        await self.mending.repair(self.publisher)
        return sorted((parcel.key, parcel.value) for _, _, parcel in self.publisher.sent)


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


async def test_what_was_written_over_is_written_again_until_it_has_arrived(scene):
    """Our row, or a tombstone where we have none, goes out once, and again if its lease ended before Kafka had it."""
    scene.mending.note({PLACE: [b"1", b"nobody's"]})
    again = [(b"1", row(1)), (b"nobody's", None)]
    assert await scene.mend() == again
    assert await scene.mend() == again, "it is on its way"
    scene.scene.lease.revoke()
    scene.scene.leases[:] = [Lease("g", "results", 0, position=3)]
    scene.publisher.sent.clear()
    assert await scene.mend() == again
    scene.publisher.acknowledge(scene.shelves)
    assert await scene.mend() == []
    assert scene.mending.rewritten == 2
    assert scene.shelves.store.dirty == set()


async def test_a_publisher_that_is_behind_is_not_given_more(scene):
    """While too much waits for Kafka, mending waits too."""
    scene.mending.note({PLACE: [b"1"]})
    scene.publisher.congested = True
    assert await scene.mend() == []
    scene.publisher.congested = False
    assert await scene.mend() == [(b"1", row(1))]


async def test_a_gap_is_looked_into(scene):
    """Keys that a stranger wrote in a gap are written again."""
    scene.shelves.gaps_to_repair.append(Gap(*PLACE, 3, 5))
    scene.theirs = {b"2": row(0), b"x": b"garbage", b"y": None}
    assert await scene.mend() == [(b"2", row(2)), (b"x", None), (b"y", None)]
    assert scene.shelves.gaps_to_repair == []


async def test_a_holder_that_others_are_ahead_of_writes_nothing(scene):
    """Rows that count what we have not read yet are the new owner's: we are the one who does not know yet."""
    scene.shelves.gaps_to_repair.append(Gap(*PLACE, 3, 5))
    scene.shelves.store.mark_dirty(0)
    scene.theirs = {b"2": row(scene.scene.lease.position)}
    assert await scene.mend() == []
    assert await scene.mend() == []
    assert scene.shelves.gaps_to_repair == []
    scene.mending.begin_anew({0})
    assert scene.shelves.store.count("a", 0) == 0, "their rows are not among ours: all is read again"


async def test_a_log_that_ends_before_a_gap_has_all_rows_written_again(scene):
    """It was cut or made anew: what it lacks is here alone, and would be gone with the next owner."""
    scene.shelves.gaps_to_repair.append(Gap(*PLACE, 3, 5))
    scene.shelves.store.mark_dirty(0)
    scene.theirs = None
    assert await scene.mend() == [(b"%d" % number, row(number)) for number in range(3)]
    assert (scene.shelves.gaps_to_repair, scene.shelves.store.dirty) == ([], {0})
    scene.publisher.acknowledge(scene.shelves)
    scene.publisher.sent.clear()
    assert await scene.mend() == []
    assert scene.shelves.store.dirty == set()


async def test_a_changelog_that_was_made_again_under_its_holder_gets_all_rows(scene):
    """The offset at which Kafka took a row says so: rows that are touched no more would be lost without a word."""
    scene.scene.ship([("a", b"1", row(7))], 4)
    scene.publisher.acknowledge(scene.shelves, base=0)
    scene.publisher.sent.clear()
    rows = {b"0": row(0), b"1": row(7), b"2": row(2)}
    assert dict(await scene.mend()) == rows
    assert scene.shelves.store.dirty == set(), "the rows here are right: a recovery in between must not drop them"
    scene.mending.begin_anew({0})
    assert scene.shelves.store.count("a", 0) == 3


async def test_a_gap_that_cannot_be_read_is_tried_again(scene):
    """While the broker is away the gap is kept."""
    scene.shelves.gaps_to_repair.append(Gap(*PLACE, 3, 5))
    scene.theirs = BrokerError("away")
    assert await scene.mend() == []
    scene.theirs = {b"2": row(0)}
    assert await scene.mend() == [(b"2", row(2))]


async def test_a_partition_that_is_not_held_is_not_mended(scene):
    """After the lease has ended nothing is written; whoever recovers sees for himself."""
    scene.mending.note({PLACE: [b"1"]})
    scene.shelves.gaps_to_repair.append(Gap(*PLACE, 3, 5))
    scene.scene.lease.revoke()
    assert await scene.mend() == []
    assert scene.shelves.gaps_to_repair == [(*PLACE, 3, 5)]


@pytest.mark.parametrize("ended", [True, False])
async def test_a_gap_that_was_not_looked_into_is_read_again(scene, ended):
    """A gap is not forgotten with the lease that saw it: a recovery begins from nothing."""
    scene.scene.ship([("a", b"4", row(4))], 4)
    scene.publisher.acknowledge(scene.shelves, base=5)
    if ended:
        scene.scene.lease.revoke()
        await scene.mend()
    scene.mending.begin_anew({0})
    assert scene.shelves.store.count("a", 0) == 0


async def test_a_recovery_under_way_is_not_trusted(scene):
    """What it made doubtful is noted at its end: until then the doubt stays."""
    scene.shelves.store.mark_dirty(0)
    scene.shelves.waiting_for = "recovering"
    await scene.mend()
    assert scene.shelves.store.dirty == {0}
    scene.shelves.waiting_for = ""
    await scene.mend()
    assert scene.shelves.store.dirty == set()


async def test_what_was_not_mended_is_read_again(scene):
    """A recovery begins from nothing where something was still to be mended, and elsewhere from what is there."""
    scene.mending.note({PLACE: [b"1"]})
    scene.mending.begin_anew({0})
    assert scene.shelves.store.count("a", 0) == 0
    assert await scene.mend() == []


async def test_a_recovery_without_anything_to_mend_keeps_the_rows(scene):
    """Nothing noted, nothing dropped."""
    scene.scene.lease.committed = CommitPoint(3, "")
    scene.mending.begin_anew({0})
    assert scene.shelves.store.count("a", 0) == 3
