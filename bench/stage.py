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
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.testing.broker import free_port
from bench.upstream import HOSTS
from streams.config.settings import Kafka
from streams.kafka.topics import Admin

PARTITIONS = 4
MEMORY = "memory://?entries=100000&bytes=256MiB&ttl=3600"
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE = 0.1
"""Seconds after each step in which the worker writes its answers to the cache."""
EXACTLY_ONCE = "exactly once"
"""The worker that commits in transactions: its results count once they are committed."""
LIMIT = 600.0
"""Seconds for one measurement."""

WORKERS = {
    "millrace": [sys.executable, "-m", "millrace", "worker", "--role", "answer"],
    "millrace, traced": [sys.executable, "-m", "millrace", "worker", "--role", "answer"],
    EXACTLY_ONCE: [sys.executable, "-m", "millrace", "worker", "--role", "answer"],
    "millrace, ordered": [sys.executable, "-m", "millrace", "worker", "--role", "answer"],
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

    def __init__(self, servers: str, worker: str, cache: str = MEMORY, partitions: int = PARTITIONS) -> None:
        self.servers = servers
        self.worker = worker
        self.partitions = partitions
        self._processes: list[subprocess.Popen[bytes]] = []
        mark = uuid.uuid4().hex[:8]
        self.requests, self.results, letters = f"requests-{mark}", f"results-{mark}", f"dead-letters-{mark}"
        self.names = self.requests, self.results, letters
        self.environment = os.environ | {
            "BARE": "1" if worker.endswith("bare") else "",
            "MILLRACE_TRACES": "on" if worker.endswith("traced") else "off",
            "MILLRACE_DELIVERY": "exactly-once" if worker == EXACTLY_ONCE else "at-least-once",
            "MILLRACE_ORDER": "key" if worker.endswith("ordered") else "none",
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

    @contextlib.asynccontextmanager
    async def running(self, workers: int = 1) -> AsyncIterator[list[int]]:
        """Make the topics and run the workers; gives their process ids."""
        async with Admin(Kafka(bootstrap_servers=self.servers)) as admin:
            for name in self.names:
                await admin.create(name, self.partitions)
            await admin.settled(*self.names)
        with tempfile.TemporaryFile("w+") as log:
            ours = self.worker == EXACTLY_ONCE or self.worker.startswith("millrace")
            out = None if ours else log  # peers print banners and complain at the end
            for _ in range(workers):
                command = WORKERS[self.worker]
                self._processes.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))  # noqa: ASYNC220
            try:
                yield [process.pid for process in self._processes]
            except ChildProcessError as exc:
                log.seek(0)
                exc.add_note(log.read()[-2000:])
                raise
            finally:
                for process in self._processes:
                    process.terminate()
                for process in self._processes:
                    process.wait(30)
                self._processes.clear()

    async def measure(self, warm: list[bytes], load: list[bytes], step: int = 0, workers: int = 1) -> Measured:
        """Answer `warm` unmeasured, `step` by step (0: at once), then `load`; verify that each has its result.

        With steps, `load` must be answered from the cache.
        """
        async with self.running(workers) as pids:
            for start in range(0, len(warm), step or len(warm)):
                chunk = warm[start : start + (step or len(warm))]
                await self._produce(chunk)
                await self._await_results(start + len(chunk))
                await asyncio.sleep(SETTLE if step else 0)
            rss_before = sum(map(_rss, pids))
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await self._produce(load)
            cpu, started = sum(map(cpu_of, pids)), time.perf_counter()
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            await self._await_results(len(warm) + len(load))
            seconds, used = time.perf_counter() - started, sum(map(cpu_of, pids)) - cpu
            rss_after = sum(map(_rss, pids))
        await self._verify(len({*warm, *load}), len(load) if step else 0)
        return Measured(self.worker, len(load), used / len(load) * 1e6, seconds, rss_before, rss_after)

    async def latencies(self, warm: list[bytes], load: list[tuple[str, bytes]], rate: float) -> dict[str, float]:
        """Answer `warm`, then send `load`, ids and requests, at `rate` a second.

        Returns the seconds of each from produce to consume, as one who does both sees them.
        """
        async with self.running():
            await self._produce(warm)
            await self._await_results(len(warm))
            return await self._paced(load, rate)

    async def _paced(self, load: list[tuple[str, bytes]], rate: float) -> dict[str, float]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, max_poll_records=10_000)
        producer = AIOKafkaProducer(bootstrap_servers=self.servers)
        await asyncio.gather(consumer.start(), producer.start())
        consumer.assign([TopicPartition(self.results, number) for number in range(self.partitions)])
        await consumer.seek_to_end()
        sent: dict[str, float] = {}
        took: dict[str, float] = {}

        async def read() -> None:
            while len(took) < len(load):
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    now = time.perf_counter()
                    took.update((ident, now - sent[ident]) for each in records if (ident := _id_of(each.value)) in sent)

        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            group.create_task(read())
            begun = time.perf_counter()
            for number, (ident, value) in enumerate(load):
                if (ahead := begun + number / rate - time.perf_counter()) > 0:
                    await asyncio.sleep(ahead)
                sent[ident] = time.perf_counter()
                await producer.send(self.requests, value, key=ident.encode(), partition=number % self.partitions)
        await asyncio.gather(consumer.stop(), producer.stop())
        return took

    async def _produce(self, values: Iterable[bytes]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, max_batch_size=512 * 1024, linger_ms=5)
        await producer.start()
        batches = [producer.create_batch() for _ in range(self.partitions)]
        for number, value in enumerate(values):
            place = number % self.partitions
            if batches[place].append(key=b"k%d" % number, value=value, timestamp=None) is None:
                await (await producer.send_batch(batches[place], self.requests, partition=place))
                batches[place] = producer.create_batch()
                batches[place].append(key=b"k%d" % number, value=value, timestamp=None)
        for place, batch in enumerate(batches):
            if batch.record_count():
                await (await producer.send_batch(batch, self.requests, partition=place))
        await producer.stop()

    async def _await_results(self, count: int) -> None:
        group = self.environment["MILLRACE_GROUP"] if self.worker == EXACTLY_ONCE else None
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, group_id=group, enable_auto_commit=False)
        await consumer.start()
        tps = [TopicPartition(self.results, number) for number in range(self.partitions)]
        deadline = time.monotonic() + LIMIT
        try:
            while await self._done(consumer, tps) < count:
                if any(process.poll() is not None for process in self._processes):
                    msg = f"{self.worker}: ended by itself"
                    raise ChildProcessError(msg)
                if time.monotonic() > deadline:
                    msg = f"{self.worker}: not done after {LIMIT:g} s"
                    raise TimeoutError(msg)
                await asyncio.sleep(0.02)
        finally:
            await consumer.stop()

    async def _done(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> int:
        """Return how many results there are; of transactions, whose markers take offsets, how many are committed."""
        if self.worker != EXACTLY_ONCE:
            return sum((await consumer.end_offsets(tps)).values())
        return sum([await consumer.committed(TopicPartition(self.requests, tp.partition)) or 0 for tp in tps])

    async def _verify(self, count: int, hits: int) -> None:
        """Verify the number of results, and the least number of hits among them."""
        consumer = AIOKafkaConsumer(self.results, bootstrap_servers=self.servers, auto_offset_reset="earliest",
                                    isolation_level="read_committed", max_poll_records=10_000)  # fmt: skip
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
        _await_port("127.0.0.1", port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _await_port(host: str, port: int) -> None:
    """Wait until a server accepts connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port)):
            return
        time.sleep(0.01)
    msg = f"nothing listens on {host}:{port}"
    raise TimeoutError(msg)


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
        _await_port(f"127.0.0.{HOSTS}", self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def _id_of(result: bytes) -> str:
    """Return the id of a result, at the price of a search."""
    begin = result.index(b'"id"')
    begin = result.index(b'"', begin + 5) + 1
    return result[begin : result.index(b'"', begin)].decode()


def cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _rss(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
