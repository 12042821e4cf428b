"""Timestamps that cannot be right are taken for none."""

from __future__ import annotations

import pytest

from models.moment import age_of, believed, is_credible

NOW = 1_800_000_000.0


@pytest.mark.parametrize("age", [0, 1, 3600, 5 * 365 * 86_400, -3600, -80_000])
def test_what_may_be_right_is_believed(age):
    """From Kafka's first year to a day ahead of our clock, which may be another zone's."""
    timestamp = int((NOW - age) * 1000)
    assert is_credible(timestamp, NOW)
    assert (believed(timestamp, NOW), age_of(timestamp, NOW)) == (timestamp, max(0, age))


@pytest.mark.parametrize(
    "timestamp", [-1, -2, 0, 1000, int(NOW), int(NOW * 1000) * 1000, int(NOW * 1000) * 1_000_000, (1 << 63) - 1,
                  -(1 << 63), int((NOW + 90_000) * 1000)],
)  # fmt: skip
def test_what_cannot_be_right_is_not(timestamp):
    """None, the epoch, seconds, micro- and nanoseconds for milliseconds, and days ahead: the age is not known."""
    assert age_of(timestamp, NOW) is None
    assert believed(timestamp, NOW) == NOW * 1000


def test_where_nothing_is_there_is_no_age():
    """As it is of nothing unfinished."""
    assert age_of(None, NOW) is None
