"""The demo of a route, without a broker: its route is valid, and what it prints is an order of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from agents.commands import demo_routes, demo_stage
from agents.commands.demo_stage import STRANGER
from streams.sources import load

EXAMPLE = Path(demo_stage.__file__).with_name(demo_stage.SOURCES)
ORDERS = {b"%d" % number: json.dumps(demo_routes._order(number)).encode() for number in range(demo_routes.ORDERS)}


def test_the_route_of_the_demo_is_valid(tmp_path, monkeypatch):
    """It stands behind the example's sources; its lookups use what an order has, and some orders are a stranger's."""
    monkeypatch.setenv("DEMO_TOKEN", "t")
    text = demo_routes.ROUTE.format(address="127.0.0.1:9", orders="orders", enriched="enriched", failed="failed")
    (tmp_path / "sources.toml").write_text(EXAMPLE.read_text() + text)
    [route] = load(str(tmp_path / "sources.toml")).routes.values()
    assert (route.topics, route.results, route.failures) == (("orders",), "enriched", "failed")
    assert [each.source for each in route.lookups] == ["customers", "prices"]
    strange = sum(json.loads(order)["customer"] == STRANGER for order in ORDERS.values())
    assert strange == demo_routes.ORDERS / demo_routes.CUSTOMERS
    assert all(len(json.loads(order)["lines"]) == 2 for order in ORDERS.values())


def test_an_order_of_each_kind_is_printed(capsys):
    """As it was sent, and as it came out; a failed one with the reason, and none where there is none."""
    named = {"e-1": "orders-enriched", "f-1": "orders-failed"}
    failed = SimpleNamespace(topic="f-1", key=b"0", value=ORDERS[b"0"],
                             headers=[("__dlq.errors.message", b"404\x1b[31m")])  # fmt: skip
    enriched = SimpleNamespace(topic="e-1", key=b"1", value=b'{"risk":0.2}', headers=[])
    demo_routes._report(ORDERS, {b"0": failed, b"1": enriched}, named)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["orders", "orders-enriched", "orders", "orders-failed"]
    assert lines[1].endswith('{"risk":0.2}')
    assert ("← 404" in lines[3], "\x1b" in lines[3]) == (True, False)
    demo_routes._report(ORDERS, {}, named)
    assert capsys.readouterr().out == ""
