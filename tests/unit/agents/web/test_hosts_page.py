"""The page Hosts, of rows and of what workers report about them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.cluster.worker_status import host_of
from agents.web.api.query import Query
from agents.web.columns import TableView
from agents.web.pages import About, Pages
from streams.sources import load
from tests.unit.agents.web.fleet import Fleet, counted


def page(*rows: dict, sources: Sequence[dict] = ()) -> str:
    pages = Pages(Query(), About("w", "1", "requests", token_set=False))
    view = TableView.of("hosts", {}, path="/hosts")
    found = {"rows": list(rows), "total": len(rows)}
    written = pages._written("hosts.html", page="hosts", view=view, found=found, sources=list(sources)).text
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


def test_each_source_has_a_row_with_what_it_is_limited_by():
    """Its own limits or those of the host that it shares; before any request, too."""
    told = {"breaker": "open", "in_flight": 1, "users": 4, "limit": 8, "rate": 5.0, "held_seconds": 0.0}
    error = {"outcome": "timeout", "message": "no answer", "at": "2026-11-30T00:00:00Z"}
    row = {**counted("host", "gw.example:443"), "last_error": error, "workers": [told]}
    text = page(
        row,
        sources=[
            {"name": "prices", "url": "https://gw.example/{n}", "host": "gw.example:443", "row": row},
            {"name": "words", "call": "plugin:words", "host": "source words",
             "row": {"host": "source words", "workers": []}},
            {"name": "any", "url": "https://old.example/", "row": {"host": "", "workers": []}},
        ],
    ).partition(" Sources ")[2]  # fmt: skip
    assert re.search(r"prices https://gw\.example/\{n\} gw\.example:443 open 1 of 8 3 waiting at most 5 a second", text)
    assert "no answer" in text.partition("words")[0]
    assert re.search(r"words plugin:words source words unknown unknown none", text)
    assert "any https://old.example/ unknown" in text, "an older worker does not name the host"


async def test_the_row_of_a_source_is_that_of_its_limits():
    """What workers report about it, and its last error, are found by the host that its worker names."""
    async with Fleet({0}) as fleet:
        sources = [
            {"name": "prices", "host": "a.example:443 (prices)"},
            {"name": "other", "host": "b.example:80"},
            {"name": "any"},
        ]
        hosts = [{"host": "a.example (prices)", "breaker": "open", "rate": 5}]
        fleet.tell(w0={"sources": sources, "hosts": hosts})
        fleet.put("hosts", 0, b"a.example:443 (prices)", counted("host", "a.example:443 (prices)"))
        found = (await fleet.members[0].query.source_rows())["sources"]
    assert [(each["name"], len(each["row"]["workers"]), "answers" in each["row"]) for each in found] == [
        ("any", 0, False), ("other", 0, False), ("prices", 1, True)]  # fmt: skip


def test_a_worker_names_the_host_of_each_source(tmp_path):
    """As its row among the hosts is called."""
    path = tmp_path / "sources.toml"
    path.write_text("""
[sources.shared]
url = "https://gw.example/{n}"
[sources.apart]
url = "https://gw.example:8443/{n}"
limits = { per = "source" }
[sources.function]
call = "os.path:basename"
""")
    found = {name: host_of(each) for name, each in load(str(path)).by_name.items()}
    assert found == {"shared": "gw.example:443", "apart": "gw.example:8443 (apart)", "function": "source function"}
