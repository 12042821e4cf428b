"""From produce to consume at 100 requests a second, half of them hits, the others misses whose upstream takes 5 ms:
Millrace beside the same written by hand, in one run. `python -m bench.latency`.

Also what an idle worker costs: see bench/idle.py.
"""

from __future__ import annotations

import asyncio

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench import idle
from bench.__main__ import MISS_DELAY, hits
from bench.stage import Stage, Upstream

RATE, SECONDS = 100.0, 30.0
COMPARED = ("millrace", "by hand, bare")


def percentile(values: list[float], share: float) -> float:
    """Return a percentile by nearest rank."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def latency(servers: str, worker: str) -> None:
    """Print a worker's latencies of hits and of misses."""
    with Upstream(MISS_DELAY) as upstream:
        url = upstream.url.encode()
        warm, drawn = hits(upstream.url, int(RATE * SECONDS / 2))
        load: list[tuple[str, bytes]] = []
        for number, hit in enumerate(drawn):
            load += [
                (f"h{number}", hit),
                (f"m{number}", b'{"id":"m%d","url":"%b/%d"}' % (number, url, 10_000 + number)),
            ]
        took = await Stage(servers, worker).latencies(warm, load, RATE)
    for kind, name in (("h", "hit"), ("m", "miss")):
        of_kind = [1000 * seconds for ident, seconds in took.items() if ident.startswith(kind)]
        print(f"{worker:14} {name:5} {len(of_kind):6,} requests  p50 {percentile(of_kind, 0.5):6.1f} ms  "
              f"p99 {percentile(of_kind, 0.99):6.1f} ms", flush=True)  # fmt: skip


def main() -> None:
    """Parse the options, give a broker, run."""
    parser = EntryPoint("bench.latency", __doc__)
    parser.begin()
    with broker() as found:
        print(f"on {found.kind}, {RATE:g} requests/s for {SECONDS:g} s")
        for worker in COMPARED:
            asyncio.run(latency(found.servers, worker))
        idle.report(found.servers)


if __name__ == "__main__":
    main()
