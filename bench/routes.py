"""What a route's record costs whose one answer is cached, merged into 500 bytes of JSON: beside a plain hit, and beside
the same written by hand. `python -m bench.routes`; every figure of a row comes from interleaved runs.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path
from statistics import median

from aiokafka import AIOKafkaConsumer

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.__main__ import SEED, URLS, ZIPF, measure
from bench.stage import WORKERS, Measured, Stage, Upstream

ROUTE = """
[sources.risk]
url = "{url}/{{id}}"

[routes.orders]
topics = ["{orders}"]
results = "{enriched}"

[[routes.orders.lookups]]
source = "risk"
params = {{ id = "value.customer.id" }}
into = "risk"
"""
WORKERS["by hand, route"] = [sys.executable, "-m", "bench.peers.by_hand_route"]


class RouteStage(Stage):
    """Orders in, enriched orders out."""

    def __init__(self, servers: str, worker: str, url: str, folder: str) -> None:
        super().__init__(servers, worker)
        mark = self.requests.rpartition("-")[2]
        self.names = (*self.names, f"orders-{mark}", f"enriched-{mark}")
        self.requests, self.results = self.names[-2:]  # what is measured here
        file = Path(folder) / f"{mark}.toml"
        file.write_text(ROUTE.format(url=url, orders=self.requests, enriched=self.results), encoding="utf-8")
        self.environment |= {
            "MILLRACE_SOURCES": str(file), "ORDERS": self.requests, "ENRICHED": self.results, "URL": url,
        }  # fmt: skip

    async def _verify(self, count: int, _: int) -> None:
        consumer = AIOKafkaConsumer(self.results, bootstrap_servers=self.servers, auto_offset_reset="earliest",
                                    max_poll_records=10_000)  # fmt: skip
        await consumer.start()
        seen: set[str] = set()
        while batch := await consumer.getmany(timeout_ms=2000):
            for record in (record for records in batch.values() for record in records):
                order = json.loads(record.value)
                assert str(order["risk"]["n"]) == order["customer"]["id"], order
                seen.add(order["number"])
        await consumer.stop()
        assert len(seen) == count, f"{self.worker}: {count - len(seen)} of {count} records have no output"


def orders(count: int) -> tuple[list[bytes], list[bytes]]:
    """Return warming orders, one a customer, and `count` orders drawn by Zipf, of 500 bytes each."""
    draw = random.Random(SEED)
    drawn = draw.choices(range(URLS), [1 / (rank + 1) ** ZIPF for rank in range(URLS)], k=count)

    def order(name: str, customer: int) -> bytes:
        value = {"number": name, "customer": {"id": str(customer), "country": "DE"}, "total": 12.5, "note": ""}
        value["lines"] = [{"sku": f"s{n}", "count": n, "price": 2.5} for n in range(6)]
        value["note"] = "x" * (500 - len(json.dumps(value)))
        return json.dumps(value).encode()

    return [order(f"w{n}", n) for n in range(URLS)], [order(f"o{n}", rank) for n, rank in enumerate(drawn)]


def main() -> None:
    """Measure, and print the ratios."""
    parser = EntryPoint("bench.routes", __doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.begin()
    runs: dict[str, list[Measured]] = {"plain hit": [], "route": [], "route by hand": []}
    warm, load = orders(options.records)
    with broker() as found, Upstream(0.0) as upstream, tempfile.TemporaryDirectory() as folder:
        print(f"on {found.kind}, medians of {options.repeat} interleaved runs of {options.records:,} records")
        for _ in range(options.repeat):
            runs["plain hit"].append(asyncio.run(measure(found.servers, "hit", options.records, "millrace")))
            for name, worker in (("route", "millrace"), ("route by hand", "by hand, route")):
                stage = RouteStage(found.servers, worker, upstream.url, folder)
                runs[name].append(asyncio.run(stage.measure(warm, load)))
    cpu = {name: median(run.cpu for run in each) for name, each in runs.items()}
    for name, each in runs.items():
        rate = median(run.requests / run.seconds for run in each)
        print(f"{name:14} {cpu[name]:6.1f} µs CPU a record ({min(r.cpu for r in each):.1f} to "
              f"{max(r.cpu for r in each):.1f})  {rate:8,.0f} /s")  # fmt: skip
    print(f"a route's hit takes {cpu['route'] / cpu['plain hit']:.2f} × a plain hit, "
          f"{cpu['route'] / cpu['route by hand']:.2f} × the same by hand")  # fmt: skip


if __name__ == "__main__":
    main()
