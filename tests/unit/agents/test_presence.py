"""What a worker tells of itself."""

from __future__ import annotations

from typing import NamedTuple

from agents.presence import partition
from streams.kafka.lease import Lease


class Record(NamedTuple):
    offset: int
    timestamp: int = 0


def test_a_partition_s_lag_is_its_lease_s() -> None:
    """Pages and metrics show the same figure, also of a group that has committed nothing yet."""
    lease = Lease("group", "requests", 3)
    assert partition(lease)["lag"] is lease.lag is None
    lease.deliver([Record(0), Record(1)], 2, 10)
    assert partition(lease)["lag"] == lease.lag == 10
    assert partition(lease)["committed"] is None
