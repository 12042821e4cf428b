"""What the plugin does inside a worker, without broker, network or processes."""

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
    """The document is what the schema made of it, the verdict stands beside it."""
    result = answer(REQUEST, {URL: ACME}, sources=SOURCES)
    assert result["outcome"] == "ok"
    assert result["document"] == {"symbol": "ACME", "price": "12.50", "at": "2026-11-22T14:00:00+00:00"}
    assert result["checks"][0]["value"] is True


def test_a_price_out_of_bounds_is_an_answer() -> None:
    """A check that says no makes no failure: whoever reads the result decides."""
    result = answer(REQUEST, {URL: ACME | {"price": "9999"}}, sources=SOURCES)
    assert (result["outcome"], result["checks"][0]["value"]) == ("ok", False)


def test_what_is_no_quote_is_told_by_field() -> None:
    """A document that does not fit is `invalid_document`, with the fields that are wrong."""
    result = answer(REQUEST, {URL: ACME | {"price": "a lot"}}, sources=SOURCES)
    assert result["outcome"] == "invalid_document"
    assert "price" in result["error"]["message"]


def test_an_upstream_that_fails_is_asked_again() -> None:
    """Retries are the worker's own; the next request is answered from its cache."""
    with Harness({URL: [Reply(status=503), ACME]}, sources=SOURCES) as service:
        assert service.answer(REQUEST)["attempts"] == 2
        assert service.answer(REQUEST)["cache"] == "hit"
        assert [asked.method for asked in service.asked] == ["GET", "GET"]


def test_a_check_is_a_plain_function() -> None:
    """What needs no worker is tested without one."""
    assert quotes.price_between("0.10", low=0.1)
    assert not quotes.price_between("12.50", high=12.0)
    assert quotes.QuoteSchema().load(ACME).price == Decimal("12.50")
