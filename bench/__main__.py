"""Run the workloads and print the table. Every figure of a row comes from one run, its peers beside it."""

from __future__ import annotations

import argparse
import asyncio
import random

from bench.stage import WORKERS, Measured, Stage, Upstream
from streams.kafka.broker import broker

SEED = 20_261_122
URLS = 1_000
ZIPF = 1.1
"""Exponent of the popularity of the URLs."""
MISS_DELAY = 0.005
"""Seconds that the upstream takes for a miss."""
SLOWER = 10
"""Stock Faust gets this fraction of the hits: its figure is per request, and its run would take minutes."""


def hits(url: str, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return the warming requests, one a URL, and `count` requests drawn by Zipf, each with an id of its own."""
    draw = random.Random(SEED)
    weights = [1 / (rank + 1) ** ZIPF for rank in range(URLS)]
    warm = [b'{"id":"w%d","url":"%b/%d"}' % (n, url.encode(), n) for n in range(URLS)]
    drawn = draw.choices(range(URLS), weights, k=count)
    return warm, [b'{"id":"h%d","url":"%b/%d"}' % (n, url.encode(), rank) for n, rank in enumerate(drawn)]


def misses(url: str, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return a few warming requests and `count` requests for as many URLs."""
    warm = [b'{"id":"w%d","url":"%b/%d"}' % (n, url.encode(), n) for n in range(100)]
    return warm, [b'{"id":"m%d","url":"%b/%d"}' % (n, url.encode(), n + 100) for n in range(count)]


async def run(servers: str, workload: str, count: int, workers: list[str]) -> list[Measured]:
    """Measure each worker on the same requests, one after the other."""
    rows: list[Measured] = []
    for worker in workers:
        with Upstream(0.0 if workload == "hit" else MISS_DELAY) as upstream:
            fewer = count // SLOWER if (worker, workload) == ("stock Faust", "hit") else count
            warm, load = (hits if workload == "hit" else misses)(upstream.url, fewer)
            rows.append(await Stage(servers, worker).measure(warm, load))
            row = rows[-1]
            print(
                f"{workload:5} {row.worker:14} {row.requests:8,} requests  {row.cpu:7.1f} µs CPU a request  "
                f"{row.requests / row.seconds:8,.0f} /s  RSS {row.rss_before:.0f} → {row.rss_after:.0f} MiB",
                flush=True,
            )
    return rows


def main() -> None:
    """Parse the options, give a broker, run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--workload", choices=("hit", "miss"), action="append")
    parser.add_argument("--worker", choices=tuple(WORKERS), action="append")
    parser.add_argument("--hits", type=int, default=300_000)
    parser.add_argument("--misses", type=int, default=20_000)
    options = parser.parse_args()
    workers = options.worker or list(WORKERS)
    with broker() as found:
        print(f"on {found.kind}")
        for workload in options.workload or ["hit", "miss"]:
            rows = asyncio.run(
                run(found.servers, workload, options.hits if workload == "hit" else options.misses, workers)
            )
            ours = next((row for row in rows if row.worker == "millrace"), None)
            for row in rows:
                if ours is not None and row is not ours:
                    print(f"{workload:5} {row.worker} takes {row.cpu / ours.cpu:.2f} × millrace's CPU a request")


if __name__ == "__main__":
    main()
