"""What a miss costs that is asked for together with others, beside one that is asked for alone: CPU a request, calls to
the upstream, and p99 at a given rate. `python -m bench.bulk`; every figure of a row comes from interleaved runs.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.__main__ import MISS_DELAY
from bench.stage import Measured, Stage, Upstream

SOURCES = """
[sources.alone]
url = "{url}/{{n}}"

[sources.together]
url = "{url}/many?n={{n}}"
batch = {{ param = "n", items = "docs", key = "n", size = {size}, wait = {wait} }}
"""
RATE = 300.0
"""Requests a second at which latencies are measured."""


def requests(source: str, first: int, count: int) -> list[bytes]:
    """Return requests for documents of their own."""
    head = source.encode()
    return [b'{"id":"r%d","source":"%b","params":{"n":%d}}' % (n, head, n) for n in range(first, first + count)]


def stage_of(servers: str, file: Path) -> Stage:
    """Return topics for one worker with these sources."""
    stage = Stage(servers, "millrace")
    stage.environment["MILLRACE_SOURCES"] = str(file)
    return stage


def calls(upstream: Upstream) -> int:
    """Return how many calls for several documents there were."""
    with urlopen(f"{upstream.url}/calls") as response:
        found: int = json.load(response)
    return found


async def p99(servers: str, file: Path, source: str, seconds: float, rate: float) -> float:
    """Return the p99 in ms from produce to consume, at so many requests a second."""
    values = requests(source, 1_000_000, int(rate * seconds))
    load = [(f"r{number}", value) for number, value in enumerate(values, 1_000_000)]
    took = sorted((await stage_of(servers, file).latencies(requests(source, 0, 200), load, rate)).values())
    return 1000 * took[int(0.99 * len(took))]


def main() -> None:
    """Measure, and print the ratios."""
    parser = EntryPoint("bench.bulk", __doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run at a rate")
    parser.add_argument("--rate", type=float, default=RATE, help="of these requests, a second")
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--wait", type=float, default=0.01)
    options = parser.begin()
    runs: dict[str, list[Measured]] = {"alone": [], "together": []}
    late: dict[str, list[float]] = {"alone": [], "together": []}
    with broker() as found, Upstream(MISS_DELAY) as upstream, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sources.toml"
        file.write_text(SOURCES.format(url=upstream.url, size=options.size, wait=options.wait))
        print(f"on {found.kind}, medians of {options.repeat} interleaved runs of {options.requests:,} requests")
        made = 0
        for _ in range(options.repeat):
            for name, each in runs.items():
                warm, load = requests(name, 0, 100), requests(name, 1_000, options.requests)
                before = calls(upstream)
                each.append(asyncio.run(stage_of(found.servers, file).measure(warm, load)))
                made += calls(upstream) - before
            for name, times in late.items():
                times.append(asyncio.run(p99(found.servers, file, name, options.seconds, options.rate)))
    cpu = {name: median(run.cpu for run in each) for name, each in runs.items()}
    for name, each in runs.items():
        rate = median(run.requests / run.seconds for run in each)
        print(f"{name:9} {cpu[name]:6.1f} µs CPU a request ({min(run.cpu for run in each):.1f} to "
              f"{max(run.cpu for run in each):.1f})  {rate:8,.0f} /s  p99 {median(late[name]):.1f} ms "
              f"at {options.rate:g} /s", flush=True)  # fmt: skip
    print(f"together takes {cpu['together'] / cpu['alone']:.2f} × the CPU of alone, a call for "
          f"{options.requests * options.repeat / made:.1f} requests")  # fmt: skip


if __name__ == "__main__":
    main()
