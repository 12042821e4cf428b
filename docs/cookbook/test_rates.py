"""The function inside a worker: what it returns, and what it raises."""

from __future__ import annotations

import pytest
import rates

from millrace.testing import answer

SOURCES = '[sources.rates]\ncall = "rates:rate"\nretry.attempts = 1'


def ask(currency: str) -> dict:
    """Return the result of a request."""
    return answer({"source": "rates", "params": {"currency": currency}}, sources=SOURCES)


def test_a_rate_is_a_document() -> None:
    """What the function returns is the document."""
    assert ask("USD")["document"] == {"currency": "USD", "rate": "1.16"}


def test_what_the_function_says_is_the_outcome() -> None:
    """A status is the upstream's answer; parameters may be at fault."""
    assert (ask("XYZ")["outcome"], ask("XYZ")["error"]["kind"]) == ("upstream_error", "not_found")
    assert ask("dollar")["outcome"] == "invalid_request"


def test_a_closed_market_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure passes, so the result says that a retry may help."""
    monkeypatch.setattr(rates, "OPEN", False)
    assert ask("USD")["error"]["retryable"] is True
