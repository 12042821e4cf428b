"""What the tables cost: CPU a result and results a second, end to end, and how long their recovery takes.

`python -m bench.tables` prints both. The worker runs the tables alone; it is stopped while results are produced and
let go on a full backlog, and it is done when its group has committed them, so their rows are acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.stage import LIMIT, PARTITIONS, Stage, Upstream, cpu_of
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from streams.tables.changelogs import CONFIG

RESULTS = 300_000
ROWS = 1_000_000
WORKER = [sys.executable, "-m", "millrace", "worker", "--role", "tables"]
DOCUMENT = b'{"n":%d,"name":"a product","price":12.5,"tags":["a","b"],"text":"' + b"x" * 120 + b'"}'
RESULT = (
    b'{"id":"r%d","outcome":"ok","request":{"method":"GET","url":"http://h%d.example:8080/doc/%d"},"status":200,'
    b'"document":' + DOCUMENT + b',"attempts":1,"fetched_at":"2026-11-22T14:00:00.123Z","cache":"%b","age":12.5,'
    b'"elapsed_ms":0.2}'
)
WORKLOADS = {
    "hits, 1,000 keys": (1_000, 1_000, b"hit"),
    "hits, a key each": (1_000, None, b"hit"),
    "misses, a key each": (None, None, b"miss"),
}
"""Distinct documents and keys (None: every one another), and the cache state that results name."""
HOSTS = 20
RATE = 200
"""Most requests per second that are answered meanwhile."""
AFTER = 5.0
"""Seconds for which they are answered after it."""
SEED = 20_261_127


def results(documents: int | None, keys: int | None, cache: bytes, count: int) -> Iterable[tuple[bytes, bytes]]:
    """Yield keys and results of a workload."""
    draw = random.Random(SEED)
    for number in range(count):
        document = number if documents is None else draw.randrange(documents)
        key = number if keys is None else draw.randrange(keys)
        yield b"key-%d" % key, RESULT % (number, document % HOSTS, document, document, cache)


class Tables(Stage):
    """A worker of the tables role and its topics."""

    def __init__(self, servers: str) -> None:
        super().__init__(servers, "millrace")
        self.environment |= {"MILLRACE_LOG_LEVEL": "INFO", "MILLRACE_ANSWERS_ROWS": str(ROWS),
                             "MILLRACE_WORKERS_TOPIC": f"{self.results}-workers"}  # fmt: skip
        self.group = f"{self.environment['MILLRACE_GROUP']}-tables"

    async def create(self) -> None:
        """Make the topics of the contract."""
        async with Admin(Kafka(bootstrap_servers=self.servers)) as admin:
            for name in self.names:
                await admin.create(name, PARTITIONS)
            await admin.settled(*self.names)

    async def count(self, records: Iterable[tuple[bytes, bytes]], count: int) -> tuple[float, float]:
        """Return the worker's CPU in µs a result, and results a second."""
        await self.create()
        await self.produce(self.results, [(b"warm", RESULT % (0, 0, 0, 0, b"hit"))] * PARTITIONS)
        process = subprocess.Popen(WORKER, env=self.environment, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            await self.counted(PARTITIONS)
            process.send_signal(signal.SIGSTOP)
            await self.produce(self.results, records)
            used, started = cpu_of(process.pid), time.perf_counter()
            process.send_signal(signal.SIGCONT)
            await self.counted(PARTITIONS + count)
            seconds, used = time.perf_counter() - started, cpu_of(process.pid) - used
        finally:
            process.terminate()
            process.wait(30)
        return used / count * 1e6, count / seconds

    async def recover(self, rows: int) -> float:
        """Return the seconds that a worker takes to recover so many rows of answers."""
        await self.create()
        await self.fill(rows)
        process = subprocess.Popen(WORKER, env=self.environment, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
        try:
            assert process.stderr is not None
            for line in process.stderr:
                found = re.search(r"recovered: (\d+) rows of \d+ partitions in ([0-9.]+) s", line)
                if found is not None:
                    assert int(found[1]) == rows, line
                    return float(found[2])
        finally:
            process.terminate()
            process.communicate(timeout=30)
        msg = "the worker ended before it had recovered"
        raise AssertionError(msg)

    async def answer_meanwhile(self, rows: int) -> tuple[list[float], list[float]]:
        """Return the latencies, in ms, of requests answered from the cache while so many rows recover, and after it."""
        await self.create()
        await self.fill(rows)
        command = [*WORKER[:-1], "all"]
        process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE)  # noqa: ASYNC220
        with Upstream(0.0) as upstream:
            try:
                recovered = asyncio.create_task(asyncio.to_thread(_recovered_at, process))
                return await self._latencies(upstream.url, recovered)
            finally:
                process.terminate()
                process.communicate(timeout=30)

    async def _latencies(self, url: str, recovered: asyncio.Task[float]) -> tuple[list[float], list[float]]:
        consumer = AIOKafkaConsumer(self.results, bootstrap_servers=self.servers, auto_offset_reset="earliest")
        producer = AIOKafkaProducer(bootstrap_servers=self.servers)
        await consumer.start()
        await producer.start()
        seen: list[tuple[int, int]] = []
        sent_at: dict[bytes, int] = {}
        try:
            await producer.send_and_wait(self.requests, b'{"url":"%b/0"}' % url.encode())
            await consumer.getone()  # it answers; recovery goes on
            begun, number = time.time() * 1000, 0
            until = float("inf")
            while time.time() < until:
                sent = await producer.send(self.requests, b'{"url":"%b/0"}' % url.encode(), key=b"%d" % number)
                sent.add_done_callback(lambda sent, key=b"%d" % number: sent_at.update({key: sent.result().timestamp}))
                number += 1
                for records in (await consumer.getmany(timeout_ms=int(1000 / RATE))).values():
                    seen += [(record.key, record.timestamp) for record in records]
                if until == float("inf") and recovered.done():
                    until = time.time() + AFTER
        finally:
            await producer.stop()
            await consumer.stop()
        end = recovered.result() * 1000
        pairs = [(sent_at[key], at - sent_at[key]) for key, at in seen if key in sent_at and sent_at[key] > begun]
        return sorted(took for at, took in pairs if at < end), sorted(took for at, took in pairs if at >= end)

    async def fill(self, rows: int) -> None:
        """Put so many rows on the changelog of answers."""
        changelog = f"{self.group}-answers-changelog"
        async with Admin(Kafka(bootstrap_servers=self.servers)) as admin:
            await admin.create(changelog, PARTITIONS, -1, **CONFIG)
            await admin.settled(changelog)
        await self.produce(changelog, ((b"key-%d" % n, row(n)) for n in range(rows)))

    async def counted(self, count: int) -> None:
        """Wait until the group has committed so many results."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, group_id=self.group, enable_auto_commit=False)
        await consumer.start()
        tps = [TopicPartition(self.results, number) for number in range(PARTITIONS)]
        consumer.assign(tps)
        deadline = time.monotonic() + LIMIT
        try:
            while sum([await consumer.committed(tp) or 0 for tp in tps]) < count:
                if time.monotonic() > deadline:
                    msg = f"not counted after {LIMIT:g} s"
                    raise TimeoutError(msg)
                await asyncio.sleep(0.02)
        finally:
            await consumer.stop()

    async def produce(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Put records on a topic, one partition after the other."""
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, max_batch_size=512 * 1024)
        await producer.start()
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        for number, (key, value) in enumerate(records):
            place = number % PARTITIONS
            while batches[place].append(key=key, value=value, timestamp=None) is None:
                await (await producer.send_batch(batches[place], topic, partition=place))
                batches[place] = producer.create_batch()
        for place, batch in enumerate(batches):
            if batch.record_count():
                await (await producer.send_batch(batch, topic, partition=place))
        await producer.stop()


def row(number: int) -> bytes:
    """Return a row of answers as it is on the changelog."""
    result = RESULT % (number, number % HOSTS, number, number, b"hit")
    return b'{"offset":0,"at":%d,"keyed":true,"id":"r%d","outcome":"ok","bytes":%d,"result":%b}' % (
        int(time.time() * 1000), number, len(result), result,
    )  # fmt: skip


def _recovered_at(process: subprocess.Popen[bytes]) -> float:
    """Return when a worker logged that its tables have recovered."""
    assert process.stderr is not None
    for line in process.stderr:
        if b"tables recovered" in line:
            return time.time()
    return 0.0


async def run(servers: str, count: int, rows: int) -> None:
    print(f"{'results':24}{'µs CPU':>10}{'a second':>12}")
    for name, (documents, keys, cache) in WORKLOADS.items():
        cpu, rate = await Tables(servers).count(results(documents, keys, cache, count), count)
        print(f"{name:24}{cpu:>10.1f}{rate:>12,.0f}", flush=True)
    print(f"recovery of {rows:,} rows: {await Tables(servers).recover(rows):.1f} s", flush=True)
    for when, took in zip(
        ("while they recover", "after it"), await Tables(servers).answer_meanwhile(rows), strict=True
    ):
        if took:
            p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
            print(f"hits answered {when}: p50 {p50:.0f} ms, p99 {p99:.0f} ms of {len(took)}")


def main() -> None:
    parser = EntryPoint("bench.tables", __doc__)
    parser.add_argument("--results", type=int, default=RESULTS)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.begin()
    with broker(need_real=True) as found:
        print(f"broker: {found.kind}; {os.cpu_count()} cores")
        asyncio.run(run(found.servers, options.results, options.rows))


if __name__ == "__main__":
    main()
