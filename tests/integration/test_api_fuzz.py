"""The API fuzzed from its own document: a real server on loopback, schemathesis with every check that it has, of what
is asked and of what is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents.web.api.submission import RequestSubmission
from streams.cache.front import Cache
from streams.config.cache_url import MemoryTier
from streams.pool import CheckPool
from tests.unit.agents.web.fleet import TOKEN, Fleet, answer_row, counted
from tests.unit.agents.web.test_dead_letters import letter, letters

EXAMPLES = 15
"""Requests that are made up for each operation, beside those of the coverage phase."""
CONFIG = Path(__file__).parent / "schemathesis.toml"


class Sender:
    """What stands in for the topic of the requests."""

    def __init__(self):
        self.sent = []

    async def partition_for(self, _topic, key):
        return len(key or b"") % 4

    async def send(self, _topic, _partition, key, value, _headers):
        self.sent.append((key, value))
        return len(self.sent)


class Tail:
    """The end of the results: each request is answered at once, but every third not in time."""

    def __init__(self):
        self.count = 0

    @asynccontextmanager
    async def expecting(self, request_id, _partition):
        coming = asyncio.get_running_loop().create_future()
        self.count += 1
        if self.count % 3:
            coming.set_result(json.dumps({"id": request_id, "outcome": "ok", "elapsed_ms": 1.0}).encode())
        else:
            coming.set_result(b"no result")
        yield coming


class Own:
    def __init__(self, cache):
        self.resources = SimpleNamespace(cache=cache, pool=CheckPool(2))


def filled(fleet):
    """Put something into every table, and into everything that the workers tell."""
    for number in range(30):
        row = answer_row(number, number % 4, key=str(number))
        fleet.put("answers", number % 4, row["key"].encode(), row)
    for partition in range(4):
        fleet.put("hosts", partition, b"a.example:80", counted("host", "a.example:80"))
        fleet.put("outcomes", partition, b"2026-11-22T14:00Z", counted("minute", "2026-11-22T14:00Z"))
        check = {"name": "is_prime", "runs": 1, "failures": 0, "seconds": 0.1, "slowest_ms": 1.0,
                 "last_seen": "2026-11-22T14:00:00Z"}  # fmt: skip
        fleet.put("checks", partition, b"is_prime", check)
    partitions = [{"topic": "requests", "partition": 0, "committed": 5, "end": None, "lag": None, "in_flight": 1,
                   "unfinished": 1, "oldest_unfinished_s": 0.5}]  # fmt: skip
    answers = {"total": 9, "outcomes": {"ok": 9}, "cache": {"hit": 9}, "latency": counted("x", "y", 9)["latency"]}
    hosts = [{"host": "a.example:80", "breaker": "closed", "in_flight": 0, "users": 0, "held_seconds": 0.0}]
    routes = [{"name": "orders", "topics": ["orders"], "lookups": [{"name": "risk", "source": "quotes"}],
               "results": "enriched", "failures": "failed", "group": "g-orders", "partitions": 4, "outcomes": {"ok": 9},
               "in_progress": 1, "waiting": {"source quotes": 1}, "lag": None}]  # fmt: skip
    topic = {"topic": "g-later-60s", "delay_s": 60, "waiting": 1, "deferred": 2, "taken_up": 1, "partitions": 4,
             "next_due": 1_800_000_000.0, "overdue_s": 0.0}  # fmt: skip
    later = {"topics": [topic], "exhausted": 1}
    fleet.tell(w0={"partitions": partitions, "answers": answers, "hosts": hosts, "in_flight": 1,
                   "sources": [{"name": "quotes", "url": "https://a.example/{symbol}", "method": "GET"}],
                   "routes": routes, "retry_later": later,
                   "cache": {"tiers": [], "counts": {}}, "pool": {"processes": 2}})  # fmt: skip


@pytest.fixture
async def fleet():
    async with Fleet({0, 1}, {2, 3}) as opened, Cache([MemoryTier()]) as cache:
        member = opened.members[0]
        filled(opened)
        letters(opened, letter(9), letter(8)._replace(redriven=True))
        member.query._own = Own(cache)
        intake = member.api._submission
        assert isinstance(intake, RequestSubmission)
        intake._sender, intake._tail = Sender(), Tail()
        yield opened


async def test_the_api_keeps_what_its_document_says(fleet, tmp_path):
    """What the document lets in is answered as it says, what it does not is refused, and nothing is a fault."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG), "run",
        fleet.members[0].url + "/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful",
        "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color", "--workers", "1",
        "--header", f"Authorization: Bearer {TOKEN}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip
    try:
        async with asyncio.timeout(300):
            said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said
    assert "Tested: 19" in said
    assert len(fleet.members[0].api._submission._sender.sent) > 20
