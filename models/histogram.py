"""Histograms of durations: cheap to add to, and to merge."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Self

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: the upper bound, itself included, of each bucket but the last, which has none."""


class Histogram:
    """`counts` has one more element than BOUNDS; `sum` is in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self, counts: Sequence[int] = (), sum: float = 0.0) -> None:  # noqa: A002  Prometheus' name for it
        self.counts = list(counts) or [0] * (len(BOUNDS) + 1)
        self.sum = sum

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Build a histogram from `row`'s result. Raises ValueError for other bounds than ours."""
        if tuple(row["le"]) != BOUNDS or len(row["counts"]) != len(BOUNDS) + 1:
            msg = "a histogram with other bounds"
            raise ValueError(msg)
        return cls(row["counts"], row["sum"])

    def row(self) -> dict[str, Any]:
        """Return it as plain JSON: `le` (seconds), `counts` of each bucket alone, `sum` (seconds)."""
        return {"le": list(BOUNDS), "counts": list(self.counts), "sum": self.sum}

    @property
    def count(self) -> int:
        """Return how many durations were added."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def add_sorted(self, durations: Sequence[float]) -> None:
        """Count durations in ascending order, at a fraction of the cost of `add` for each."""
        start, most = 0, len(durations)
        if not most:
            return
        for place, bound in enumerate(BOUNDS):
            end = bisect_right(durations, bound, start)
            self.counts[place] += end - start
            if end == most:
                break
            start = end
        else:
            self.counts[-1] += most - start
        self.sum += sum(durations)

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def quantile(self, share: float) -> float | None:
        """Return the quantile (0 to 1) in seconds, by linear interpolation; None if nothing was counted.

        A quantile in the last bucket is its lower bound, as in Prometheus' `histogram_quantile`.
        """
        total = self.count
        if not total:
            return None
        rank = share * total
        place = next(place for place, below in enumerate(accumulate(self.counts)) if below and below >= rank)
        if place >= len(BOUNDS):
            return BOUNDS[-1]
        low = BOUNDS[place - 1] if place else 0.0
        return low + (BOUNDS[place] - low) * (rank - sum(self.counts[:place])) / self.counts[place]
