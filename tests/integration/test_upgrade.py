"""Workers of the last release and of this one: beside each other in one group, and each on what the other left."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from models.dead_letter import DLQ
from streams.kafka.commit_metadata import CompletedOffsets
from tests.integration.memcached import Memcached
from tests.integration.neighbours import (
    KNOWN,
    NEW,
    Flow,
    assert_no_traceback,
    get,
    start,
    until_all,
    until_shared,
    until_total,
    until_workers,
)
from tests.integration.releases import last_release
from tests.integration.stage import PATIENCE, Stage, Upstream, repeats
from tests.integration.test_commands import millrace
from tests.integration.test_metrics import scrape
from tests.integration.test_tables import assert_equal_to_replay, until_counted

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("kafka", "sources")]
Pair = tuple[Path | None, Path | None]
BESIDE = 250
"""Results that come while a worker of each release is in the group: 2.5 s of them."""
FINISHED = 400
"""Requests that are finished beyond the commit points when a worker is killed."""
SOURCES = """
[sources.docs]
url = "{url}/doc/{{n}}"
"""
PATHS = ("overview", "workers", "partitions", "hosts", "sources", "routes", "cache", "errors", "tables",
         "tables/answers?limit=100", "tables/hosts", "tables/outcomes", "tables/checks")  # fmt: skip
"""What the pages read."""


class Waiting(Upstream):
    """Answers `/slow/<n>` once `gate` is set, and `/later` with 425, which trips no breaker, until it has recovered."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.recovered = False
        self.app.router.add_get("/slow/{n}", self._slow)
        self.app.router.add_get("/later", self._later)

    async def _slow(self, _: web.Request) -> web.Response:
        await self.gate.wait()
        return web.json_response({"slow": True})

    async def _later(self, _: web.Request) -> web.Response:
        return web.json_response({"late": True}) if self.recovered else web.Response(status=425)


@pytest.fixture
async def upstream() -> AsyncIterator[Waiting]:
    async with Waiting() as opened:
        yield opened


@pytest.fixture(scope="session")
def old() -> Path:
    """The folder of the last release."""
    return last_release()


@pytest.fixture(params=["upgrade", "rollback"])
def pair(request: pytest.FixtureRequest, old: Path) -> Pair:
    """The release that is there first, and the one that comes."""
    return (old, NEW) if request.param == "upgrade" else (NEW, old)


@pytest.fixture
def sources(stage: Stage, upstream: Waiting, tmp_path: Path) -> Path:
    """A file of sources, which both releases read."""
    file = tmp_path / "sources.toml"
    file.write_text(SOURCES.format(url=upstream.url), encoding="utf-8")
    stage.settings |= {"MILLRACE_SOURCES": str(file), "MILLRACE_ROLE": "all"}
    return file


async def test_workers_are_replaced_by_those_of_the_other_release(
    stage: Stage, upstream: Waiting, tmp_path: Path, pair: Pair
) -> None:
    """Under load, one after the other, each on the tables' folder of the one before it: each request has one result,
    the tables are what a replay makes of the results, and side by side the API of both answers for both.
    """
    before, after = pair
    flow = Flow(stage, upstream)
    names = "one", "two"
    started = await asyncio.gather(*(start(stage, before, tmp_path, name) for name in names))
    running = dict(zip(names, started, strict=True))
    async with flow.running():
        for name, worker in list(running.items()):
            await flow.more(50)
            worker.terminate()
            assert await worker.ended() == 0
            running[name] = await start(stage, after, tmp_path, name)
            for each in running.values():
                await until_workers(each, *running)
                await until_shared(each, stage)
            await flow.more(BESIDE)
            for each, path in product(running.values(), PATHS):
                await get(each, path)
    seen = await stage.results_of(flow.ids)
    assert repeats(seen) == 0
    await stage.assert_commits_are_true(await stage.offsets(), seen)
    await until_counted(stage)
    await assert_equal_to_replay(stage)
    for worker in running.values():
        await until_total(worker, len(seen), len(seen))
    assert_no_traceback(stage)


async def test_a_worker_is_killed_beside_one_of_the_other_release(
    stage: Stage, upstream: Waiting, tmp_path: Path, pair: Pair
) -> None:
    """Killed under load, while both have partitions: the other takes over, shows it as silent, and repeats no more than
    what was finished since the last commit.
    """
    killed, stays = pair
    flow = Flow(stage, upstream)
    victim, survivor = await asyncio.gather(
        start(stage, killed, tmp_path, "victim"), start(stage, stays, tmp_path, "survivor")
    )
    async with flow.running():
        await until_shared(survivor, stage)
        await flow.more(BESIDE)
        victim.kill()
        await victim.ended()
        finished = {each.result["id"] for each in await stage.read()}
        places, commits = await stage.offsets(), await stage.remembered()
        await until_all(survivor, stage)
    seen = await stage.results_of(flow.ids)
    committed = {name for (partition, number), name in places.items() for offset, list_ in [commits[partition]]
                 if number < offset or (list_ is not None and number in list_)}  # fmt: skip
    print(f"\nkill -9 beside the other release: {flow.sent} requests, 0 lost, {repeats(seen)} repeats, "
          f"{len(finished - committed)} were finished since the last commit")  # fmt: skip
    assert repeats(seen) <= len(finished - committed)
    await stage.assert_commits_are_true(await stage.offsets(), seen)
    await until_counted(stage)
    await assert_equal_to_replay(stage)
    await until_total(survivor, flow.sent, len(seen))
    assert_no_traceback(stage)


async def test_what_one_release_leaves_the_other_reads(
    stage: Stage, upstream: Waiting, tmp_path: Path, pair: Pair
) -> None:
    """A worker that is killed leaves lists of finished offsets, entries in files and in memcached, rows and a dead
    letter: the other answers nothing of the lists again, hits each entry, has the rows, and redrives the letter; by its
    mark the first knows that it is redriven.
    """
    leaves, reads = pair
    async with Memcached() as memcached:
        files, network = f"file://{tmp_path / 'cache'}", f"memcached://{memcached.host}:{memcached.port}?timeout=5"
        worker = await start(stage, leaves, tmp_path, "same", MILLRACE_CACHE=f"memory:// {files} {network}")
        await _leave(stage, upstream)
        await until_counted(stage)
        worker.kill()
        await worker.ended()
        await stage.evict()
        upstream.gate.set()
        for tier in (files, network):
            worker = await start(stage, reads, tmp_path, "same", MILLRACE_CACHE=f"memory:// {tier}")
            if tier == files:
                await stage.results_of({f"slow{number}" for number in range(stage.partitions)})
                assert (await scrape(worker)).of("millrace_skipped_completed_records_total") == FINISHED + 1
            await _assert_hits(stage, upstream, tier[:3])
            if tier == files:
                worker.terminate()
                assert await worker.ended() == 0
        upstream.recovered = True
        await _redrive_once(stage, leaves, reads)
        await until_counted(stage)
        await assert_equal_to_replay(stage)
        seen = await stage.read()
        assert repeats(seen) == 1, "only what was redriven has two results"
        await until_total(worker, len(seen) - 1, len(seen))
    assert_no_traceback(stage)


async def _put(stage: Stage, name: str, url: str, partition: int | None = None, **more: Any) -> None:
    value = json.dumps({"id": name, "url": url, **more}).encode()
    await stage.producer.send(stage.requests, value, key=name.encode(), partition=partition)


async def _leave(stage: Stage, upstream: Upstream) -> None:
    """Have everything answered but the first request of each partition, and wait until a commit says so."""
    for number in range(stage.partitions):
        await _put(stage, f"slow{number}", f"{upstream.url}/slow/{number}", number, timeout=25)
    for number in range(FINISHED):
        await _put(stage, f"r{number}", f"{upstream.url}/doc/{number}")
    await _put(stage, "letter", f"{upstream.url}/later", max_age=0)
    await stage.until_results(FINISHED + 1)
    async with asyncio.timeout(PATIENCE):
        while sum(_count(found) for _, found in (await stage.remembered()).values()) < FINISHED + 1:
            await asyncio.sleep(0.1)


def _count(found: CompletedOffsets | None) -> int:
    return 0 if found is None else sum(stop - start for start, stop in found.ranges)


async def _assert_hits(stage: Stage, upstream: Upstream, prefix: str) -> None:
    """Ask for what the first worker fetched: each is a hit, with its document, and nothing is fetched."""
    fetched = upstream.calls.copy()
    for number in range(KNOWN):
        await _put(stage, f"{prefix}{number}", f"{upstream.url}/doc/{number}")
    names = {f"{prefix}{number}" for number in range(KNOWN)}
    found = [each.result for each in await stage.results_of(names) if each.result["id"] in names]
    assert Counter(each["cache"] for each in found) == {"hit": KNOWN}
    assert {each["id"]: each["document"] for each in found} == {f"{prefix}{n}": {"n": n} for n in range(KNOWN)}
    assert upstream.calls == fetched


async def _redrive_once(stage: Stage, leaves: Path | None, reads: Path | None) -> None:
    """Redrive the letter that the first release wrote by the second; then the first has nothing to redrive."""
    code, _, err = await millrace(stage, "redrive", "--all", release=reads)
    assert (code, "1 redriven" in err) == (0, True), err
    async with asyncio.timeout(PATIENCE):
        while [each.result["outcome"] for each in await stage.read() if each.result["id"] == "letter"][1:] != ["ok"]:
            await asyncio.sleep(0.1)
    [letter] = await stage.read(stage.dead_letters)
    assert letter.headers[DLQ + "delivery.count"] == b"1"
    code, _, err = await millrace(stage, "redrive", "--all", "--dry-run", release=leaves)
    assert (code, "1 not redriven: redriven before" in err) == (0, True), err


async def test_what_waits_for_a_later_try_waits_while_the_old_release_runs(
    stage: Stage, upstream: Waiting, tmp_path: Path, sources: Path, old: Path
) -> None:
    """The old release refuses a file with what it does not know, by its name. Without it, it neither answers nor loses
    what waits in a delay topic: this release answers it when it is back, and redrives the old one's dead letter.
    """
    newer = tmp_path / "newer.toml"
    late = f'\n[sources.late]\nurl = "{upstream.url}/later"\ncache.negative_ttl = 0\nretry.attempts = 1\n'
    extra = 'retry_later = ["6s"]\nlimits = { rate = 100, shared = true }\n'
    known = SOURCES.format(url=upstream.url) + late
    newer.write_text(known + extra, encoding="utf-8")
    sources.write_text(known, encoding="utf-8")  # noqa: ASYNC240  a line
    code, _, err = await millrace(stage, "topics", "--create", "--replication", "1", MILLRACE_SOURCES=str(newer))
    assert code == 0, err

    worker = await start(stage, NEW, tmp_path, "same", MILLRACE_SOURCES=str(newer))
    await stage.send([b'{"id": "a", "source": "late"}'])
    async with asyncio.timeout(PATIENCE):
        while not await stage.count(f"{stage.group}-later-6s"):
            await asyncio.sleep(0.05)
    worker.terminate()
    assert await worker.ended() == 0
    refused = await stage.start(release=old, ready=False, MILLRACE_SOURCES=str(newer))
    assert await refused.ended() == 2
    assert all(name in "".join(refused.log) for name in ("retry_later", "shared")), refused.log

    worker = await start(stage, old, tmp_path, "same")
    await stage.send([b'{"id": "b", "source": "late"}'])
    [seen] = await stage.results_of({"b"})
    assert (seen.result["outcome"], await stage.count(stage.dead_letters)) == ("upstream_error", 1)
    worker.terminate()
    assert await worker.ended() == 0

    upstream.recovered = True
    await start(stage, NEW, tmp_path, "same", MILLRACE_SOURCES=str(newer))
    await stage.results_of({"a"})
    code, _, err = await millrace(stage, "redrive", "--all", MILLRACE_SOURCES=str(newer))
    assert (code, "1 redriven" in err) == (0, True), err
    await stage.until_results(3)
    found = Counter((each.result["id"], each.result["outcome"]) for each in await stage.read())
    assert found == {("a", "ok"): 1, ("b", "upstream_error"): 1, ("b", "ok"): 1}
    assert_no_traceback(stage)
