"""A worker's answers since its start, by outcome and cache state, and their durations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from models.histogram import Histogram

NO_CACHE = "none"
"""The cache state of an invalid request."""


class AnswerStats:
    """`answers` by (outcome, cache state); `whole`: seconds from a record's receipt to its answer; `queued`: seconds
    that a cache miss waited before it was begun.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.whole = Histogram()
        self.queued = Histogram()

    def count_hits(self, elapsed: Sequence[float]) -> None:
        """Count a batch's `ok` hits: seconds each, in ascending order. Once per batch, as hits must stay cheap."""
        if elapsed:
            self.answers["ok", "hit"] += len(elapsed)
            self.whole.add_sorted(elapsed)

    def add(self, outcome: str, cache: str, elapsed: float) -> None:
        """Count any other answer."""
        self.answers[outcome, cache] += 1
        self.whole.add(elapsed)

    def report(self) -> dict[str, Any]:
        """Return the totals as plain JSON."""
        outcomes: Counter[str] = Counter()
        cache: Counter[str] = Counter()
        for (outcome, state), count in self.answers.items():
            outcomes[outcome] += count
            if state != NO_CACHE:
                cache[state] += count
        return {
            "total": outcomes.total(),
            "outcomes": dict(outcomes),
            "cache": dict(cache),
            "latency": self.whole.row(),
        }
