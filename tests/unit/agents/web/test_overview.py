"""The figures of the first page: from what the workers have counted since they started, and the table of outcomes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.histogram import Histogram
from tests.unit.agents.web.fleet import Fleet, counted

START = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
HELD = {"end": 7, "lag": 2, "in_flight": 1, "unfinished": 2, "oldest_unfinished_s": 0.5}


def stamp(seconds):
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def answers(total, *, hits=0, failed=0, slow=0):
    """Return what a worker has counted: `slow` of its answers took 2 s, the others 20 ms."""
    latency = Histogram()
    latency.counts[4], latency.counts[10] = total - slow, slow
    outcomes = {"ok": total - failed} | ({"timeout": failed} if failed else {})
    return {
        "total": total,
        "outcomes": outcomes,
        "cache": {"hit": hits, "miss": total - hits},
        "latency": latency.row(),
    }


class Clock:
    """Has a fleet live for some seconds."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.overview = fleet.members[0].query._overview
        self.overview._noting.cancel()
        self.overview._notes.clear()

    def note(self, second, **workers):
        more = {name: {"at": stamp(second), "started_at": stamp(0), **record} for name, record in workers.items()}
        self.fleet.tell(**more)
        for member in self.fleet.members:
            member.heard.records = [record for record in member.heard.records if record["id"] in workers]
        self.overview.note()


@pytest.fixture
async def clock():
    async with Fleet({0}, {1}) as fleet:
        yield Clock(fleet)


async def told(clock):
    status, overview, _ = await clock.fleet.get("/api/overview")
    assert status == 200
    return overview


async def test_throughput_is_that_of_ten_seconds(clock):
    """Results a second of all workers, over the last ten; one that began within them counts from its beginning."""
    for second in range(30):
        clock.note(second, w0={"answers": answers(100 * second)}, w1={"answers": answers(50 * second)})
    assert (await told(clock))["throughput"] == 150.0
    clock.note(30, w0={"answers": answers(3000)}, w2={})
    assert (await told(clock))["throughput"] == 100.0


async def test_the_last_minute_alone_counts(clock):
    """Outcomes, quantiles and hit rate are of what was added within a minute, not since the start."""
    for second in range(100):
        clock.note(second, w0={"answers": answers(10 * second, hits=5 * second, failed=second, slow=second)})
    overview = await told(clock)
    assert overview["outcomes"] == {"ok": 540, "timeout": 60}
    assert overview["cache_hit_rate"] == 0.5
    assert 0.01 < overview["p50"] < 0.025
    assert 1 < overview["p95"] < 2.5


async def test_a_worker_that_started_again_counts_from_nothing(clock):
    """Under its old name, with less counted or more: what was told before the start is not of it."""
    clock.note(0, w0={"answers": answers(50)})
    for second, total in ((1, 30), (2, 90)):
        began = {"started_at": stamp(0.5), "at": stamp(second)}
        clock.note(second, w0={"answers": answers(total, hits=total), **began})
        overview = await told(clock)
        assert overview["outcomes"] == {"ok": total}
        assert overview["cache_hit_rate"] == 1
        assert overview["throughput"] == total / (second - 0.5)


async def test_what_is_not_known_is_null(clock):
    """Without one answer there are no quantiles and no hit rate; without a partition no lag, and with nobody who tells
    what is in flight none of that: nothing of it is 0.
    """
    clock.note(0, w0={"answers": answers(0)}, w1={"answers": answers(0), "in_flight": 5, "silent_s": 9.0})
    overview = await told(clock)
    names = ("p50", "p99", "cache_hit_rate", "lag", "in_flight")
    assert [overview[name] for name in names] == [None] * len(names)
    clock.note(20, w0={"answers": answers(9), "silent_s": 12.0})
    assert (await told(clock))["throughput"] is None


@pytest.mark.parametrize(
    ("partitions", "lag"),
    [
        ([{"lag": 2}, {"lag": 3}], 5), ([{"lag": 2}, {"lag": None}], None), ([{"lag": None, "end": 0}, {"lag": 1}], 1),
        ([{"lag": 2}, {"lag": 9, "topic": "results"}], 2), ([], None),
    ],
)  # fmt: skip
async def test_the_lag_is_of_all_requests_or_unknown(clock, partitions, lag):
    """Added up over the requests' partitions; unknown as soon as one is; an empty partition has none."""
    held = [{"topic": "requests", "partition": number, "committed": 1, **HELD, **each}
            for number, each in enumerate(partitions)]  # fmt: skip
    clock.note(0, w0={"answers": answers(0), "partitions": held})
    assert (await told(clock))["lag"] == lag


async def test_a_partition_that_changes_hands_makes_the_lag_unknown(clock):
    """What somebody had and nobody has is unknown, until somebody has it again, or for a minute at most."""
    held = [{"topic": "requests", "partition": number, "committed": 1, **HELD} for number in (0, 1)]
    lags = []
    for second, claimed in [(0, held), (1, held[:1]), (2, held), *((3 + each, held[:1]) for each in range(62))]:
        clock.note(second, w0={"answers": answers(0), "partitions": claimed})
        lags.append((await told(clock))["lag"])
    assert lags[:4] == [4, None, 4, None]
    assert lags[-3:] == [None, 2, 2]


async def test_a_silent_worker_makes_the_lag_unknown(clock):
    """What its record said last is not so any more; it is counted as silent, and its requests in flight are not."""
    held = [{"topic": "requests", "partition": 0, "committed": 1, **HELD}]
    clock.note(0, w0={"answers": answers(0), "in_flight": 2},
               w1={"answers": answers(0), "partitions": held, "silent_s": 9.0, "in_flight": 5})  # fmt: skip
    overview = await told(clock)
    assert (overview["lag"], overview["workers"], overview["silent"], overview["in_flight"]) == (None, 1, 1, 2)


async def test_the_last_hour_comes_from_the_tables(clock):
    """Minute by minute, those that there are, added up over workers; without tables it is said what is missing."""
    clock.note(0, w0={"answers": answers(0)}, w1={"answers": answers(0)})
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    names = [(now - timedelta(minutes=ago)).strftime("%Y-%m-%dT%H:%MZ") for ago in (70, 3, 2)]
    for name in names:
        for partition in (0, 1):
            clock.fleet.put("outcomes", partition, name.encode(), counted("minute", name, 2))
    overview = await told(clock)
    assert [(each["minute"], each["total"], each["outcomes"]) for each in overview["minutes"]] == [
        (name, 4, {"ok": 4}) for name in names[1:]]  # fmt: skip
    assert overview["minutes"][0]["p99"] > 0
    clock.note(1, w0={"answers": answers(0)})
    assert (await told(clock))["partial"]["missing"][0]["partitions"] == [1]


async def test_another_versions_histogram_is_left_out(clock):
    """A worker with other buckets does not make the page fail."""
    for second in (0, 1):
        other = answers(5 * second) | {"latency": {"le": [1.0], "counts": [second, second], "sum": 1.0}}
        clock.note(second, w0={"answers": answers(5 * second)}, w1={"answers": other})
    assert (await told(clock))["p50"] is not None
