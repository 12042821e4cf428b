"""Millrace beside what people would use instead: the same three workloads on one broker, interleaved, every result
verified. `make bench-peers` writes reports/peers.json, and the table and plot of bench/README.md with `--write`.

The peers are built first: those in Python in an environment of their own (bench/peers/requirements.txt, by uv), the
one in Go by `go build`. One that cannot be built is left out, with a line that says so.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.__main__ import CHECKS, MISS_DELAY, hits, misses
from bench.latency import percentile
from bench.peers.report import write
from bench.stage import WORKERS, Measured, Stage, Upstream
from bench.upstream import HOSTS

HERE = Path(__file__).parent
BUILT = Path("reports/peers")
WORKLOADS = ("hit", "checked", "miss")
COUNTS = {"hit": 200_000, "checked": 200_000, "miss": 20_000}
SLOW = {"stock Faust": 10, "Quix Streams": 10}
"""These get this fraction of the requests: their figures are per request, and a full run would take minutes."""
PACED_SECONDS = 10.0
MOST_PACED = 4_000.0
"""Requests a second that the measuring process can send and read beside the worker, on the same two cores."""


def build() -> list[str]:
    """Build the peers and return the workers that can run."""
    BUILT.mkdir(parents=True, exist_ok=True)
    python = BUILT / "venv/bin/python"
    workers = ["millrace", "by hand", "by hand, bare", "stock Faust"]
    uv = shutil.which("uv") or ".tools/bin/uv"
    try:
        if not python.exists():
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, BUILT / "venv"], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", python, "-r", HERE / "requirements.txt"], check=True
        )
        WORKERS["FastStream"] = [str(python), "-m", "bench.peers.with_faststream"]
        WORKERS["Quix Streams"] = [str(python), "-m", "bench.peers.with_quix"]
        workers += ["FastStream", "Quix Streams"]
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"FastStream and Quix Streams are not measured: {exc}")
    try:
        binary = (BUILT / "go").absolute()
        subprocess.run(["go", "build", "-o", binary, "."], cwd=HERE / "go", check=True)
        WORKERS["Go"] = [str(binary)]
        workers.append("Go")
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"the worker in Go is not measured: {exc}")
    return workers


def requests_of(workload: str, upstream: Upstream, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return a workload's warming requests and its load."""
    if workload == "miss":
        return misses([upstream.host(number + 1) for number in range(HOSTS)], count)
    return hits(upstream.url, count, CHECKS if workload == "checked" else b"")


async def full(servers: str, workload: str, worker: str, count: int) -> Measured:
    """Measure a worker once on a full backlog."""
    with Upstream(MISS_DELAY if workload == "miss" else 0.0) as upstream:
        return await Stage(servers, worker).measure(*requests_of(workload, upstream, count))


async def paced(servers: str, workload: str, worker: str, rate: float) -> float:
    """Return a worker's p99 in ms from produce to consume at this rate."""
    with Upstream(MISS_DELAY if workload == "miss" else 0.0) as upstream:
        warm, load = requests_of(workload, upstream, int(rate * PACED_SECONDS))
        named = [(json.loads(value)["id"], value) for value in load]
        return 1000 * percentile(list((await Stage(servers, worker).latencies(warm, named, rate)).values()), 0.99)


def row(workload: str, worker: str, runs: list[Measured]) -> dict[str, Any]:
    """Return the figures of a worker."""
    return {
        "workload": workload, "worker": worker, "requests": runs[0].requests,
        "cpu_us": round(median(run.cpu for run in runs), 1),
        "per_s": round(median(run.requests / run.seconds for run in runs)),
        "rss_mib": round(max(run.rss_after for run in runs)),
    }  # fmt: skip


def main() -> None:
    """Parse the options, build, give a broker, run."""
    parser = EntryPoint("bench.peers", __doc__)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the table shows medians (default: 3)")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--worker", action="append", help="only this one (repeatable)")
    parser.add_argument("--scale", type=float, default=1.0, help="a factor for the number of requests (default: 1)")
    parser.add_argument("--write", action="store_true", help="write the table and the plot into bench/README.md")
    options = parser.begin()
    workers = [each for each in build() if not options.worker or each in options.worker]
    rows: list[dict[str, Any]] = []
    with broker() as found:
        print(f"on {found.kind}, medians of {options.repeat} interleaved runs")
        for workload in options.workload or WORKLOADS:
            runs: dict[str, list[Measured]] = {worker: [] for worker in workers}
            for worker in workers * options.repeat:
                count = int(COUNTS[workload] * options.scale) // SLOW.get(worker, 1)
                runs[worker].append(asyncio.run(full(found.servers, workload, worker, count)))
            for worker in workers:
                figures = row(workload, worker, runs[worker])
                rate = min(figures["per_s"] / 2, MOST_PACED)
                figures |= {
                    "paced_per_s": round(rate),
                    "p99_ms": round(asyncio.run(paced(found.servers, workload, worker, rate)), 1),
                }
                rows.append(figures)
                print(json.dumps(figures), flush=True)
        (BUILT.parent / "peers.json").write_text(
            json.dumps({"on": found.kind, "rows": rows}, indent=1), encoding="utf-8"
        )
        if options.write:
            write(found.kind, options.repeat, rows)


if __name__ == "__main__":
    main()
