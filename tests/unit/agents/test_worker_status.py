"""What a worker tells of itself."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace

import pytest

from agents.cluster.worker_status import WorkerStatus, partition, route
from models.route import Lookup, Route
from models.source import Sources
from streams.config.settings import Settings
from streams.kafka.lease import Lease
from tests.fakes import Record


def test_a_partition_s_lag_is_its_lease_s() -> None:
    """Pages and metrics show the same figure, also of a group that has committed nothing yet."""
    lease = Lease("group", "requests", 3)
    assert partition(lease)["lag"] is lease.lag is None
    lease.deliver([Record(0), Record(1)], 2, 10)
    assert partition(lease)["lag"] == lease.lag == 10
    assert partition(lease)["committed"] is None


@pytest.mark.parametrize("timestamp", [-1, 0, 1_700_000_000, 1_700_000_000_000_000])
def test_the_age_of_a_record_whose_time_cannot_be_right_is_unknown(timestamp: int) -> None:
    """A producer that writes seconds for milliseconds makes no record 57 years old, which would alert for ever."""
    lease = Lease("group", "requests", 3)
    lease.deliver([Record(0, timestamp), Record(1, int(time.time() * 1000) - 5_000)], 2, 10)
    assert partition(lease)["oldest_unfinished_s"] is None
    lease.finish(0)
    assert 5 <= partition(lease)["oldest_unfinished_s"] < 60


def routed(*lags: int | None, **more: bool) -> SimpleNamespace:
    """A route of a worker that holds so many partitions, each with this lag."""
    leases = {number: SimpleNamespace(alive=True, lag=lag, oldest_unfinished=None, held=0)
              for number, lag in enumerate(lags)}  # fmt: skip
    app = SimpleNamespace(conf=SimpleNamespace(id="g-orders"), started=True, should_stop=False,
                          holder=SimpleNamespace(leases=leases))  # fmt: skip
    app.__dict__.update(more)
    runner = SimpleNamespace(outcomes=Counter(ok=5, timeout=1), in_progress=2, waiting=Counter({"source scores": 1}))
    described = Route("orders", ("orders", "^r.*"), "enriched", (Lookup("risk", "scores"),))
    return SimpleNamespace(route=described, app=app, runner=runner, dead_letters="dead-letters",
                           topics=["orders", "returns"])  # fmt: skip


def test_records_that_wait_for_their_key_are_shown_with_what_a_route_waits_for() -> None:
    """In the order of keys, next to the sources that are waited for, and for each partition."""
    part = routed(3, 0)
    part.app.holder.leases[1].held = 4
    assert route(part)["waiting"] == {"source scores": 1, "an earlier record of the key": 4}
    lease = Lease("group", "requests", 3)
    lease.held = 4
    assert partition(lease)["waiting_for_key"] == 4


def test_a_route_reports_what_it_does_and_what_it_waits_for() -> None:
    """Its lag is that of all the partitions that this worker holds."""
    assert route(routed(3, 0)) == {
        "name": "orders", "topics": ["orders", "returns"], "patterns": ["^r.*"],
        "lookups": [{"name": "risk", "source": "scores"}],
        "results": "enriched", "failures": "dead-letters", "group": "g-orders", "partitions": 2,
        "outcomes": {"ok": 5, "timeout": 1}, "in_progress": 2, "waiting": {"source scores": 1}, "lag": 3,
        "oldest_unfinished_s": None,
    }  # fmt: skip


def test_what_is_not_known_of_a_route_is_null() -> None:
    """A partition whose end is not known yet, an app that has not started, a runner that is not there yet."""
    assert route(routed(3, None))["lag"] is None
    starting = routed(started=False)
    starting.runner = None
    told = route(starting)
    assert [told[name] for name in ("partitions", "lag", "in_progress")] == [None, None, None]
    assert route(routed())["lag"] == 0


@pytest.mark.parametrize(("stopping", "state"), [(False, "running"), (True, "stopping")])
async def test_a_worker_whose_route_stops_is_stopping(stopping: bool, state: str) -> None:
    """The apps of routes count as the others do."""
    app = routed(should_stop=False).app
    answering = SimpleNamespace(app=app, resources=None)
    status = WorkerStatus(Settings(), Sources(), answering, None, [routed(should_stop=stopping)],
                          loop=SimpleNamespace(lag=0.0), port=1)  # fmt: skip
    told = await status.record()
    assert (told["state"], [each["name"] for each in told["routes"]]) == (state, ["orders"])
