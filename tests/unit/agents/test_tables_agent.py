"""The tabulator counts batch after batch, in slices, and only for a lease that takes work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agents.tables import agent as module
from agents.tables.agent import SLICE, SLICE_BYTES, Tabulator
from streams.config.settings import Settings
from streams.kafka.lease import Lease
from streams.kafka.transport import RecordBatch
from streams.tables.state import SLICE as WIPED
from tests.unit.streams.test_state import Publisher, Scene

STALE = b'{"offset":500,"at":1}'


class Paced(Publisher):
    """A publisher whose `pace` may have something happen meanwhile."""

    def __init__(self):
        super().__init__()
        self.meanwhile = lambda: None

    async def pace(self):
        self.meanwhile()


@pytest.fixture
def scene(monkeypatch):
    scene = Scene()
    scene.publisher = Paced()
    scene.tabulator = Tabulator(Settings(), scene.publisher, scene.shelves, None)
    scene.slices = []

    class Tally:
        unreadable = 0

        def __init__(self, *_):
            pass

        def add(self, part, _):
            scene.slices.append(len(part))

        def changes(self, _):
            return []

    monkeypatch.setattr(module, "Aggregator", Tally)
    return scene


def batch(lease, count, size):
    records = [SimpleNamespace(offset=n, timestamp=0, value=b"x" * size) for n in range(count)]
    lease.deliver(records, count)
    return RecordBatch(records, lease, 0.0)


@pytest.mark.parametrize(
    ("size", "slices"),
    [
        (10, [SLICE, 50]),
        (SLICE_BYTES // 100, [100, 100, 100]),
        (SLICE_BYTES * 2, [1] * 300),
    ],
)
async def test_a_slice_is_bounded_by_number_and_bytes(scene, size, slices):
    """A slice ends where there are enough results, or bytes of them; a larger result is one for itself."""
    await scene.tabulator.tabulate(batch(scene.lease, 300, size))
    assert scene.slices == slices
    assert scene.lease.commit_point().offset == 300


async def test_a_batch_whose_lease_ended_while_kafka_was_behind_touches_nothing(scene):
    """The next lease's shelf and tally are not put aside for those of one that has ended."""
    late, now = batch(scene.lease, 3, 10), Lease("g", "results", 0, position=0)
    scene.leases = [now]
    await scene.tabulator.tabulate(batch(now, 3, 10))
    shelf, tallies = scene.rows, dict(scene.tabulator._aggregators)
    scene.publisher.meanwhile = scene.lease.revoke
    await scene.tabulator.tabulate(late)
    assert scene.rows is shelf
    assert scene.tabulator._aggregators == tallies


async def test_a_lease_that_ends_while_its_partition_begins_anew_counts_nothing(scene):
    """With the wiping cut off, what it would have counted is left to the next lease."""
    scene.shelves.store.apply("a", 0, [(b"%d" % n, STALE) for n in range(WIPED + 1)], 1)
    scene.lease.resumed, scene.lease.end = 501, 3
    cut = batch(scene.lease, 3, 10)
    scene.publisher.meanwhile = lambda: scene.publisher.sent and scene.lease.revoke()
    await scene.tabulator.tabulate(cut)
    assert len(scene.publisher.sent) == WIPED
    assert (scene.slices, scene.tabulator._aggregators) == ([], {})


async def test_rows_of_another_log_are_gone_before_anything_is_counted(scene):
    """A new topic of the same name begins with empty tables."""
    scene.shelves.store.apply("a", 0, [(b"k", STALE)], 1)
    scene.lease.resumed, scene.lease.end = 501, 3
    await scene.tabulator.tabulate(batch(scene.lease, 3, 10))
    assert [(parcel.key, parcel.value) for _, _, parcel in scene.publisher.sent] == [(b"k", None)]
    assert scene.rows.get("a", b"k") is None
