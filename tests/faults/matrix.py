"""Run faults and report: `python -m tests.faults.matrix`."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout

from agents.entry import EntryPoint
from tests.faults.cluster import Cluster
from tests.faults.faults import FAULTS, mix
from tests.faults.proxy import Proxy
from tests.faults.scene import NotHereError, Scene
from tests.faults.trial import Report, run

QUESTIONS = ("I1 lost", "I2 repeats", "I3 commits", "I4 tables", "I5 order", "I6 lag", "I6 sizes", "I7 truth")


@asynccontextmanager
async def brokers() -> AsyncIterator[tuple[Cluster, list[Proxy]]]:
    """Yield three brokers and the proxies before them, each in the order of the nodes."""
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(node.outside)) for node in cluster.nodes]
        for node, proxy in zip(cluster.nodes, proxies, strict=True):
            node.advertised = proxy.port
        await asyncio.to_thread(cluster.__enter__)
        stack.callback(cluster.__exit__)
        yield cluster, proxies


async def do(cluster: Cluster, proxies: list[Proxy], name: str, **settings: str) -> Report:
    """Do one fault and return its report; a test that fails in another way than by an answer is an answer, too."""
    fault = FAULTS[name]
    try:
        with redirect_stdout(sys.stderr):  # the logs of workers; stdout is for the table
            async with Scene(cluster, proxies, **settings) as scene:
                return await run(scene, name, fault)
    except NotHereError as exc:
        return Report(name, skipped=str(exc))
    except Exception as exc:  # noqa: BLE001  the others are run all the same
        traceback.print_exc()
        return Report(name, {"I1 lost": f"not judged: {type(exc).__name__}: {str(exc)[:300]}"})


def table(reports: Iterable[Report]) -> str:
    """Return the reports as a table in Markdown: `-` is a question that was not asked."""
    lines = ["| fault | requests | repeats | healed in | " + " | ".join(QUESTIONS) + " |",
             "|---|---|---|---|" + "---|" * len(QUESTIONS)]  # fmt: skip
    for report in reports:
        if report.skipped:
            lines.append(f"| {report.name} | not done: {report.skipped} | - | - |" + " - |" * len(QUESTIONS))
            continue
        cells = [
            " ".join(report.answers[name].split()) or "yes" if name in report.answers else "-" for name in QUESTIONS
        ]
        lines.append(f"| {report.name} | {report.requests:,} | {report.repeats} | {report.healed:.1f} s | "
                     + " | ".join(cells) + " |")  # fmt: skip
    return "\n".join(lines)


async def matrix(names: Iterable[str], **settings: str) -> list[Report]:
    """Do faults one after the other on the same brokers."""
    reports = []
    async with brokers() as (cluster, proxies):
        for name in names:
            began = time.monotonic()
            report = await do(cluster, proxies, name, **settings)
            reports.append(report)
            row = table([report]).splitlines()[-1]  # so that a run that is ended early leaves what it found
            print(f"{row} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return reports


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for, print the table, and return 1 if a question has another answer than yes."""
    parser = EntryPoint("tests.faults.matrix", __doc__)
    parser.add_argument("faults", metavar="FAULT", nargs="*", help="by name; default: all")
    parser.add_argument("--hard", action="store_true", help="the subset that CI runs")
    parser.add_argument("--mix", type=int, metavar="N", help="N faults at random")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="for --mix: the same faults again")
    parser.add_argument("--order", action="store_true", help="with MILLRACE_ORDER=key, and the question about it")
    given = parser.begin(arguments)
    for name in given.faults:
        if name not in FAULTS:
            parser.error(f"no fault {name!r}; there are: {', '.join(FAULTS)}")
    names = given.faults or [name for name, fault in FAULTS.items() if fault.hard or not given.hard]
    if given.mix:
        print(f"seed {given.seed}", file=sys.stderr)
        names = mix(given.seed, given.mix)
    reports = asyncio.run(matrix(names, **({"MILLRACE_ORDER": "key"} if given.order else {})))
    print(table(reports))
    return int(any(report.violations for report in reports))


if __name__ == "__main__":
    sys.exit(main())
