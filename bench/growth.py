"""What a hit costs as things grow: partitions, distinct URLs, workers, bytes of a document. CPU of all workers, in one
run; the first line of each kind is what the others are compared with. `python -m bench.growth`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.stage import Measured, Stage, Upstream

MEMORY = "memory://?entries=1100000&bytes=4GiB&ttl=3600"
PARTITIONS, URLS, SIZE = 4, 1_000, 0
"""What stays as it is while something else grows; a document of size 0 has some 80 bytes."""
HITS = 40_000
WARMINGS = 3
"""Times that each URL is requested before: while workers join, partitions move, and their answers with them."""
LARGEST = 200 << 20
"""Bytes of results in one run, which large documents reach with fewer requests."""
SEED = 20_261_130


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    partitions: int = PARTITIONS
    urls: int = URLS
    workers: int = 1
    size: int = SIZE


KINDS: dict[str, tuple[Case, ...]] = {
    "partitions": tuple(Case(partitions=each) for each in (4, 1, 16, 64)),
    "urls": tuple(Case(urls=each) for each in (1_000, 10_000, 100_000, 1_000_000)),
    "workers": tuple(Case(partitions=16, workers=each) for each in (1, 2, 4)),
    "size": tuple(Case(urls=16, size=each) for each in (100, 10_000, 100_000, 1_000_000)),
}
SHORT = {"urls": 10_000}
"""The largest of a kind in a run that is not `--full`: a URL more is a fetch more before anything is measured."""


def requests(url: str, case: Case, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return the warming requests and `count` hits. A URL's requests are all of one partition, so of one worker."""
    draw, ending = random.Random(SEED), f"?size={case.size}" if case.size else ""
    warm = [b'{"id":"w%d","url":"%b/%d%b"}' % (n, url.encode(), n % case.urls, ending.encode())
            for n in range(WARMINGS * case.urls if case.workers > 1 else case.urls)]  # fmt: skip
    turns = case.urls // case.partitions
    drawn = [case.partitions * draw.randrange(turns) + n % case.partitions for n in range(count)]
    return warm, [
        b'{"id":"h%d","url":"%b/%d%b"}' % (n, url.encode(), of, ending.encode()) for n, of in enumerate(drawn)
    ]


async def measure(servers: str, case: Case, hits: int) -> Measured:
    """Measure one case once."""
    with Upstream(0.0) as upstream:
        warm, load = requests(upstream.url, case, min(hits, LARGEST // max(1, case.size)))
        stage = Stage(servers, "millrace", MEMORY, case.partitions)
        return await stage.measure(warm, load, workers=case.workers)


def rows(servers: str, kind: str, cases: tuple[Case, ...], hits: int, repeat: int) -> Iterator[str]:
    """Yield the table's lines of a kind, its runs interleaved."""
    runs: dict[Case, list[Measured]] = {case: [] for case in cases}
    for case in cases * repeat:
        runs[case].append(asyncio.run(measure(servers, case, hits)))
    first = median(run.cpu for run in runs[cases[0]])
    for case in cases:
        cpu = median(run.cpu for run in runs[case])
        rate = median(run.requests / run.seconds for run in runs[case])
        yield (f"| {kind} {getattr(case, kind):,} | {runs[case][0].requests:,} | {cpu:.1f} | {cpu / first:.2f} | "
               f"{rate:,.0f} | {runs[case][-1].rss_after:.0f} |")  # fmt: skip


def main() -> None:
    """Parse the options, give a broker, run."""
    parser = EntryPoint("bench.growth", __doc__)
    parser.add_argument("--kind", choices=tuple(KINDS), action="append")
    parser.add_argument("--hits", type=int, default=HITS)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the table shows medians (default: 1)")
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 URLs: half an hour more")
    options = parser.begin()
    with broker() as found:
        print(f"on {found.kind}, medians of {options.repeat} interleaved runs")
        print(
            "| what | hits | CPU µs a hit | × the first | hits/s | RSS MiB |\n|---|---:|---:|---:|---:|---:|",
            flush=True,
        )
        for kind in options.kind or KINDS:
            most = None if options.full else SHORT.get(kind)
            cases = tuple(case for case in KINDS[kind] if most is None or getattr(case, kind) <= most)
            for row in rows(found.servers, kind, cases, options.hits, options.repeat):
                print(row, flush=True)


if __name__ == "__main__":
    main()
