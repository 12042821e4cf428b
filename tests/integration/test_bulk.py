"""Bulk lookups on a real worker and Kafka: how many calls a real upstream gets, and what comes of each request."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from aiohttp import ClientSession, web

from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from tests.integration.stage import PATIENCE, Stage, Upstream

SOURCES = """
[sources.prices]
url = "{url}/prices?sku={{sku}}"
batch = {{ param = "sku", items = "prices", key = "sku", size = 50, wait = 0.5 }}

[routes.orders]
topics = ["orders-{mark}"]
results = "priced-{mark}"

[[routes.orders.lookups]]
source = "prices"
params = {{ sku = "value.lines[*]" }}
into = "prices"
required = false
"""
UNKNOWN, REFUSED = "unknown", "refused"


class Shop(Upstream):
    """Prices many articles in a call; a call with one of them is refused as a whole, and one does not exist."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.app.router.add_get("/prices", self._prices)

    async def _prices(self, request: web.Request) -> web.Response:
        skus = request.query["sku"].split(",")
        self.asked.append(skus)
        if REFUSED in skus:
            return web.Response(status=413)
        items = ",".join(f'{{"sku": "{sku}", "price": 1.10}}' for sku in skus if sku != UNKNOWN)
        return web.Response(text=f'{{"prices": [{items}]}}', content_type="application/json")


def request(number: int, sku: str) -> bytes:
    return json.dumps({"id": f"r{number}", "source": "prices", "params": {"sku": sku}}).encode()


async def test_requests_share_calls_and_have_results_of_their_own(stage: Stage, tmp_path: Path) -> None:
    """Of 400 requests, one for what does not exist and one that is refused, each gets its own result in a few calls;
    asked again, all are hits, failures too. The metrics count calls and keys.
    """
    skus = [f"s{number}" for number in range(398)] + [UNKNOWN, REFUSED]
    async with Shop() as shop:
        (tmp_path / "sources.toml").write_text(SOURCES.format(url=shop.url, mark=stage.mark))
        stage.settings |= {"MILLRACE_SOURCES": str(tmp_path / "sources.toml"), "MILLRACE_NEGATIVE_TTL": "60"}
        await topics(stage)
        worker = await stage.start()
        await stage.send([request(number, sku) for number, sku in enumerate(skus)])
        ids = {f"r{number}" for number in range(400)}
        results = {seen.result["id"]: seen.result for seen in await stage.results_of(ids)}
        for number, sku in enumerate(skus[:398]):
            result = results[f"r{number}"]
            assert (result["outcome"], result["document"]["sku"]) == ("ok", sku)
            assert result["request"]["url"] == f"{shop.url}/prices?sku={sku}"
        assert results["r398"]["error"]["kind"] == "not_found"
        assert (results["r399"]["outcome"], results["r399"]["status"]) == ("upstream_error", 413)
        assert max(map(len, shop.asked)) <= 50
        refused = sum(REFUSED in asked for asked in shop.asked)  # halved down to the one key
        calls = len(shop.asked)
        assert calls - 2 * refused <= 20

        await stage.send([request(1000 + number, sku) for number, sku in enumerate(skus)])
        ids = {f"r{1000 + number}" for number in range(400)}
        again = [seen.result for seen in await stage.results_of(ids) if seen.result["id"] in ids]
        assert {result["cache"] for result in again} == {"hit"}
        assert len(shop.asked) == calls
        async with ClientSession() as session, session.get(f"{worker.url}/metrics") as response:
            lines = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[0] != "#")
        assert float(lines['millrace_bulk_calls_total{source="prices"}']) == calls
        assert float(lines['millrace_bulk_keys_total{source="prices"}']) >= 400


async def test_records_of_a_route_share_calls(stage: Stage, tmp_path: Path) -> None:
    """The values of a list are asked for together, with those of other records; the record goes on without a price that
    does not exist, and digits are as the upstream sent them.
    """
    async with Shop() as shop:
        (tmp_path / "sources.toml").write_text(SOURCES.format(url=shop.url, mark=stage.mark))
        stage.settings |= {"MILLRACE_SOURCES": str(tmp_path / "sources.toml")}
        await topics(stage)
        await stage.start()
        orders = [{"number": n, "lines": [f"o{n}-{line}" for line in range(10)]} for n in range(20)]
        orders.append({"number": 20, "lines": [UNKNOWN]})
        for order in orders:
            await stage.producer.send(f"orders-{stage.mark}", json.dumps(order).encode())
        async with asyncio.timeout(PATIENCE):
            while await stage.count(f"priced-{stage.mark}") < len(orders):
                await asyncio.sleep(0.05)
        priced = {json.loads(each.result)["number"]: each for each in await stage.read(f"priced-{stage.mark}")}
        assert [each["sku"] for each in json.loads(priced[7].result)["prices"]] == orders[7]["lines"]
        assert priced[7].result.count(b'"price":1.10') == 10
        assert priced[20].headers["millrace_missing"] == b"prices: upstream_error"
        assert len(shop.asked) <= 20


async def topics(stage: Stage) -> None:
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        for name in (f"orders-{stage.mark}", f"priced-{stage.mark}"):
            await admin.create(name, stage.partitions, 1)
        await admin.settled(f"orders-{stage.mark}", f"priced-{stage.mark}")
