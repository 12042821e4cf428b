"""One host never holds up the others, and no input makes a worker take more than it has room for."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from aiohttp import web

from tests.integration.stage import PATIENCE, Upstream, asked
from tests.integration.test_metrics import scrape

HANGING = 5_000
LINE = 100
"""Requests that may wait for one host here; 32 more are in flight."""
LARGE, SIZE = 60, 900_000
ROOM = 16 << 20


def sent(url, first, count):
    """Requests with numbers of their own for as many URLs."""
    return [json.dumps({"id": f"b{n}", "url": f"{url}/doc/{n}"}).encode() for n in range(first, first + count)]


async def test_a_host_that_hangs_holds_up_nobody(stage, upstream):
    """5,000 requests for it, on one partition with all others: these are answered, cached or not, and what does not
    fit into its line is refused and told why.
    """
    worker = await stage.start(MILLRACE_MAX_WAITING_PER_HOST=str(LINE))
    async with Upstream() as hanging:
        await stage.send(sent(upstream.url, 0, 100))
        await stage.results_of({f"b{n}" for n in range(100)})
        await stage.send(
            (asked(f"{hanging.url}/doc/{n}?delay=600", n, timeout=300) for n in range(HANGING)), key=lambda _: b"k"
        )
        await stage.send([*sent(upstream.url, 0, 100), *sent(upstream.url, 1_000, 100)], key=lambda _: b"k")
        await stage.until_results(100 + 200 + HANGING - LINE - 32)
        seen = [each.result for each in await stage.read()]
        assert (await scrape(worker)).of("millrace_fetches_in_flight") == 32
    good = [result for result in seen if result["id"].startswith("b")]
    assert sorted(result["cache"] for result in good) == ["hit"] * 100 + ["miss"] * 200
    assert {result["outcome"] for result in good} == {"ok"}
    refused = [result for result in seen if result["id"].startswith("r")]
    assert HANGING - LINE - 32 <= len(refused) <= HANGING - 32, "those that wait are let go if the breaker opens"
    assert {result["outcome"] for result in refused} == {"overloaded"}
    words = "has 132 requests to answer and none was answered for .* no more may wait .*MILLRACE_MAX_WAITING_PER_HOST"
    crowded_out = [result for result in refused if re.search(words, result["error"]["message"])]
    assert len(crowded_out) >= 20
    assert all("fails too often" in each["error"]["message"] for each in refused if each not in crowded_out)
    worker.kill()  # what hangs would keep it from stopping
    await worker.ended()


@pytest.fixture
async def held():
    """An upstream that reads what it is sent and answers nothing until `go_on` is set."""
    upstream = Upstream()
    upstream.go_on = asyncio.Event()

    async def answer(request):
        await request.read()
        await upstream.go_on.wait()
        return web.json_response([1])

    upstream.app.router.add_post("/held/{n}", answer)
    async with upstream:
        yield upstream


async def test_bytes_bound_what_a_worker_takes(kafka, stage, upstream, held):
    """54 MB of requests for an upstream that hangs: half of the room is taken for them, other partitions are answered
    meanwhile, and when it answers, none of them is lost.
    """
    worker = await stage.start(MILLRACE_MAX_PENDING_BYTES=str(ROOM))
    large = (asked(f"{held.url}/held/{n}", n, method="POST", body="x" * SIZE, timeout=300) for n in range(LARGE))
    await stage.send(large, key=lambda _: b"k")
    await stage.send(sent(upstream.url, 0, 200))
    await stage.until_results(100)  # of the partitions that are open
    async with asyncio.timeout(PATIENCE):
        while (found := await scrape(worker)).of("millrace_unfinished") < ROOM // 2 // SIZE:
            await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # time to take more, if it would
    found = await scrape(worker)
    assert found.of("millrace_unfinished") <= ROOM // 2 // SIZE + 3, "what one more poll brings"
    assert _rss(worker) < 300 << 20
    held.go_on.set()
    seen = await stage.results_of({f"r{n}" for n in range(LARGE)} | {f"b{n}" for n in range(200)})
    assert {each.result["outcome"] for each in seen} == {"ok"}
    assert _rss(worker) < 300 << 20


def _rss(worker):
    pages = Path(f"/proc/{worker.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096
