"""Histograms of durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.histogram import BOUNDS, Histogram

DURATIONS = st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS))


def of(durations) -> Histogram:
    histogram = Histogram()
    for each in durations:
        histogram.add(each)
    return histogram


def test_a_bound_belongs_to_the_bucket_below_it():
    """As with Prometheus' `le`, what took exactly a bound is counted in its bucket; what is over all, in the last."""
    for place, bound in enumerate(BOUNDS):
        counts = of([bound]).counts
        assert (counts[place], sum(counts)) == (1, 1)
    assert of([BOUNDS[-1] + 0.001]).counts[-1] == 1


@given(DURATIONS)
def test_sorted_durations_are_counted_as_one_by_one(durations):
    """`add_sorted` counts and sums what `add` does."""
    fast = Histogram()
    fast.add_sorted(sorted(durations))
    slow = of(durations)
    assert (fast.counts, fast.count) == (slow.counts, len(durations))
    assert fast.sum == pytest.approx(slow.sum)


@given(DURATIONS, DURATIONS)
def test_merging_is_counting_all_of_both(one, other):
    """A merged histogram is that of all durations, also after a way through JSON."""
    merged = of(one)
    merged.merge(Histogram.from_row(of(other).row()))
    assert merged.counts == of([*one, *other]).counts


@given(st.lists(st.floats(0, 30), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_its_bucket(durations, share):
    """The interpolated quantile is between the bounds around the true one; of none there is none."""
    histogram = of(durations)
    found = histogram.quantile(share)
    rank = max(0, -(-share * len(durations) // 1) - 1)
    true = sorted(durations)[int(rank)]
    place = next(place for place, bound in enumerate(BOUNDS) if true <= bound)
    assert (BOUNDS[place - 1] if place else 0) - 1e-9 <= found <= BOUNDS[place] + 1e-9
    assert Histogram().quantile(share) is None


def test_quantiles_are_interpolated_and_end_at_the_last_bound():
    """Half of what is spread over a bucket is its middle; beyond all bounds the last one is told."""
    assert of([0.002] * 10).quantile(0.5) == pytest.approx((0.001 + 0.0025) / 2)
    assert of([60.0]).quantile(0.99) == BOUNDS[-1]


def test_other_bounds_are_refused():
    """A row whose buckets are not ours cannot be added to ours without lying."""
    with pytest.raises(ValueError, match="other bounds"):
        Histogram.from_row({"le": [1, 2], "counts": [0, 0, 0], "sum": 0})
