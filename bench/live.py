"""What open pages cost a worker: CPU with no client, with 200 that watch the overview, and with 200 that watch the
results pass, while requests come steadily.

`python -m bench.live` measures each twice, there and back, on one worker, and prints the difference as a share of a
core. A worker answers on one core, so that is the share of its throughput that is theirs. Clients are a process of
their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from agents.entry import EntryPoint
from agents.testing.broker import broker, free_port
from bench.stage import PARTITIONS, Stage, Upstream, cpu_of
from streams.config.settings import Kafka
from streams.kafka.topics import Admin

CLIENTS = 200
RATE = 2_000
"""Requests a second."""
STEP = 0.1
"""Seconds between two runs of them."""
SECONDS = 7.0
"""Seconds of each measurement."""
SETTLE = 2.0
"""Seconds before it, in which clients connect."""
URLS = 1_000
KINDS = {"no client": "", f"{CLIENTS} on the overview": "/events", f"{CLIENTS} on the results": "/events?tail=1"}


async def watch(port: int, path: str) -> None:
    """Have clients that read events and throw them away, for ever."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while await reader.read(1 << 16):
            pass
        sys.exit("a stream ended")

    await asyncio.gather(*(one() for _ in range(CLIENTS)))


async def load(stage: Stage, urls: list[bytes], already: int) -> int:
    """Send requests at the rate and wait until each has its result; returns how many results there are then."""
    began, sent = time.perf_counter(), 0
    while sent < RATE * SECONDS:
        await asyncio.sleep(max(0.0, sent / RATE - (time.perf_counter() - began)))
        await stage._produce(urls[: int(RATE * STEP)])
        sent += int(RATE * STEP)
    await stage._await_results(already + sent)
    return already + sent


async def run(servers: str, url: str) -> dict[str, list[float]]:
    """Return, of each kind, the worker's CPU as shares of a core."""
    port = free_port()
    stage = Stage(servers, "millrace")
    stage.environment["MILLRACE_WEB_PORT"] = str(port)
    async with Admin(Kafka(bootstrap_servers=servers)) as admin:
        for name in stage.names:
            await admin.create(name, PARTITIONS)
        await admin.settled(*stage.names)
    command = [sys.executable, "-m", "millrace", "worker", "--role", "all"]
    worker = subprocess.Popen(command, env=stage.environment)  # noqa: ASYNC220  it is what is measured
    measured: dict[str, list[float]] = {kind: [] for kind in KINDS}
    urls = [b'{"url":"%b/%d"}' % (url.encode(), number) for number in range(URLS)]
    try:
        await stage._produce(urls)
        await stage._await_results(URLS)
        total = URLS
        for kind in [*KINDS, *reversed(KINDS)]:
            with clients(port, KINDS[kind]):
                await asyncio.sleep(SETTLE)
                cpu, began = cpu_of(worker.pid), time.perf_counter()
                total = await load(stage, urls, total)
                measured[kind].append((cpu_of(worker.pid) - cpu) / (time.perf_counter() - began))
            print(f"{kind}: {measured[kind][-1]:.1%} of a core at {RATE:,} requests/s")
    finally:
        worker.terminate()
        worker.wait(30)
    return measured


@contextlib.contextmanager
def clients(port: int, path: str) -> Iterator[None]:
    """Have a process of clients, if there is a path. Raises AssertionError if it ended by itself."""
    if not path:
        yield
        return
    process = subprocess.Popen([sys.executable, "-m", "bench.live", "--watch", str(port), path])
    try:
        yield
        assert process.poll() is None, "the clients have ended"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Parse the options, run and print the differences."""
    parser = EntryPoint("bench.live", __doc__)
    parser.add_argument(
        "--watch", nargs=2, metavar=("PORT", "PATH"), help="be the clients, of a worker that runs already"
    )
    options = parser.begin()
    if options.watch:
        asyncio.run(watch(int(options.watch[0]), options.watch[1]))
        return
    with broker() as found, Upstream(0.0) as upstream:
        measured = asyncio.run(run(found.servers, upstream.url))
    none = statistics.mean(measured.pop("no client"))
    for kind, shares in measured.items():
        print(f"{kind} cost {statistics.mean(shares) - none:.1%} of a core, and so of the throughput")


if __name__ == "__main__":
    main()
