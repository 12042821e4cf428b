"""A limit that real workers share, at an upstream that counts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from bisect import bisect_left
from pathlib import Path

import pytest
from aiohttp import web

from agents.testing.broker import Broker
from tests.integration.stage import PATIENCE, Stage, Upstream

pytestmark = pytest.mark.kafka
RATE = 50
SPAN = 5.0
"""Seconds over which the upstream counts."""
CHANGE = 2.0
"""Seconds within which shares follow when a worker joins, leaves or dies."""
STEADY = 6.0
"""Seconds for which each number of workers is watched."""
SOURCES = """
[sources.prices]
url = "{url}/prices/{{sku}}"
limits = {{ rate = 50, shared = true, concurrency = 10, waiting = 10 }}
"""


class Counting(Upstream):
    """Notes when each request comes (monotonic seconds)."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[float] = []
        self.app.router.add_get("/prices/{sku}", self._price)

    async def _price(self, request: web.Request) -> web.Response:
        self.came.append(time.monotonic())
        return web.json_response({"sku": request.match_info["sku"]})

    def count(self, begin: float, end: float) -> int:
        return bisect_left(self.came, end) - bisect_left(self.came, begin)

    async def is_used(self) -> None:
        """Wait until a second has 0.9 times the limit."""
        async with asyncio.timeout(PATIENCE):
            while self.count(time.monotonic() - 1, time.monotonic()) < 0.9 * RATE:
                await asyncio.sleep(0.1)

    def most(self, begin: float, end: float) -> int:
        """Return the most requests of any SPAN that begins and ends within these moments."""
        starts = [at for at in self.came if begin <= at <= end - SPAN]
        return max((self.count(at, at + SPAN) for at in starts), default=0)


async def test_workers_that_come_and_go_share_a_rate_and_use_it(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """One worker, three, and two after a kill -9, with more to do than they may: in no five seconds does the upstream
    see more than 1.05 times the limit, and from two seconds after each change on it sees 0.9 times the limit at least.
    """
    async with Counting() as upstream:
        (tmp_path / "sources.toml").write_text(SOURCES.format(url=upstream.url))
        stage.settings |= {"MILLRACE_SOURCES": str(tmp_path / "sources.toml"), "MILLRACE_TIMEOUT": "300"}
        await stage.send(
            json.dumps({"id": f"r{n}", "source": "prices", "params": {"sku": n}}).encode() for n in range(5_000)
        )
        first = await stage.start()
        await first.logged("workers that share limits: 1; here source prices 50 of 50")
        await asyncio.sleep(0.5)
        spans = [time.monotonic()]
        await asyncio.sleep(STEADY)
        spans.append(time.monotonic())
        others = await asyncio.gather(stage.start(), stage.start())
        await asyncio.gather(*(each.logged("workers that share limits: 3") for each in (first, *others)))
        await upstream.is_used()  # a rebalance takes as long as it takes
        await asyncio.sleep(CHANGE)
        spans.append(time.monotonic())
        await asyncio.sleep(STEADY)
        killed = time.monotonic()
        spans.append(killed)
        others[0].kill()
        await asyncio.sleep(CHANGE)
        spans.append(time.monotonic())
        await asyncio.sleep(STEADY)
        spans.append(time.monotonic())
        refused = await stage.count(stage.dead_letters)
    used = [upstream.count(*span) / RATE / (span[1] - span[0]) for span in zip(spans[::2], spans[1::2], strict=True)]
    most = [upstream.most(*span) / RATE / SPAN for span in ((0.0, killed), (killed + CHANGE, spans[-1]))]
    noticed = upstream.most(killed - SPAN, killed + CHANGE + SPAN) / RATE / SPAN
    print("\nused of the limit by 1, 3 and 2 workers:", *(f"{share:.3f}" for share in used),
          "; most in 5 s before the kill, after it, around it:",
          *(f"{share:.3f}" for share in (*most, noticed)))  # fmt: skip
    assert refused == 0, "what waits for a share has not failed"
    assert max(most) <= 1.05
    assert min(used) >= least_used()


def least_used() -> float:
    """Return the share of the limit that has to be used: less where processes wait for seconds until they run."""
    return 0.9 if os.getloadavg()[0] <= 3 * (os.cpu_count() or 1) else 0.6
