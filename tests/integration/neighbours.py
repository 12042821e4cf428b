"""Two workers side by side, of which each may be of another release, under requests that go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked

NEW = None
"""The folder of this release: the one that the tests run in."""
PAUSE = 0.01
"""Seconds between two requests: some 100 a second, all through."""
KNOWN = 30
"""Documents that are asked for again and again, so that there are hits."""


async def start(stage: Stage, release: Path | None, folder: Path, name: str, **settings: str) -> Worker:
    """Start a worker with the tables in a folder of its name, and make sure of which release it is."""
    store = {"MILLRACE_STORE": f"rocksdb://{folder / name}", "MILLRACE_WORKER_ID": name}
    worker = await stage.start(release=release, **store | settings)
    [me] = [each for each in (await until_workers(worker, name))["workers"] if each["id"] == name]
    assert ("limits" in me) == (release is NEW), "a worker of the other release was started"
    return worker


async def get(worker: Worker, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{worker.url}/api/{path}") as response:
        assert response.status == 200, f"{path}: {response.status} {await response.text()}"
        return await response.json()


async def until_workers(worker: Worker, *names: str) -> Any:
    """Wait until a worker shows all these workers, and return what it shows."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = await get(worker, "workers")
            if {each["id"] for each in shown["workers"] if each.get("silent_s", 0) < 5} >= set(names):
                return shown
            await asyncio.sleep(0.1)


async def until_shared(worker: Worker, stage: Stage) -> None:
    """Wait until a worker shows each partition's owner, of requests and tables, and each of two owners has half."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = (await get(worker, "workers"))["workers"]
            held = [len((each.get("tables") or {}).get("partitions") or ()) for each in shown]
            if sorted(held) == [stage.partitions // 2] * 2:
                return
            await asyncio.sleep(0.1)


def assert_no_traceback(stage: Stage) -> None:
    for worker in stage.workers:
        found = [line for line in worker.log if "Traceback" in line]
        assert not found, found


class Flow:
    """Requests all through, for URLs and a source; `sent` of them so far."""

    def __init__(self, stage: Stage, upstream: Upstream) -> None:
        self.sent = 0
        self._over = False
        self._stage, self._url = stage, upstream.url

    def _next(self) -> bytes:
        n = self.sent
        if n % 3 == 0:
            return json.dumps({"id": f"r{n}", "source": "docs", "params": {"n": str(n % KNOWN)}}).encode()
        return asked(f"{self._url}/doc/{n}?delay={n % 40 / 1000}&status={404 if n % 50 == 1 else 200}", n)

    async def _run(self) -> None:
        while not self._over:
            number = self.sent
            await self._stage.send([self._next()], key=lambda _: b"%d" % number)
            self.sent += 1
            await asyncio.sleep(PAUSE)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        sending = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._over = True  # not cancelled: what is sent is counted
            await sending

    async def more(self, count: int) -> None:
        """Wait for so many results more."""
        await self._stage.until_results(await self._stage.count(self._stage.results) + count)

    @property
    def ids(self) -> set[str]:
        return {f"r{number}" for number in range(self.sent)}


async def until_total(worker: Worker, rows: int, results: int) -> None:
    """Wait until a worker has all rows, its own and those of the other, and has counted all results."""
    shown = None
    try:
        async with asyncio.timeout(PATIENCE):
            while shown is None or "partial" in shown or shown["total"] != rows:
                shown = await get(worker, "tables/answers?limit=1")
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{rows} rows expected, shown: {shown}") from None
    minutes = (await get(worker, "overview"))["minutes"]
    assert sum(each["total"] for each in minutes) == results


async def until_all(worker: Worker, stage: Stage) -> None:
    """Wait until a worker has all partitions of the tables, and shows the other as silent."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = {each["id"]: each for each in (await get(worker, "workers"))["workers"]}
            held = len(shown["survivor"]["tables"]["partitions"])
            if held == stage.partitions and shown["victim"]["silent_s"] > 5:
                return
            await asyncio.sleep(0.1)
