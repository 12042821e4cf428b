"""Run a broker, an upstream and a worker on this machine, send requests over 200 URLs, and print what came of them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.commands import DONE, FAILED, command, positive, say
from agents.commands.demo_stage import PATIENCE, create, names, run_worker, serve
from models import strictjson
from models.errors import MillraceError
from models.result import read_result

if TYPE_CHECKING:
    from agents.testing.broker import Broker

REQUESTS = 2_000
URLS = 200
PACE = 800
"""Requests sent per second: slow enough to measure answers rather than a queue."""
FETCH_MAX_WAIT_MS = 50
"""Longest wait of the demo's own polls: less than the latency that it measures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--requests", type=positive, default=REQUESTS, metavar="N",
                        help=f"number of requests (default: {REQUESTS:,})")  # fmt: skip
    parser.add_argument("--routes", action="store_true",
                        help="show a route instead: orders in, orders with two sources' answers out")  # fmt: skip
    parser.add_argument("--project", type=Path, metavar="FOLDER",
                        help="run a project's own sources, routes and plugins on the records of its folder `demo`, "
                        "on a broker of its own; `millrace init` writes such a project")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the demo; returns 0 only if every request, or order, was answered."""
    from agents.commands import demo_project, demo_routes
    from agents.testing.broker import broker

    project: Path | None = options.project
    if not options.routes and project is None and importlib.util.find_spec("rich") is None:
        msg = "the demo needs an extra: install millrace-kafka[demo]"
        raise MillraceError(msg)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs inherit it ignored
        signal.signal(number, signal.default_int_handler)
    say("looking for a broker …")
    with broker(own=project is not None) as found:
        say(f"broker: {found.kind}")
        if project is not None:
            return asyncio.run(demo_project.show(found, project))
        return asyncio.run(demo_routes.show(found) if options.routes else _demo(found, options.requests))


@dataclass(slots=True)
class DemoStats:
    """Results received so far."""

    sent: dict[str, float] = field(default_factory=dict)
    latencies: dict[str, float] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    caches: Counter[str] = field(default_factory=Counter)
    primes: int = 0
    repeats: int = 0

    def add(self, result: Mapping[str, Any], now: float) -> None:
        """Count one result."""
        name = result["id"]
        if name in self.latencies or name not in self.sent:
            self.repeats += name in self.latencies
            return
        self.latencies[name] = now - self.sent[name]
        self.outcomes[result["outcome"]] += 1
        self.caches[result.get("cache", "-")] += 1
        self.primes += sum(check.get("value") is True for check in result.get("checks", ()))

    def percentile(self, share: float) -> float:
        """Return a percentile of the latencies in milliseconds."""
        ordered = sorted(self.latencies.values())
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


async def _demo(found: Broker, count: int) -> int:
    from streams.config.settings import Kafka
    from streams.kafka import client
    from streams.tasks import start

    mark, topics = names()
    await create(found, topics)
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serve())
        kafka = Kafka(bootstrap_servers=found.servers)
        producer = await stack.enter_async_context(client.producer(kafka, linger_ms=5))
        reading = client.consumer(kafka, topics[1], fetch_max_wait_ms=FETCH_MAX_WAIT_MS)
        consumer = await stack.enter_async_context(reading)
        worker = await stack.enter_async_context(run_worker(found, topics, mark, upstream))
        stats = DemoStats()
        started = time.monotonic()
        sending = start(
            _send(producer, topics[0], upstream.address, count, stats), "sending", means="no more answers come"
        )
        await _follow(consumer, count, stats, lambda: (sending.done() and sending.exception()) or worker.returncode)
        sending.cancel()
        _report(stats, count, upstream.calls, time.monotonic() - started)
    return DONE if len(stats.latencies) == count else FAILED


async def _send(producer: Any, topic: str, address: str, count: int, stats: DemoStats) -> None:
    started = time.monotonic()
    for number in range(count):
        ahead = number / PACE - (time.monotonic() - started)
        if ahead > 0:
            await asyncio.sleep(ahead)
        request: dict[str, Any] = {"id": f"demo-{number}"}
        if number % 2:
            request |= {"source": "numbers", "params": {"n": number % URLS}}  # its checks are the source's
        else:
            request |= {"url": f"http://{address}/numbers/{number % URLS}",
                        "checks": [{"name": "is_prime", "field": "n"}]}  # fmt: skip
        stats.sent[f"demo-{number}"] = time.monotonic()
        await producer.send(topic, strictjson.dumps(request), key=b"%d" % (number % URLS))


async def _follow(consumer: Any, count: int, stats: DemoStats, failed: Callable[[], object]) -> None:
    """Read results until all are there, time is up, or sender or worker failed; shows a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    deadline = time.monotonic() + PATIENCE
    columns = (
        TextColumn("results"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("results", total=count, note="")
        first: float | None = None
        while len(stats.latencies) < count and time.monotonic() < deadline and not failed():
            batches = await consumer.getmany(timeout_ms=100)
            now = time.monotonic()
            for records in batches.values():
                first = first or now
                for record in records:
                    stats.add(read_result(record.value), now)
            rate = len(stats.latencies) / max(now - (first or now), 0.1)
            share = stats.caches["hit"] / max(len(stats.latencies), 1)
            progress.update(bar, completed=len(stats.latencies), note=f"{rate:,.0f}/s, {share:.0%} from the cache")


def _report(stats: DemoStats, count: int, calls: int, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    lost = count - len(stats.latencies)
    table = Table(title=f"{count:,} requests over {URLS} URLs in {seconds:.1f} s", show_header=False, min_width=48)
    table.add_column()
    table.add_column(justify="right")
    for title, counter in (("outcome", stats.outcomes), ("cache", stats.caches)):
        for name, number in counter.most_common():
            table.add_row(f"{title} {name}", f"{number:,}")
        table.add_section()
    for share in (0.50, 0.95, 0.99):
        table.add_row(f"latency p{share * 100:.0f}, send to read", f"{stats.percentile(share):.0f} ms")
    table.add_section()
    table.add_row("primes found", f"{stats.primes:,}")
    table.add_row("upstream requests", f"{calls:,}")
    table.add_row("repeated results", f"{stats.repeats:,}")
    table.add_row("requests lost", f"{lost:,}")
    Console().print(table)
    if lost:
        say(f"{lost} requests were not answered within {PATIENCE:g} s: please report this bug")
        return
    millrace = command()
    say(
        "Next: point KAFKA_BOOTSTRAP_SERVERS at your Kafka, then\n"
        f"  {millrace} topics --create        create the topics\n"
        f"  {millrace} worker                 answer requests\n"
        f"  {millrace} send --url https://example.com --schema page\n"
        f"  {millrace} tail                   print results as they arrive"
    )
