"""The tables as people and programs read them: through nginx, while workers and brokers are hurt."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Self

import aiohttp

from tests.integration.nginx import Nginx, program
from tests.integration.stage import Worker

NOWHERE = "127.0.0.1:9"
"""Where nginx leads before there is a worker: nobody listens there."""
READ_EVERY = 0.5
"""Seconds between two reads."""
PATIENCE = 5.0
"""Seconds that a read may take."""
PARTIAL = -1
"""Instead of a status: rows, but none, or not all of them."""
AWAY = {0, PARTIAL, 502, 503, 504}
"""What a read may come to while something is broken: no answer in time, no worker, or one that is not ready, or
that cannot reach another."""
TABLE = "/api/tables/outcomes"


class Front:
    """Opened with `async with`: reads the table of outcomes from `start` to `stop`."""

    def __init__(self) -> None:
        self._nginx = Nginx(NOWHERE)
        self._task: asyncio.Task[None] | None = None
        self.read: list[tuple[float, int, str]] = []
        """When, the status (0: no answer), and what is wrong with the answer; empty if nothing is."""

    async def __aenter__(self) -> Self:
        await self._nginx.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        await self._nginx.__aexit__(*exc)

    def lead_to(self, workers: Iterable[Worker]) -> None:
        """Lead to these workers from now on, as a scheduler's endpoints or a name server do."""
        addresses = [worker.url.removeprefix("http://") for worker in workers if worker.url]
        self._nginx.lead_to(*(addresses or [NOWHERE]))

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
            while True:
                self.read.append((time.time(), *await self._read(session)))
                await asyncio.sleep(READ_EVERY)

    async def _read(self, session: aiohttp.ClientSession) -> tuple[int, str]:
        try:
            async with session.get(self._nginx.url + TABLE) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""
        if response.status != 200:
            return response.status, "" if response.status in AWAY else f"{response.status}: {text[:200]}"
        try:
            told = json.loads(text)
            return 200 if told["rows"] and not told.get("partial") else PARTIAL, ""
        except (ValueError, KeyError):
            return 200, f"not a table: {text[:200]}"

    async def until_rows(self, seconds: float) -> bool:
        """Wait for a read from now on that has all rows; return whether there was one within so many seconds."""
        now = time.time()
        while not (read := any(status == 200 for at, status, _ in self.read if at >= now)):
            if time.time() > now + seconds:
                break
            await asyncio.sleep(READ_EVERY)
        return read

    async def wrong(self, began: float, seconds: float, *, fails: bool = False) -> str:
        """Return what no reader should have seen: an error that is none of AWAY, no rows before the fault `began`, or
        not all rows within so many seconds from now (0: that is not asked); reading ends with that. 500 is an error
        like others if the fault `fails` workers.
        """
        read = await self.until_rows(seconds)
        await self.stop()
        found = [f"{at - began:.1f} s: {text}" for at, status, text in self.read
                 if text and not (fails and status == 500)]  # fmt: skip
        if not any(status == 200 for at, status, _ in self.read if at < began):
            found.append("no rows before the fault")
        found += [] if read or not seconds else [f"no rows {seconds:.0f} s after all was done"]
        return "through nginx: " + "; ".join(found[:5]) if found else ""


def front() -> Front | None:
    """Return a front, or None where there is no nginx."""
    return Front() if program() is not None else None
