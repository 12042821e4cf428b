"""Run the workloads and print the table. Every figure of a row comes from one run, its peers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from statistics import median

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.stage import WORKERS, Measured, Stage, Upstream, memcached
from bench.upstream import HOSTS

WORKLOADS = ("hit", "checked", "miss", "miss-1", "file", "memcached")
"""`hit`: Zipf over 1,000 URLs, all cached. `checked`: the same with two checks each, run before. `miss`:
every URL another, over 8 hosts. `miss-1`: all of one host, of which Millrace fetches 32 at a time, and the others 256.
`file`, `memcached`: every URL another, all of them in that tier and none in memory; the others have no such tier."""
TIERS = ("file", "memcached")
CHECKS = b',"checks":["sha256",{"name":"length","args":{"high":9}}]'
SEED = 20_261_122
URLS = 1_000
ZIPF = 1.1
"""Exponent of the popularity of the URLs."""
MISS_DELAY = 0.005
"""Seconds that the upstream takes for a miss."""
FILLING = 200
"""Requests per step that fill a tier: fewer than the writes that may be in progress."""
SLOWER = 10
"""Stock Faust gets this fraction of the hits: its figures are per request, and a full run would take minutes."""


def hits(url: str, count: int, more: bytes = b"") -> tuple[list[bytes], list[bytes]]:
    """Return the warming requests, one a URL, and `count` requests drawn by Zipf, each with an id of its own; all with
    `more` members.
    """
    draw = random.Random(SEED)
    weights = [1 / (rank + 1) ** ZIPF for rank in range(URLS)]
    warm = [b'{"id":"w%d","url":"%b/%d"%b}' % (n, url.encode(), n, more) for n in range(URLS)]
    drawn = draw.choices(range(URLS), weights, k=count)
    return warm, [b'{"id":"h%d","url":"%b/%d"%b}' % (n, url.encode(), rank, more) for n, rank in enumerate(drawn)]


def misses(urls: list[str], count: int) -> tuple[list[bytes], list[bytes]]:
    """Return a few warming requests and `count` requests for as many URLs, spread over the hosts."""
    bases = [url.encode() for url in urls]
    warm = [b'{"id":"w%d","url":"%b/%d"}' % (n, bases[n % len(bases)], n) for n in range(100)]
    return warm, [b'{"id":"m%d","url":"%b/%d"}' % (n, bases[n % len(bases)], n + 100) for n in range(count)]


async def measure(servers: str, workload: str, count: int, worker: str) -> Measured:
    """Measure one worker once."""
    if workload in TIERS:
        return await measure_tier(servers, workload, count)
    hit = workload in ("hit", "checked")
    with Upstream(0.0 if hit else MISS_DELAY) as upstream:
        if hit:
            more = CHECKS if workload == "checked" else b""
            warm, load = hits(upstream.url, count // SLOWER if worker == "stock Faust" else count, more)
        else:
            hosts = HOSTS if workload == "miss" else 1
            warm, load = misses([upstream.host(number + 1) for number in range(hosts)], count)
        return await Stage(servers, worker).measure(warm, load)


async def measure_tier(servers: str, workload: str, count: int) -> Measured:
    """Measure hits in a tier behind the memory: fill it, then send the same requests again."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream(0.0))
        if workload == "file":
            cache = f"file://{stack.enter_context(tempfile.TemporaryDirectory())}?threshold={2 * count}"
        else:
            cache = f"memcached://127.0.0.1:{stack.enter_context(memcached())}?timeout=1"
        _, load = misses([upstream.url], count)
        stage = Stage(servers, "millrace", f"memory://?entries=1&ttl=3600 {cache}")
        return await stage.measure(load, load, step=FILLING)


def report(workload: str, worker: str, runs: list[Measured]) -> float:
    """Print a worker's row and return its median CPU in µs a request."""
    cpu, rate = median(run.cpu for run in runs), median(run.requests / run.seconds for run in runs)
    print(
        f"{workload:6} {worker:14} {runs[0].requests:8,} requests  {cpu:6.1f} µs CPU a request "
        f"({min(run.cpu for run in runs):.1f} to {max(run.cpu for run in runs):.1f})  {rate:8,.0f} /s  "
        f"RSS {runs[-1].rss_before:.0f} → {runs[-1].rss_after:.0f} MiB",
        flush=True,
    )
    return cpu


def main() -> None:
    """Parse the options, give a broker, run."""
    parser = EntryPoint("bench", __doc__)
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--worker", choices=tuple(WORKERS), action="append")
    parser.add_argument("--hits", type=int, default=300_000)
    parser.add_argument("--misses", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the table shows medians (default: 3)")
    options = parser.begin()
    workers = options.worker or list(WORKERS)
    with broker() as found:
        print(f"on {found.kind}, medians of {options.repeat} interleaved runs")
        for workload in options.workload or WORKLOADS:
            if workload == "memcached" and shutil.which("memcached") is None:
                print("memcached: is not on PATH, not measured")
                continue
            count = options.hits if workload in ("hit", "checked") else options.misses
            runs: dict[str, list[Measured]] = {worker: [] for worker in workers}
            rows = ["millrace"] if workload in TIERS else workers
            for worker in rows * options.repeat:
                runs[worker].append(asyncio.run(measure(found.servers, workload, count, worker)))
            cpu = {worker: report(workload, worker, runs[worker]) for worker in rows}
            for worker in rows:
                if worker != "millrace" and "millrace" in cpu:
                    print(f"{workload:6} {worker} takes {cpu[worker] / cpu['millrace']:.2f} × millrace's CPU a request")


if __name__ == "__main__":
    main()
