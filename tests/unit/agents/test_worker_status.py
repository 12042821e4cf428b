"""What a worker tells of itself."""

from __future__ import annotations

import time

import pytest

from agents.cluster.worker_status import partition
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
