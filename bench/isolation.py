"""What a hanging host costs the others: 20,000 requests for host A, which never answers, and from then on a steady
stream for host B, half of it cached; then the same stream without A.

`python -m bench.isolation` prints B's latency, from the request's timestamp in Kafka to the result's: of hits and
misses, in the flood, after it, and when A's requests end by their deadline.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.stage import WORKERS, Stage, Upstream
from streams.config.settings import Kafka
from streams.kafka.topics import Admin

FLOOD = 20_000
"""Requests for the host that hangs."""
RATE = 100
"""Requests a second for the other one, every second of them cached."""
SECONDS = 36
"""Seconds of that: past the deadline of A's requests."""
PHASES = {"in the flood": (0, 3), "after it": (3, 28), "at A's deadline": (28, SECONDS)}
HANGING = 600.0
"""Seconds that host A takes: longer than any deadline."""
B_DELAY = 0.005
CACHED = 500

Found = dict[tuple[str, str], list[float]]
"""Latencies in ms, sorted, by phase and by `hit` or `miss`."""


class Run:
    """One run on topics of its own."""

    def __init__(self, servers: str, good: str, hanging: str | None, *, partitions: int, equal: bool) -> None:
        self._stage = Stage(servers, "millrace")
        self._good, self._hanging = good, hanging
        self._partitions, self._equal = partitions, equal
        self._sent: dict[str, tuple[int, str]] = {}

    async def latencies(self) -> Found:
        """Return what host B's requests took."""
        stage = self._stage
        async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
            for name in stage.names:
                await admin.create(name, self._partitions)
            await admin.settled(*stage.names)
        process = subprocess.Popen(WORKERS["millrace"], env=stage.environment)  # noqa: ASYNC220
        self._producer = AIOKafkaProducer(bootstrap_servers=stage.servers, linger_ms=2)
        self._consumer = AIOKafkaConsumer(stage.results, bootstrap_servers=stage.servers, auto_offset_reset="earliest",
                                          max_poll_records=10_000)  # fmt: skip
        await self._producer.start()
        await self._consumer.start()
        try:
            await self._send(f"warm{n}" for n in range(CACHED))
            await self._results(CACHED)
            reading = asyncio.create_task(self._latencies())
            if self._hanging:
                await self._send(f"a{n}" for n in range(FLOOD))
            await self._stream()
            return await asyncio.wait_for(reading, 60)
        finally:
            process.kill()  # host A's requests would keep it from stopping
            process.wait()
            await self._consumer.stop()
            await self._producer.stop()

    def _url(self, name: str) -> str:
        if name.startswith("a"):
            return f"{self._hanging}/{0 if self._equal else name[1:]}"
        number = int(name.lstrip("warmhit"))
        return f"{self._good}/{number % CACHED if not name.startswith('m') else CACHED + number}"

    async def _send(self, names: Iterable[str]) -> None:
        sent = []
        for number, name in enumerate(names):
            value = json.dumps({"id": name, "url": self._url(name), "timeout": 30}).encode()
            place = number % self._partitions
            sent.append(await self._producer.send(self._stage.requests, value, partition=place))
        for future in sent:
            await future

    async def _stream(self) -> None:
        started = time.monotonic()
        for number in range(RATE * SECONDS):
            name = f"hit{number}" if number % 2 else f"m{number}"
            value = json.dumps({"id": name, "url": self._url(name)}).encode()
            place = number // 2 % self._partitions
            ahead = number / RATE - (time.monotonic() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
            phase = next(phase for phase, (_, end) in PHASES.items() if number / RATE < end)
            sent = await self._producer.send_and_wait(self._stage.requests, value, partition=place)
            self._sent[name] = sent.timestamp, phase

    async def _results(self, count: int) -> None:
        while count > 0:
            count -= sum(map(len, (await self._consumer.getmany(timeout_ms=1000)).values()))

    async def _latencies(self) -> Found:
        arrived: dict[str, tuple[int, str]] = {}
        while len(arrived) < RATE * SECONDS:
            for records in (await self._consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    result = json.loads(record.value)
                    if not result["id"].startswith("a"):
                        arrived[result["id"]] = record.timestamp, result["cache"]
        found: Found = {}
        for name, (timestamp, cache) in arrived.items():
            sent, phase = self._sent[name]
            found.setdefault((phase, cache), []).append(timestamp - sent)
        return {key: sorted(values) for key, values in found.items()}


def main() -> None:
    """Run with and without the host that hangs: distinct URLs on one partition and on four, and equal ones."""
    parser = EntryPoint("bench.isolation", __doc__)
    parser.add_argument("--quick", action="store_true", help="one partition and distinct URLs alone")
    cases = [(1, False)] if parser.begin().quick else [(1, False), (4, False), (1, True)]
    with broker() as found, Upstream(B_DELAY) as good, Upstream(HANGING) as hanging:
        for partitions, equal in cases:
            urls = "equal" if equal else "distinct"
            print(f"{FLOOD} requests with {urls} URLs for a host that hangs, {partitions} partition(s):", flush=True)
            runs = [asyncio.run(Run(found.servers, good.url, url, partitions=partitions, equal=equal).latencies())
                    for url in (None, hanging.url)]  # fmt: skip
            for key in sorted(runs[1], key=lambda key: (key[1], list(PHASES).index(key[0]))):
                report(*key, *(run.get(key, [0.0]) for run in runs))


def report(phase: str, cache: str, alone: list[float], beside: list[float]) -> None:
    """Print one line: with the other host, and by how much more than without."""
    p99, p99_alone = (values[int(len(values) * 0.99)] for values in (beside, alone))
    print(f"  {cache:4} {phase:15} p50 {beside[len(beside) // 2]:4.0f} ms, p99 {p99:4.0f} ms, max {beside[-1]:4.0f} ms,"
          f" p99 {p99 / max(p99_alone, 1.0):.2f} × alone ({p99_alone:.0f} ms)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
