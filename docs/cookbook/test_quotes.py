"""The plugin inside a worker, without broker, network or processes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import quotes

from millrace.testing import Harness, Reply, answer

SOURCES = Path(__file__).with_name("sources.toml")
URL = "https://api.example.com/quotes/ACME"
REQUEST = {"source": "quotes", "params": {"symbol": "ACME"}}
ACME = {"symbol": "ACME", "price": "12.50", "at": "2026-11-22T14:00:00Z"}


def test_a_quote_is_loaded_and_checked() -> None:
    """The document is what the schema dumps, with the check result beside it."""
    result = answer(REQUEST, {URL: ACME}, sources=SOURCES)
    assert result["outcome"] == "ok"
    assert result["document"] == {"symbol": "ACME", "price": "12.50", "at": "2026-11-22T14:00:00+00:00"}
    assert result["checks"][0]["value"] is True


def test_a_price_out_of_bounds_is_an_answer() -> None:
    """A check that returns False is no failure: the consumer decides."""
    result = answer(REQUEST, {URL: ACME | {"price": "9999"}}, sources=SOURCES)
    assert (result["outcome"], result["checks"][0]["value"]) == ("ok", False)


def test_an_invalid_quote_names_its_fields() -> None:
    """A document that the schema refuses is `invalid_document`, with the invalid fields."""
    result = answer(REQUEST, {URL: ACME | {"price": "a lot"}}, sources=SOURCES)
    assert result["outcome"] == "invalid_document"
    assert "price" in result["error"]["message"]


def test_a_failed_fetch_is_retried() -> None:
    """The worker retries; it answers the next request from its cache."""
    with Harness({URL: [Reply(status=503), ACME]}, sources=SOURCES) as service:
        assert service.answer(REQUEST)["attempts"] == 2
        assert service.answer(REQUEST)["cache"] == "hit"
        assert [request.method for request in service.requests] == ["GET", "GET"]


def test_a_check_is_a_plain_function() -> None:
    """It can be tested without a worker."""
    assert quotes.price_between("0.10", low=0.1)
    assert not quotes.price_between("12.50", high=12.0)
    assert quotes.QuoteSchema().load(ACME).price == Decimal("12.50")
