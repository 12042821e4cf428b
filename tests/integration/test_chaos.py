"""A minute in which the upstream and memcached misbehave at random, under load."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from models.source import MAX_STALE
from tests.integration.memcached import Memcached
from tests.integration.stage import PATIENCE, Seen, Stage
from tests.integration.storm import CACHE_CONTROLS, FAILURES, Deed, Storm
from tests.turns import slowness

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
RATE = 250
"""Requests sent in a second."""
HOSTS, PATHS = 6, 60
TIMEOUT = 1.5
"""Seconds that each request gives itself."""
SLACK = 1.0
"""Seconds by which the clocks of processes may seem apart on a machine at rest: an answer is published a while after it
was decided on, longer where there is more to do.
"""
NEGATIVE_TTL = 0.5
LONGEST_FRESH, LONGEST_STALE = 2.0, 4.0
ACCOUNTS = {"ann": "secret-of-ann", "bob": "secret-of-bob"}

SOURCES = """
[sources.{name}]
url = "http://127.0.0.1:{port}/{{path}}"
auth = {{ type = "bearer", token = {{ env = "TOKEN_{upper}" }} }}
cache = {{ ttl = {fresh}, stale_while_revalidate = 0, stale_if_error = {stale}, negative_ttl = {negative} }}
max_bytes = 100_000
"""


@pytest.fixture
async def storm() -> AsyncIterator[Storm]:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    async with Storm(seed, HOSTS, ACCOUNTS) as opened:
        yield opened


async def test_every_delivery_gets_one_true_answer(stage: Stage, storm: Storm, tmp_path: Path) -> None:
    """While the upstream fails in nine ways and two memcached servers hang, die and forget, each request gets exactly
    one result, which tells what the upstream really did, for the place and account that were asked for.
    """
    draw = random.Random(storm.seed)
    async with Memcached() as one, Memcached() as other:
        sources = "".join(
            SOURCES.format(name=name, upper=name.upper(), port=storm.port, fresh=LONGEST_FRESH, stale=LONGEST_STALE,
                           negative=NEGATIVE_TTL) for name in ACCOUNTS)  # fmt: skip
        (tmp_path / "sources.toml").write_text(sources)
        stage.settings |= {f"TOKEN_{name.upper()}": token for name, token in ACCOUNTS.items()} | {
            "MILLRACE_SOURCES": str(tmp_path / "sources.toml"),
            "MILLRACE_MAX_BYTES": "100000",
            "MILLRACE_CACHE": f"memory://?entries=40&ttl={LONGEST_FRESH} "
            f"memcached://127.0.0.1:{one.port},127.0.0.1:{other.port}?timeout=0.1 "
            f"file://{tmp_path}/cache?threshold=50",
        }
        worker = await stage.start()
        trouble = asyncio.create_task(_trouble((one, other), random.Random(storm.seed + 1)))
        requests = await _load(stage, storm, draw)
        trouble.cancel()
        await asyncio.gather(trouble, return_exceptions=True)
        one.go_on()
        other.go_on()
        storm.calm = True
        busy = max(slowness() for _ in range(5))
        seen = await stage.results_of(set(requests), seconds=PATIENCE * busy)
        assert worker.process.returncode is None
        counts = Counter(each.result["id"] for each in seen)
        assert [name for name, count in counts.items() if count > 1] == []
        assert counts.keys() == requests.keys()
        for each in seen:
            _assert_true(each, requests[each.result["id"]], storm, SLACK * busy)
        told = Counter((each.result["outcome"], each.result.get("cache", "-")) for each in seen)
        print(f"{len(seen)} answers:", *(f"{o} {c}: {n}" for (o, c), n in told.most_common()), sep="\n  ")
        assert {outcome for outcome, _ in told} >= {"ok", *FAILURES.values()}
        assert {cache for outcome, cache in told if outcome == "ok"} >= {"hit", "miss", "stale", "bypass"}


async def _trouble(servers: tuple[Memcached, ...], draw: random.Random) -> None:
    """Hang, wake, end and start the servers in turns."""
    while True:
        server = draw.choice(servers)
        await asyncio.sleep(draw.uniform(0.2, 1.5))
        match draw.choice(("hang", "kill", "flush")):
            case "hang":
                server.hang()
                await asyncio.sleep(draw.uniform(0.2, 2))
                server.go_on()
            case "kill":
                await server.kill()
                await asyncio.sleep(draw.uniform(0.2, 2))
                await server.start()
            case "flush":
                await server.ask(b"flush_all\r\n")


async def _load(stage: Stage, storm: Storm, draw: random.Random) -> dict[str, dict[str, Any]]:
    """Send requests at RATE for SECONDS; returns by id what was asked for, and when."""
    requests: dict[str, dict[str, Any]] = {}
    started = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - started) < SECONDS:
        while number < elapsed * RATE:
            name = f"r{number}"
            path = f"doc-{draw.randrange(PATHS)}"
            request: dict[str, Any] = {"id": name, "timeout": TIMEOUT}
            if draw.random() < 0.5:
                host = draw.randrange(HOSTS)
                request |= {"url": f"{storm.origin(host)}/{path}"}
                place = f"127.0.0.{host + 1}:{storm.port}/{path}", "nobody"
            else:
                source = draw.choice(list(ACCOUNTS))
                request |= {"source": source, "params": {"path": path}}
                place = f"127.0.0.1:{storm.port}/{path}", source
            if draw.random() < 0.2:
                request["max_age"] = draw.choice((0, 0.5, 1))
            requests[name] = {"place": place, "max_age": request.get("max_age"), "sent": time.time()}
            await stage.producer.send(stage.requests, json.dumps(request).encode(), key=path.encode())
            number += 1
        await asyncio.sleep(0.01)
    await stage.producer.flush()
    return requests


def _assert_true(seen: Seen, asked: dict[str, Any], storm: Storm, slack: float) -> None:
    """Hold one result against what the upstream did."""
    result, deeds = seen.result, storm.deeds[asked["place"]]
    told = f"{result}, asked {asked}, deeds {deeds[-6:]}"
    assert not any(token in json.dumps(result["error"]) for token in ACCOUNTS.values() if "error" in result), told
    if result["outcome"] == "ok":
        _assert_true_document(result, asked, deeds, told, slack)
    elif result["outcome"] == "overloaded":
        assert any(deed.what in FAILURES for deeds in storm.deeds.values() for deed in deeds), told
    else:
        since = asked["sent"] - NEGATIVE_TTL - 5 - slack
        recent = {FAILURES.get(deed.what) for deed in deeds if deed.at >= since}
        # A deadline may end a request while it waits for its turn or for another try.
        assert result["outcome"] in recent or result["outcome"] == "timeout", told


def _assert_true_document(
    result: dict[str, Any], asked: dict[str, Any], deeds: list[Deed], told: str, slack: float
) -> None:
    document, cache, age = result["document"], result["cache"], result["age"]
    assert (document["place"], document["account"]) == asked["place"], told
    told_of = [deed for deed in deeds if deed.version == document["version"]]
    assert told_of, told
    allowed = [CACHE_CONTROLS[deed.cache_control] for deed in told_of]
    if asked["max_age"] is not None and cache not in ("miss", "coalesced", "bypass", "revalidated"):
        assert age <= asked["max_age"] + slack, told
    match cache:
        case "hit":
            assert age <= max(seconds[0] for seconds in allowed if seconds) + slack, told
        case "stale":
            silent = MAX_STALE if asked["place"][1] == "nobody" else LONGEST_STALE
            longest = max(seconds[0] + max(seconds[1], silent if seconds[2] is None else seconds[2])
                          for seconds in allowed if seconds)  # fmt: skip
            assert age <= longest + slack, told
        case "revalidated":
            assert "304" in {deed.what for deed in told_of}, told
        case _:
            assert "200" in {deed.what for deed in told_of}, told
            assert age <= TIMEOUT + slack, told
