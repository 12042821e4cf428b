"""The environment of a workload: topics, an upstream process, and one measured worker process.

The worker is stopped (SIGSTOP) while the requests are produced and let go on a full backlog, so that producing
takes no CPU from it. CPU is the worker process's user and system time, from /proc; start-up is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.testing.broker import free_port
from streams.config.settings import Kafka
from streams.kafka.topics import Admin

PARTITIONS = 4
MEMORY = "memory://?entries=100000&bytes=256MiB&ttl=3600"
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE = 0.1
"""Seconds after each step in which the worker writes its answers to the cache."""
LIMIT = 600.0
"""Seconds for one measurement."""

WORKERS = {
    "millrace": [sys.executable, "-m", "millrace", "worker", "--role", "answer"],
    "millrace, traced": [sys.executable, "-m", "millrace", "worker", "--role", "answer"],
    "by hand": [sys.executable, "-m", "bench.peers.by_hand"],
    "by hand, bare": [sys.executable, "-m", "bench.peers.by_hand"],
    "stock Faust": [sys.executable, "-m", "bench.peers.stock_faust", "worker", "-l", "error", "--without-web"],
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. `cpu` in µs a request, `seconds` of wall time, memory in MiB before and after."""

    worker: str
    requests: int
    cpu: float
    seconds: float
    rss_before: float
    rss_after: float


class Stage:
    """Topics of their own for one worker on a broker."""

    def __init__(self, servers: str, worker: str, cache: str = MEMORY) -> None:
        self.servers = servers
        self.worker = worker
        mark = uuid.uuid4().hex[:8]
        self.requests, self.results, letters = f"requests-{mark}", f"results-{mark}", f"dead-letters-{mark}"
        self.names = self.requests, self.results, letters
        self.environment = os.environ | {
            "BARE": "1" if worker.endswith("bare") else "",
            "MILLRACE_TRACES": "on" if worker.endswith("traced") else "off",
            "OTEL_TRACES_EXPORTER": "none",  # what a worker pays for spans, without the thread that sends them
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "MILLRACE_GROUP": f"bench-{mark}",
            "MILLRACE_REQUESTS_TOPIC": self.requests,
            "MILLRACE_RESULTS_TOPIC": self.results,
            "MILLRACE_DEAD_LETTERS_TOPIC": letters,
            "MILLRACE_WEB_PORT": "0",
            "MILLRACE_CACHE": cache,
            "MILLRACE_ALLOW_NETWORKS": "127.0.0.0/8",
            "MILLRACE_ALLOW_PORTS": "1-65535",
            "MILLRACE_LOG_LEVEL": "WARNING",
        }

    async def measure(self, warm: list[bytes], load: list[bytes], step: int = 0) -> Measured:
        """Answer `warm` unmeasured, `step` by step (0: at once), then `load`; verify that each has its result.

        With steps, `load` must be answered from the cache.
        """
        async with Admin(Kafka(bootstrap_servers=self.servers)) as admin:
            for name in self.names:
                await admin.create(name, PARTITIONS)
            await admin.settled(*self.names)
        process = subprocess.Popen(WORKERS[self.worker], env=self.environment)  # noqa: ASYNC220  it is what is measured
        try:
            for start in range(0, len(warm), step or len(warm)):
                chunk = warm[start : start + (step or len(warm))]
                await self._produce(chunk)
                await self._await_results(start + len(chunk))
                await asyncio.sleep(SETTLE if step else 0)
            rss_before = _rss(process.pid)
            process.send_signal(signal.SIGSTOP)
            await self._produce(load)
            cpu, started = cpu_of(process.pid), time.perf_counter()
            process.send_signal(signal.SIGCONT)
            await self._await_results(len(warm) + len(load))
            seconds, used = time.perf_counter() - started, cpu_of(process.pid) - cpu
            rss_after = _rss(process.pid)
        finally:
            process.terminate()
            process.wait(30)
        await self._verify(len({*warm, *load}), len(load) if step else 0)
        return Measured(self.worker, len(load), used / len(load) * 1e6, seconds, rss_before, rss_after)

    async def _produce(self, values: Iterable[bytes]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, max_batch_size=512 * 1024, linger_ms=5)
        await producer.start()
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        for number, value in enumerate(values):
            place = number % PARTITIONS
            if batches[place].append(key=b"k%d" % number, value=value, timestamp=None) is None:
                await (await producer.send_batch(batches[place], self.requests, partition=place))
                batches[place] = producer.create_batch()
                batches[place].append(key=b"k%d" % number, value=value, timestamp=None)
        for place, batch in enumerate(batches):
            if batch.record_count():
                await (await producer.send_batch(batch, self.requests, partition=place))
        await producer.stop()

    async def _await_results(self, count: int) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers)
        await consumer.start()
        tps = [TopicPartition(self.results, number) for number in range(PARTITIONS)]
        deadline = time.monotonic() + LIMIT
        try:
            while sum((await consumer.end_offsets(tps)).values()) < count:
                if time.monotonic() > deadline:
                    msg = f"{self.worker}: not done after {LIMIT:g} s"
                    raise TimeoutError(msg)
                await asyncio.sleep(0.02)
        finally:
            await consumer.stop()

    async def _verify(self, count: int, hits: int) -> None:
        """Verify the number of results, and the least number of hits among them."""
        consumer = AIOKafkaConsumer(self.results, bootstrap_servers=self.servers, auto_offset_reset="earliest",
                                    max_poll_records=10_000)  # fmt: skip
        await consumer.start()
        seen: set[str] = set()
        while batch := await consumer.getmany(timeout_ms=2000):
            for records in batch.values():
                for record in records:
                    result = json.loads(record.value)
                    if result["outcome"] != "ok":
                        msg = f"{self.worker}: {result}"
                        raise AssertionError(msg)
                    seen.add(result["id"])
                    hits -= result["cache"] == "hit"
            if len(seen) >= count and hits <= 0:
                break
        await consumer.stop()
        if hits > 0:
            msg = f"{self.worker}: {hits} answers were no hits"
            raise AssertionError(msg)
        if len(seen) != count:
            msg = f"{self.worker}: {count - len(seen)} of {count} requests have no result"
            raise AssertionError(msg)


@contextlib.contextmanager
def memcached() -> Iterator[int]:
    """Run a memcached process and give its port."""
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(["memcached", *user, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "512"])
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Upstream:
    """The upstream process, opened with `with`."""

    def __init__(self, delay: float) -> None:
        self._port = free_port()
        self._delay = delay
        self.url = self.host(1)

    def host(self, number: int) -> str:
        """Return the base URL by which the upstream is host `number`, from 1 to bench.upstream.HOSTS."""
        return f"http://127.0.0.{number}:{self._port}/doc"

    def __enter__(self) -> Upstream:
        self._process = subprocess.Popen([sys.executable, "-m", "bench.upstream", str(self._port), str(self._delay)])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _rss(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
