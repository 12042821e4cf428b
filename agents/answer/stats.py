"""What a worker has answered since it started: by outcome and cache state, and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from models.histogram import Histogram

NO_CACHE = "none"
"""Stands for the cache state of what was no request."""


class AnswerStats:
    """`answers` by (outcome, cache state), `whole` the time from a record's receipt to its answer, `queued` the part
    of it that passed before a request which the cache did not answer was begun.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.whole = Histogram()
        self.queued = Histogram()

    def count_hits(self, elapsed: Sequence[float]) -> None:
        """Count a batch's answers from memory that were `ok`, in the order in which they were given (seconds each).

        Once a batch: one by one would make a hit dearer.
        """
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
