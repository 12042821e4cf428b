"""What the demo stands on: topics, an upstream, and a worker in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agents.commands import say

if TYPE_CHECKING:
    from aiohttp import web

    from agents.testing.broker import Broker

PRIMES_FROM = 112_272_535_095_193
"""The documents hold this number and those after it."""
PARTITIONS = 4
SOURCES = "sources.example.toml"
"""The example of sources, beside this file; every other request of the demo names its source `numbers`."""
EXAMPLE_ADDRESS = "127.0.0.1:8080"
"""The upstream's address in the example; the demo puts its own free port there."""
UPSTREAM_DELAY = 0.02
"""Seconds that the demo's upstream waits before it responds."""
PATIENCE = 45.0
"""Seconds until the worker must be ready, and until all results must be there."""
READY_PAUSE = 0.1
"""Seconds between two probes of the worker's readiness."""
STRANGER = "nobody"
"""A customer whom the upstream does not know."""


def names() -> tuple[str, tuple[str, str, str]]:
    """Return a mark of this demo, and its topics: requests, results, dead letters."""
    mark = uuid.uuid4().hex[:6]
    return mark, (f"demo-requests-{mark}", f"demo-results-{mark}", f"demo-dead-letters-{mark}")


async def create(found: Broker, topics: Sequence[str]) -> None:
    """Create topics, and wait until they are there."""
    from streams.config.settings import Kafka
    from streams.kafka.topics import Admin

    async with Admin(Kafka(bootstrap_servers=found.servers)) as admin:
        if found.real:
            for name in topics:
                await admin.create(name, PARTITIONS)
        else:
            await admin.mention(*topics)
        await admin.settled(*topics)


@dataclass(slots=True)
class Upstream:
    """The demo's upstream: its address, the token of its /api, and how often it was called."""

    address: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    calls: int = 0


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[Upstream]:
    """Serve small documents on loopback: numbers, under /api to holders of the token; customers and prices."""
    from aiohttp import web

    async def document(request: web.Request) -> web.Response:
        if request.path.startswith("/api") and request.headers.get("Authorization") != f"Bearer {state.token}":
            raise web.HTTPUnauthorized
        state.calls += 1
        await asyncio.sleep(UPSTREAM_DELAY)
        number = int(request.match_info["n"])
        return web.json_response({"id": number, "n": PRIMES_FROM + 2 * number})

    async def shop(request: web.Request) -> web.Response:
        state.calls += 1
        await asyncio.sleep(UPSTREAM_DELAY)
        name = request.match_info["name"]
        if name == STRANGER:
            raise web.HTTPNotFound
        return web.json_response({"of": name, "score": len(name) / 10, "price": 100 + len(name)})

    app = web.Application()
    app.router.add_get("/shop/{kind}/{name}", shop)
    app.router.add_get(r"/numbers/{n:\d+}", document)
    app.router.add_get(r"/api/numbers/{n:\d+}", document)
    async with listen(app) as address:
        state = Upstream(address)
        yield state


@contextlib.asynccontextmanager
async def listen(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port of loopback; yields host and port."""
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def run_worker(
    found: Broker, topics: tuple[str, str, str], mark: str, upstream: Upstream, more: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker in a process of its own, with `more` in its sources.toml, and wait for its end."""
    folder = tempfile.TemporaryDirectory(prefix="millrace-demo-")
    sources = Path(folder.name) / SOURCES
    example = Path(__file__).with_name(SOURCES).read_text().replace(EXAMPLE_ADDRESS, upstream.address)
    sources.write_text(example + more)
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": found.servers,
        "MILLRACE_GROUP": f"demo-{mark}",
        "MILLRACE_REQUESTS_TOPIC": topics[0],
        "MILLRACE_RESULTS_TOPIC": topics[1],
        "MILLRACE_DEAD_LETTERS_TOPIC": topics[2],
        "MILLRACE_WORKERS_TOPIC": f"demo-{mark}-workers",
        "MILLRACE_SOURCES": str(sources),
        "DEMO_TOKEN": upstream.token,
    }
    with folder:
        async with start_worker(environment) as process:
            yield process


@contextlib.asynccontextmanager
async def start_worker(environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker in a process of its own, on a free port, from when it is ready; waits for its end. It may fetch from
    loopback.
    """
    from agents.testing.broker import free_port

    port = str(free_port())
    command = sys.executable, "-m", "millrace", "worker"
    own = {
        "MILLRACE_WEB_PORT": port,
        "MILLRACE_ALLOW_NETWORKS": "127.0.0.0/8",
        "MILLRACE_ALLOW_PORTS": "1-65535",
        "MILLRACE_LOG_LEVEL": "WARNING",
    }
    process = await asyncio.create_subprocess_exec(*command, env={**environment, **own})
    say(f"worker: process {process.pid}")
    try:
        await _until_ready(process, f"http://127.0.0.1:{port}/readyz")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_ready(worker: asyncio.subprocess.Process, url: str) -> None:
    """Wait until the worker is ready or has ended, for PATIENCE at most."""
    from aiohttp import ClientConnectionError, ClientSession

    deadline = time.monotonic() + PATIENCE
    async with ClientSession() as session:
        while worker.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(ClientConnectionError):
                async with session.get(url) as response:
                    if response.ok:
                        return
            await asyncio.sleep(READY_PAUSE)
