"""Checks that misbehave for real, in the processes of a real worker on a real broker."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.integration.stage import Seen, Stage, Upstream, Worker, asked

PLUGIN = """
import ctypes, os, subprocess, time
from models.checks import check

@check
def spins(value):
    while True: pass
@check
def exits(value): os._exit(3)
@check
def segfaults(value): ctypes.string_at(0)
@check
def eats(value): return len(bytearray(1 << 30))
@check
def returns_huge(value): return "x" * 10_000_000
@check
def returns_unpicklable(value): return lambda: None
@check
def raises(value): raise LookupError("no such thing")
@check
def prints(value): print("hello")
@check
def opens(value): return subprocess.run(["true"]).returncode
@check
def burns(value, seconds: float = 0.01):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until: pass
    return value
"""
BAD = {
    "spins": "ran longer than 5 s",
    "exits": "ended its process: exit code 3",
    "segfaults": "ended its process: killed by SIGSEGV",
    "eats": "MemoryError",
    "returns_huge": "bytes of JSON",
    "returns_unpicklable": "not JSON serializable|no JSON|cannot",
    "raises": "LookupError: no such thing",
    "prints": "PermissionError: printed 'hello'",
    "opens": "PermissionError: subprocess.Popen",
}
DEADLINE = 5.0
GRACE = 1.0
"""Seconds beyond a check's deadline within which its request must be answered."""


@pytest.fixture
def plugin(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "bad_checks.py").write_text(PLUGIN)
    stage.settings |= {"MILLRACE_PLUGINS": "bad_checks", "PYTHONPATH": str(tmp_path), "MILLRACE_POOL_WORKERS": "2"}


async def figures(worker: Worker) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/api/pool") as response:
        told: dict[str, Any] = await response.json()
        return told


async def at_full_strength(worker: Worker) -> dict[str, Any]:
    """Wait until every process of the pool serves and none has anything to do."""
    async with asyncio.timeout(20):
        while True:
            told = await figures(worker)
            if told["alive"] == told["processes"] and not told["queued"] and not told["running"]:
                return told
            await asyncio.sleep(0.05)


def by_id(seen: list[Seen]) -> dict[str, dict[str, Any]]:
    assert len({each.result["id"] for each in seen}) == len(seen), "a request was answered twice"
    return {each.result["id"]: each.result for each in seen}


@pytest.mark.usefixtures("plugin")
async def test_a_bad_check_fails_its_own_request_alone(stage: Stage, upstream: Upstream) -> None:
    """Each kind of bad check is a `check_error` with its name, field and reason within its deadline and a second; every
    other request gets its right answer, and the pool is back at full strength.
    """
    worker = await stage.start()
    names = [*BAD, *["burns"] * 300]
    values = [
        asked(f"{upstream.url}/doc/{n}", n, checks=[{"name": name, "field": "n"}]) for n, name in enumerate(names)
    ]
    random.Random(7).shuffle(values)
    await stage.send(values)
    results = by_id(await stage.results_of({f"r{n}" for n in range(len(names))}))
    for n, (name, reason) in enumerate(BAD.items()):
        result = results[f"r{n}"]
        assert result["outcome"] == "check_error", result
        assert result["document"], "the document is still there"
        [verdict] = result["checks"]
        assert (verdict["name"], verdict["field"]) == (name, "n")
        assert re.search(reason, verdict["error"]), verdict
        assert name in result["error"]["message"]
        assert "'n'" in result["error"]["message"]
        assert verdict["elapsed_ms"] < (DEADLINE + GRACE) * 1000
    for n in range(len(BAD), len(names)):
        result = results[f"r{n}"]
        assert (result["outcome"], result["checks"][0]["value"]) == ("ok", result["document"]["n"]), result
    told = await at_full_strength(worker)
    assert (told["timeouts"], told["crashes"]) == (1, 2)
    assert told["failed"] == len(BAD) - 3


@pytest.mark.usefixtures("plugin")
async def test_children_killed_under_load_cost_nothing(stage: Stage, upstream: Upstream) -> None:
    """While 1,500 checks run, children are killed with -9 again and again: 0 requests lost, repeated or wrong."""
    worker = await stage.start(MILLRACE_MAX_WAITING_PER_HOST="1500")
    ids = {f"r{n}" for n in range(1500)}
    burns = [{"name": "burns", "field": "n"}]
    await stage.send([asked(f"{upstream.url}/doc/{n}", n, checks=burns) for n in range(1500)])
    killed: set[int] = set()
    me = psutil.Process(worker.process.pid)
    for done in range(50, 1500, 100):  # some have been answered since the last one died, however slow the machine
        await stage.until_results(done)
        for child in [each for each in me.children() if each.pid not in killed][:1]:
            child.kill()
            killed.add(child.pid)
    results = by_id(await stage.results_of(ids))
    assert len(killed) >= 10
    assert [each for each in results.values() if each["outcome"] != "ok"] == []
    assert all(each["checks"][0]["value"] == each["document"]["n"] for each in results.values())
    told = await at_full_strength(worker)
    assert told["ended"] + told["unstarted"] == len(killed)


@pytest.mark.usefixtures("plugin")
async def test_slow_checks_slow_the_consumer_down_and_nothing_else(stage: Stage, upstream: Upstream) -> None:
    """With checks far slower than fetches, fetches are held back, /readyz stays true, nobody times out or leaves."""
    worker = await stage.start(MILLRACE_TIMEOUT="15")
    ids = {f"r{n}" for n in range(400)}
    slow = [{"name": "burns", "field": "n", "args": {"seconds": 0.1}}]
    await stage.send([asked(f"{upstream.url}/doc/{n}", n, checks=slow) for n in range(400)])
    ahead, unready = 0, []
    async with aiohttp.ClientSession() as session:
        while (done := await stage.count(stage.results)) < len(ids):
            async with session.get(worker.url + "/readyz?verbose") as response:
                if response.status != 200:
                    unready.append(await response.text())
            ahead = max(ahead, sum(upstream.calls.values()) - done)
    results = by_id(await stage.results_of(ids))
    assert {each["outcome"] for each in results.values()} == {"ok"}
    assert unready == []
    assert ahead < 200, "documents piled up in front of the checks"
    assert not any(re.search("rebalanc|revok|heartbeat", line, re.IGNORECASE) for line in worker.log[5:])


@pytest.mark.usefixtures("plugin")
async def test_other_checks_on_a_cached_document_fetch_nothing(stage: Stage, upstream: Upstream) -> None:
    """A request for a document at hand runs only the checks that have not been run on it."""
    worker = await stage.start(MILLRACE_POOL_WORKERS="1")
    lists = [[], ["is_prime"], ["is_prime", "sha256"], ["sha256", "is_prime"], ["burns"]]
    for number, names in enumerate(lists):
        checks = [{"name": name, "field": "n"} for name in names]
        await stage.send([asked(f"{upstream.url}/doc/1", number, checks=checks)])
        results = by_id(await stage.results_of({f"r{number}"}))
        assert [each["name"] for each in results[f"r{number}"].get("checks", [])] == names
        assert results[f"r{number}"]["cache"] == ("hit" if number else "miss")
    assert sum(upstream.calls.values()) == 1
    told = await figures(worker)
    assert told["checks"] == 3
