"""The page Hosts, of rows and of what workers report about them."""

from __future__ import annotations

import re

from agents.web.api.query import Query
from agents.web.columns import TableView
from agents.web.pages import About, Pages
from tests.unit.agents.web.fleet import counted


def page(*rows: dict) -> str:
    pages = Pages(Query(), About("w", "1", "requests", token_set=False))
    view = TableView.of("hosts", {}, path="/hosts")
    written = pages._written("hosts.html", page="hosts", view=view, found={"rows": list(rows), "total": len(rows)}).text
    assert written is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", written))


def test_a_source_apart_has_a_row_with_its_breaker_what_waits_and_its_rate():
    """What an operator looks for when one API of a gateway fails: which, how badly, and what it is allowed."""
    told = {
        "breaker": "open",
        "in_flight": 2,
        "users": 7,
        "limit": 8,
        "rate": 50.0,
        "share": 25.0,
        "held_seconds": 12.0,
    }
    fine = {"breaker": "closed", "in_flight": 0, "users": 0, "limit": 32, "rate": None, "held_seconds": 0.0}
    error = {"outcome": "upstream_error", "message": "answered 503", "at": "2026-11-30T00:00:00Z"}
    text = page(
        {**counted("host", "gw.example:443 (prices)"), "last_error": error, "workers": [told, told]},
        {**counted("host", "gw.example:443"), "workers": [fine]},
    )
    row, _, other = text.partition("answered 503")
    assert re.search(r"gw\.example:443 \(prices\) open paused for 12 s 4 of 16 10 waiting at most 50 a second", row)
    assert re.search(r"gw\.example:443 closed 0 of 32 \d", other), "a host without a rate shows none"
