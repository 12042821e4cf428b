"""What is on its way lies over the store, arrives in it when acknowledged, and is pruned behind the commit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agents.web.api.local_rows import LocalRows
from streams.kafka.lease import CommitPoint, Lease
from streams.tables import state as shelves
from streams.tables.pruning import AT_ONCE, LOOK_AGAIN, LOOKS, Bounds
from streams.tables.state import SLICE, TableState
from streams.tables.store import MemoryStore, mark

NOW = 1_000_000.0


def row(offset, at=NOW):
    return b'{"offset":%d,"at":%d}' % (offset, at * 1000)


class Publisher:
    """Keeps what it is given until told that it was acknowledged."""

    def __init__(self):
        self.limits = {"g-a": 100, "g-b": 100}
        self.congested = False
        self.sent = []

    def publish(self, topic, partition, parcel):
        self.sent.append((topic, partition, parcel))

    def acknowledge(self, shelves, *, base=None):
        sent, self.sent = self.sent, []
        for topic in sorted({topic for topic, _, _ in sent}):
            parcels = [parcel for each, _, parcel in sent if each == topic]
            start = shelves.store.reaches(topic[2:], 0) or 0 if base is None else base
            shelves.acknowledged(topic, 0, start, parcels)
            for parcel in parcels:
                parcel.listener.finish(parcel.offset)


class Scene:
    """A lease with delivered records, its shelf, and a publisher."""

    def __init__(self, bounds=None, store=None):
        self.now = NOW
        self.lease = Lease("g", "results", 0, position=0)
        self.leases = [self.lease]
        bounds = bounds or {"a": Bounds(10), "b": Bounds(10)}
        self.shelves = TableState(
            store or MemoryStore(), {"a": "g-a", "b": "g-b"}, bounds, lambda: self.leases, clock=lambda: self.now
        )
        self.shelves.recovered, self.shelves.waiting_for = {0}, ""
        self.publisher = Publisher()

    @property
    def rows(self):
        return self.shelves.of(self.leases[0])

    def records(self, *offsets):
        records = [SimpleNamespace(offset=offset, timestamp=0) for offset in offsets]
        self.leases[0].deliver(records, offsets[-1] + 1)
        return records

    def ship(self, changes, *offsets):
        self.shelves.publish(self.publisher, self.rows, changes, self.records(*offsets) if offsets else ())


def test_a_row_is_read_back_before_and_after_it_arrived():
    """What is on its way is what the next batch counts on; the view shows what was acknowledged."""
    scene = Scene()
    scene.ship([("a", b"k", row(1))], 0, 1)
    assert scene.rows.get("a", b"k") == row(1)
    assert scene.shelves.store.get("a", 0, b"k") is None
    scene.publisher.acknowledge(scene.shelves)
    assert scene.rows.get("a", b"k") == scene.shelves.store.get("a", 0, b"k") == row(1)
    assert scene.rows.pending == {"a": {}, "b": {}}


def test_offsets_are_finished_only_when_all_rows_of_their_batch_have_arrived():
    """With one of two changelogs acknowledged, nothing is finished; with both, all of it."""
    scene = Scene()
    scene.ship([("a", b"k", row(1)), ("b", b"k", row(1))], 0, 1)
    first, second = scene.publisher.sent
    scene.shelves.acknowledged("g-a", 0, 0, [first[2]])
    first[2].listener.finish(0)
    assert scene.lease.unfinished == 2
    scene.shelves.acknowledged("g-b", 0, 0, [second[2]])
    second[2].listener.finish(0)
    assert scene.lease.unfinished == 0
    assert scene.lease.commit_point().offset == 2


def test_gaps_are_bounded(monkeypatch):
    """Of too many that somebody else writes into a changelog, the later ones are one: all of it is looked at."""
    monkeypatch.setattr(shelves, "MAX_GAPS", 3)
    scene = Scene()
    for number in range(10):
        scene.ship([("a", b"k", row(number))], number)
        scene.publisher.acknowledge(scene.shelves, base=10 * number)
    assert [gap[2:] for gap in scene.shelves.gaps_to_repair] == [(1, 10), (11, 20), (21, 90)]
    assert scene.shelves.gaps == 9


def test_a_batch_without_rows_is_finished_at_once():
    """Records that are no results change no row and hold up no commit."""
    scene = Scene()
    scene.ship([], 0, 1, 2)
    assert scene.lease.commit_point().offset == 3


def test_a_later_version_lies_over_an_earlier_one_that_arrives():
    """When the first of two versions arrives, the second, still on its way, is what is read."""
    scene = Scene()
    scene.ship([("a", b"k", row(1))], 0, 1)
    [early] = scene.publisher.sent
    scene.publisher.sent = []
    scene.ship([("a", b"k", row(2))], 2)
    scene.shelves.acknowledged("g-a", 0, 0, [early[2]])
    early[2].listener.finish(0)
    assert scene.rows.get("a", b"k") == row(2)
    scene.publisher.acknowledge(scene.shelves)
    assert scene.shelves.store.get("a", 0, b"k") == row(2)


def test_batches_may_be_whole_in_another_order():
    """A batch that is whole before an earlier one, of which another table's rows lag, leaves nothing behind."""
    scene = Scene()
    scene.ship([("a", b"k", row(0)), ("b", b"k", row(0))], 0)
    scene.ship([("a", b"k", row(1))], 1)
    first, lagging, second = scene.publisher.sent
    scene.shelves.acknowledged("g-a", 0, 0, [first[2], second[2]])
    first[2].listener.finish(0)
    second[2].listener.finish(0)
    assert scene.lease.commit_point().offset == 0
    scene.shelves.acknowledged("g-b", 0, 0, [lagging[2]])
    lagging[2].listener.finish(0)
    assert scene.lease.commit_point().offset == 2
    assert scene.rows.pending == {"a": {}, "b": {}}
    assert scene.rows.get("a", b"k") == row(1)


def test_what_was_not_acknowledged_when_the_lease_ended_is_forgotten():
    """The store is never ahead of the changelog: a new lease begins with what was acknowledged."""
    scene = Scene()
    scene.ship([("a", b"k", row(1))], 0, 1)
    scene.publisher.acknowledge(scene.shelves)
    scene.ship([("a", b"k", row(2))], 2)
    scene.lease.revoke()
    scene.leases = [Lease("g", "results", 0, position=2)]
    assert scene.rows.get("a", b"k") == row(1)
    scene.publisher.acknowledge(scene.shelves)  # it arrives after all: whoever reads the changelog next finds it
    assert scene.rows.get("a", b"k") == row(1)
    assert scene.shelves.store.reaches("a", 0) == 1


def test_a_strangers_rows_are_noticed():
    """A gap between what we wrote last and what we write next is somebody else's writing, and counted."""
    scene = Scene()
    scene.ship([("a", b"k", row(1))], 0, 1)
    scene.publisher.acknowledge(scene.shelves, base=0)
    assert scene.shelves.gaps == 0
    scene.ship([("a", b"k", row(2))], 2)
    scene.publisher.acknowledge(scene.shelves, base=5)
    assert scene.shelves.gaps == 1
    assert scene.shelves.store.reaches("a", 0) == 6
    assert scene.shelves.gaps_to_repair == [("a", 0, 1, 5)]
    assert scene.shelves.store.dirty == {0}


def test_rows_of_a_topic_that_was_deleted_are_not_counted_on():
    """Rows that count further than their log goes are tombstoned; those that do not stay."""
    scene = filled(3, Bounds(10), committed=3)
    scene.lease.resumed, scene.lease.end = 3, 3
    assert not forgotten(scene, 0)
    scene.lease.end = 2
    assert forgotten(scene, 0)
    assert scene.rows.get("a", b"0") is None
    scene.publisher.acknowledge(scene.shelves)
    assert scene.shelves.count("a") == 0


def test_a_log_that_lost_its_end_keeps_its_rows():
    """Where reading goes on from the commit, it is the same log: it lost its end, or its end is known late."""
    scene = filled(3, Bounds(10), committed=0)
    scene.lease.resumed, scene.lease.end = 2, 2
    assert not forgotten(scene, 2)
    scene.lease.resumed = None
    assert forgotten(scene, 2), "a group without a commit reads another log"


@pytest.mark.slow
def test_a_partition_begins_anew_in_slices():
    """However many rows go, the loop is others' in between; a lease that ends meanwhile sends no more."""
    scene = filled(2 * SLICE + 1, Bounds(10), committed=0)
    scene.lease.resumed, scene.lease.end = 2 * SLICE, 1
    slices = scene.shelves.forget_if_foreign(scene.publisher, scene.lease, 0)
    next(slices)
    assert len(scene.publisher.sent) == SLICE
    scene.lease.revoke()
    assert list(slices) == []
    assert len(scene.publisher.sent) == SLICE


def test_the_rows_that_count_furthest_go_last():
    """A wiping that was cut off is seen by the next lease: what tells of the other log is still there."""
    scene = filled(3, Bounds(10), committed=9)
    scene.ship([("b", b"k", row(0))])
    scene.publisher.acknowledge(scene.shelves)
    scene.lease.resumed, scene.lease.end = 3, 1
    next(scene.shelves.forget_if_foreign(scene.publisher, scene.lease, 0))
    assert [topic for topic, _, _ in scene.publisher.sent] == ["g-b"]


def test_an_unknown_offset_moves_nothing():
    """A broker that had the batch already does not say where: it is read once more at the next recovery."""
    scene = Scene()
    scene.ship([("a", b"k", row(1))], 0, 1)
    scene.publisher.acknowledge(scene.shelves, base=-1)
    assert scene.shelves.store.get("a", 0, b"k") == row(1)
    assert scene.shelves.store.reaches("a", 0) is None


def forgotten(scene, first):
    before = len(scene.publisher.sent)
    for _ in scene.shelves.forget_if_foreign(scene.publisher, scene.lease, first):
        pass
    return len(scene.publisher.sent) - before


def filled(count, bounds, committed, at=NOW, store=None):
    scene = Scene({"a": bounds, "b": Bounds(10)}, store)
    scene.ship([("a", b"%d" % n, row(n, at)) for n in range(count)], *range(count))
    scene.publisher.acknowledge(scene.shelves)
    scene.lease.committed = CommitPoint(committed, "")
    return scene


def pruned(scene):
    before = len(scene.publisher.sent)
    assert sum(scene.shelves.prune(scene.publisher)) == len(scene.publisher.sent) - before
    return [parcel.key for _, _, parcel in scene.publisher.sent if parcel.value is None]


def test_the_oldest_rows_beyond_the_bound_go():
    """Of twelve rows where ten are kept, the two written the longest ago get tombstones, once."""
    scene = filled(12, Bounds(10), committed=12)
    assert pruned(scene) == [b"0", b"1"]
    assert sum(scene.shelves.prune(scene.publisher)) == 0, "they are on their way"
    scene.publisher.acknowledge(scene.shelves)
    assert scene.shelves.count("a") == 10
    assert sum(scene.shelves.prune(scene.publisher)) == 0


def test_nothing_that_a_replay_could_count_again_goes():
    """Rows that are not behind the commit stay: after a crash they would be counted from nothing."""
    scene = filled(12, Bounds(5), committed=2)
    assert pruned(scene) == [b"0", b"1"]


def test_rows_past_their_age_go():
    """Rows whose latest result is older than the bound go, however few there are."""
    scene = filled(3, Bounds(10, age=60), committed=3, at=NOW - 61)
    assert pruned(scene) == [b"0", b"1", b"2"]


def test_a_row_being_rewritten_is_not_the_oldest_any_more():
    """A row with a newer version on its way is left alone; the next one goes in its place."""
    scene = filled(11, Bounds(10), committed=12)
    scene.ship([("a", b"0", row(11))], 11)
    assert pruned(scene) == [b"1"]


def test_a_pruning_looks_at_a_few_rows_only():
    """Among many young rows, age is looked for among the oldest alone."""
    scene = filled(LOOKS + 50, Bounds(10_000, age=60), committed=10_000, at=NOW - 61)
    assert len(pruned(scene)) == LOOKS


@pytest.mark.slow
def test_of_many_rows_too_many_some_go_at_once():
    """A bound that was lowered by much is reached step by step: the loop is not held up."""
    scene = filled(AT_ONCE + LOOKS + 100, Bounds(10), committed=100_000)
    assert len(pruned(scene)) == AT_ONCE + LOOKS


class Counting(MemoryStore):
    """Counts the looks at the oldest rows."""

    looks = 0

    def oldest(self, *place):
        self.looks += 1
        return super().oldest(*place)


def at_rest(scene):
    """Return how many looks a hundred prunings take."""
    before = scene.shelves.store.looks
    for _ in range(100):
        assert sum(scene.shelves.prune(scene.publisher)) == 0
    return scene.shelves.store.looks - before


def test_tables_at_rest_are_looked_at_only_when_a_row_expires():
    """Between two commits a table is looked at once; after that when its oldest row is past its age, not before."""
    scene = filled(3, Bounds(10, age=60), committed=3, store=Counting())
    assert at_rest(scene) == len("ab")
    scene.lease.committed = CommitPoint(4, "")
    assert at_rest(scene) == len("ab")
    scene.now += 59
    assert at_rest(scene) == 0
    scene.now += 2
    assert pruned(scene) == [b"0", b"1", b"2"]
    scene.publisher.acknowledge(scene.shelves)
    assert at_rest(scene) == 1, "the tombstones have arrived"
    assert at_rest(scene) == 0


def test_rows_that_expire_one_by_one_share_a_look():
    """Rows of one second apart, or less, are not looked at four times a second."""
    scene = filled(3, Bounds(10, age=60), committed=3, store=Counting())
    scene.now += 60 - LOOK_AGAIN / 2
    scene.lease.committed = CommitPoint(4, "")
    assert at_rest(scene) == len("ab")
    scene.now += LOOK_AGAIN * 0.6
    assert at_rest(scene) == 0
    scene.now += LOOK_AGAIN * 0.5
    assert pruned(scene) == [b"0", b"1", b"2"]


def test_a_new_lease_is_looked_at_anew():
    """What a former lease had sent may not have arrived."""
    scene = filled(12, Bounds(10), committed=12)
    assert pruned(scene) == [b"0", b"1"]
    scene.lease.revoke()
    scene.publisher.sent.clear()
    scene.leases = [Lease("g", "results", 0, position=12)]
    scene.leases[0].committed = CommitPoint(12, "")
    assert pruned(scene) == [b"0", b"1"]


@pytest.mark.parametrize("state", ["revoked", "draining", "not recovered", "not committed"])
def test_only_partitions_in_full_possession_are_pruned(state):
    """A partition that is being given up, or not there yet, is not pruned."""
    scene = filled(12, Bounds(10), committed=12)
    if state == "revoked":
        scene.lease.revoke()
    scene.lease.draining = state == "draining"
    if state == "not recovered":
        scene.shelves.recovered = set()
    if state == "not committed":
        scene.lease.committed = None
    assert sum(scene.shelves.prune(scene.publisher)) == 0


def test_the_view_has_what_is_held_and_recovered():
    """Rows of a partition are told of while its lease lives and once it has recovered; otherwise nothing, and why."""
    scene = filled(3, Bounds(10), committed=3)
    state, rows = scene.shelves, LocalRows(scene.shelves, lambda *stored: {"offset": mark(stored[3]).offset})
    assert state.readiness() == "ok"
    assert state.all_recovered
    assert state.partitions == rows.partitions == {0}
    assert rows.get("a", b"1", {0, 1}) == [{"offset": 1}]
    assert rows.get("a", b"9", {0, 1}) == []
    assert sorted(rows.scan("a", b"2", {0, 1})) == [(b"2", {"offset": 2})]
    assert (state.count("a"), state.count("b")) == (3, 0)
    scene.lease.revoke()
    assert rows.partitions == frozenset()
    assert rows.get("a", b"1", {0, 1}) == []
    assert "anew" in state.readiness()
    state.waiting_for = "recovering"
    assert state.readiness() == "recovering"
    assert not state.all_recovered


def test_what_fits_is_known_before_it_is_sent():
    """Key, row and framing together must stay within the changelog's limit."""
    scene = Scene()
    scene.publisher.limits["g-a"] = 1000
    assert scene.shelves.fits(scene.publisher, "a", b"k" * 100, 800)
    assert not scene.shelves.fits(scene.publisher, "a", b"k" * 200, 800)
