"""What was answered, in numbers."""

from __future__ import annotations

import pytest

from agents.answer.stats import NO_CACHE, AnswerStats


def test_figures_add_up():
    """Totals by outcome and by cache state are sums over both; what was no request has no cache state."""
    account = AnswerStats()
    account.count_hits([0.001, 0.002, 0.5])
    account.count_hits([])
    account.add("ok", "miss", 0.2)
    account.add("timeout", "miss", 30.0)
    account.add("invalid_request", NO_CACHE, 0.0)
    figures = account.report()
    assert (figures["total"], figures["outcomes"]) == (6, {"ok": 4, "timeout": 1, "invalid_request": 1})
    assert figures["cache"] == {"hit": 3, "miss": 2}
    assert (sum(figures["latency"]["counts"]), figures["latency"]["sum"]) == (6, pytest.approx(30.703))
    assert account.answers["ok", "hit"] == 3
