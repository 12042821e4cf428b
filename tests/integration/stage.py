"""What the integration tests stand on: topics of their own, real worker processes, an upstream, and what came out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata

from streams.config.settings import Kafka
from streams.kafka.client import BrokerConnection
from streams.kafka.cluster import identify
from streams.kafka.commit_metadata import CompletedOffsets, decode
from streams.kafka.topics import Admin

PATIENCE = 60.0
"""Seconds that a test waits for what must come."""


@dataclass(slots=True)
class Seen:
    """A result record as it was read."""

    partition: int
    key: bytes | None
    headers: dict[str, bytes]
    result: dict[str, Any]


class Worker:
    """A real worker process; its log is kept for when a test fails."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[str] = []
        self._found = asyncio.Condition()
        self._over = False
        self._reading = asyncio.create_task(self._read())
        self.url = ""

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._found:
                self.log.append(line.decode(errors="replace").rstrip())
                self._found.notify_all()
        async with self._found:
            self._over = True
            self._found.notify_all()

    async def logged(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log that matches, no longer than the worker lives."""

        def match() -> re.Match[str] | None:
            return next((found for line in self.log if (found := re.search(pattern, line))), None)

        async with asyncio.timeout(PATIENCE), self._found:
            await self._found.wait_for(lambda: self._over or match())
        found = match()
        assert found is not None, "\n".join([f"the worker ended without {pattern!r}:", *self.log[-40:]])
        return found

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await self._reading
        return code


@dataclass
class Stage:
    """Topics, group and processes of one test."""

    servers: str
    partitions: int = 4
    settings: dict[str, str] = field(default_factory=dict)
    replication: int = 1
    isolation: str = "read_uncommitted"
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    workers: list[Worker] = field(default_factory=list)
    closers: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)

    @property
    def requests(self) -> str:
        return f"requests-{self.mark}"

    @property
    def results(self) -> str:
        return f"results-{self.mark}"

    @property
    def dead_letters(self) -> str:
        return f"dead-letters-{self.mark}"

    @property
    def group(self) -> str:
        return f"group-{self.mark}"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": self.servers,
            "MILLRACE_GROUP": self.group,
            "MILLRACE_REQUESTS_TOPIC": self.requests,
            "MILLRACE_RESULTS_TOPIC": self.results,
            "MILLRACE_DEAD_LETTERS_TOPIC": self.dead_letters,
            "MILLRACE_WORKERS_TOPIC": f"workers-{self.mark}",
            "MILLRACE_ROLE": "answer",
            "MILLRACE_WEB_PORT": "0",
            "MILLRACE_POOL_WORKERS": "1",
            "MILLRACE_ALLOW_NETWORKS": "127.0.0.0/8",
            "MILLRACE_ALLOW_PORTS": "1-65535",
            "SSL_CERT_FILE": os.devnull,  # reading the system's authorities takes 0.1 s of CPU a process
            "SSL_CERT_DIR": os.devnull,
            **self.settings,
        }

    async def __aenter__(self) -> Stage:
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, linger_ms=5, request_timeout_ms=20_000)
        await producer.start()
        self.producer = producer
        self.closers.append(producer.stop)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.process.returncode is None:
                worker.terminate()
        for number, worker in enumerate(self.workers):
            code = await worker.ended()
            print(f"--- worker {number}, exit code {code}", *worker.log[-40:], sep="\n")
        for close in reversed(self.closers):
            await close()

    async def create_topics(self, *, requests: dict[str, str] | None = None, results: dict[str, str] | None = None,
                            dead_letters: dict[str, str] | None = None) -> None:  # fmt: skip
        names = (self.requests, requests), (self.results, results), (self.dead_letters, dead_letters)
        async with Admin(Kafka(bootstrap_servers=self.servers)) as admin:
            for name, config in names:
                await admin.create(name, self.partitions, self.replication, **(config or {}))
            await admin.settled(*(name for name, _ in names))

    async def start(self, *command: str, ready: bool = True, release: Path | None = None, **settings: str) -> Worker:
        """Start a worker process and wait until /readyz says so; `release` is the folder of another release."""
        process = await asyncio.create_subprocess_exec(
            python_of(release), *(command or ("-m", "millrace", "worker")), cwd=release,
            env=self.environment | settings,
            stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        worker = Worker(process)
        self.workers.append(worker)
        if ready:
            await self.until_ready(worker)
        return worker

    async def until_ready(self, worker: Worker) -> None:
        import aiohttp

        worker.url = (await worker.logged(r"web on (http://[^\s\"]+)"))[1]
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(worker.url + "/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    code = await worker.ended()
                    raise AssertionError("\n".join([f"the worker ended with {code}", *worker.log[-40:]])) from None
                await asyncio.sleep(0.05)

    async def send(self, values: Iterable[bytes | None], *, key: Callable[[int], bytes | None] | None = None) -> None:
        """Put values on the requests topic and wait for their delivery."""
        pending = [
            await self.producer.send(self.requests, value, key=key(number) if key else b"%d" % number)
            for number, value in enumerate(values)
        ]
        await asyncio.gather(*pending)

    async def read(self, topic: str | None = None) -> list[Seen]:
        """Read a topic (default: the results) from its beginning to its present end."""
        # A consumer stops only when the broker has answered its last fetch.
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, auto_offset_reset="earliest", fetch_max_wait_ms=20,
                                    isolation_level=self.isolation,
                                    max_poll_records=5000, max_partition_fetch_bytes=8 << 20)  # fmt: skip
        await consumer.start()
        try:
            tps = [TopicPartition(topic or self.results, number) for number in range(self.partitions)]
            consumer.assign(tps)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(tps)
            seen: list[Seen] = []
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        value = json.loads(record.value) if topic is None else record.value
                        seen.append(Seen(record.partition, record.key, dict(record.headers), value))
            return seen
        finally:
            await consumer.stop()

    async def results_of(self, ids: set[str], *, seconds: float = PATIENCE) -> list[Seen]:
        """Wait until every id has a result; returns all results read."""
        deadline = time.monotonic() + seconds
        seen: list[Seen] = []
        while time.monotonic() < deadline:
            seen = await self.read()
            if ids <= {each.result["id"] for each in seen}:
                return seen
            await asyncio.sleep(0.1)
        missing = sorted(ids - {each.result["id"] for each in seen})
        raise AssertionError(f"{len(missing)} of {len(ids)} requests have no result: {missing[:5]}")

    async def count(self, topic: str) -> int:
        """Return how many records a topic has (by offsets)."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers)
        await consumer.start()
        try:
            tps = [TopicPartition(topic, number) for number in range(self.partitions)]
            return sum((await consumer.end_offsets(tps)).values())
        finally:
            await consumer.stop()

    async def until_results(self, count: int) -> None:
        """Wait until the results topic has at least so many records."""
        async with asyncio.timeout(PATIENCE):
            while await self.count(self.results) < count:
                await asyncio.sleep(0.05)

    async def commits(self) -> dict[int, tuple[int, str]]:
        """Return the group's commits: offset and metadata by partition.

        Waits for a broker that has stood still: until the controller hears of it again, it names no broker at all.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(NodeNotReadyError):
                    return await self._commits()
                await asyncio.sleep(0.1)

    async def _commits(self) -> dict[int, tuple[int, str]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(self.group)
        finally:
            await admin.close()
        return {tp.partition: (each.offset, each.metadata) for tp, each in found.items() if tp.topic == self.requests}

    async def commit(self, commits: Mapping[int, tuple[int, str]]) -> None:
        """Commit for the group, which must have no members: as a former worker did, or a tool."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, group_id=self.group, enable_auto_commit=False)
        await consumer.start()
        try:
            tps = {number: TopicPartition(self.requests, number) for number in commits}
            consumer.assign(list(tps.values()))
            await consumer.commit({tps[number]: OffsetAndMetadata(*commit) for number, commit in commits.items()})
        finally:
            await consumer.stop()

    async def evict(self) -> None:
        """Take all members out of the group, as a session that ends does."""
        async with self._coordinator() as coordinator:
            [group] = (await coordinator.send(DescribeGroupsRequest([self.group]))).groups
            for member, *_ in group[5]:
                await coordinator.send(LeaveGroupRequest(self.group, member))

    async def until_state(self, state: str) -> None:
        """Wait until the group is in a state, such as PreparingRebalance or Stable."""
        async with asyncio.timeout(PATIENCE), self._coordinator() as coordinator:
            while (await coordinator.send(DescribeGroupsRequest([self.group]))).groups[0][2] != state:
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _coordinator(self) -> AsyncIterator[BrokerConnection]:
        """Open a connection to the group's coordinator."""
        kafka = Kafka(bootstrap_servers=self.servers)
        async with BrokerConnection(kafka) as door:
            place = await door.send(FindCoordinatorRequest(self.group, 0))
        async with BrokerConnection(kafka, (place.host, place.port)) as coordinator:
            yield coordinator

    async def remembered(self) -> dict[int, tuple[int, CompletedOffsets | None]]:
        """Return the group's commits: offset, and what is remembered beyond it, by partition."""
        async with BrokerConnection(Kafka(bootstrap_servers=self.servers)) as door:
            identity = (await identify(door.send, [self.requests]))[self.requests]
        return {
            number: (offset, decode(f"{self.group}/{self.requests}/{number}", identity, offset, metadata))
            for number, (offset, metadata) in (await self.commits()).items()
        }

    async def assert_commits_are_true(self, request_ids: dict[tuple[int, int], str], answered: Iterable[Seen]) -> None:
        """Fail if the group's commits, or what they remember, go past a request without a result."""
        ids = {each.result["id"] for each in answered}
        for partition, (offset, memo) in (await self.remembered()).items():
            for (place, number), name in request_ids.items():
                claimed = number < offset or (memo is not None and number in memo)
                assert not (place == partition and claimed and name not in ids), f"{name} is committed, not answered"

    async def offsets(self) -> dict[tuple[int, int], str]:
        """Return the id of each request by partition and offset."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, fetch_max_wait_ms=20)
        await consumer.start()
        try:
            tps = [TopicPartition(self.requests, number) for number in range(self.partitions)]
            consumer.assign(tps)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(tps)
            found: dict[tuple[int, int], str] = {}
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        found[record.partition, record.offset] = json.loads(record.value)["id"]
            return found
        finally:
            await consumer.stop()


def python_of(release: Path | None) -> str:
    """Return the Python of another release's environment, or ours. Only in its folder does it import that release."""
    return sys.executable if release is None else str(release / ".venv/bin/python")


def repeats(seen: Iterable[Seen]) -> int:
    """Return how many results repeat an id."""
    return sum(count - 1 for count in Counter(each.result["id"] for each in seen).values())


def asked(url: str, number: int, **more: Any) -> bytes:
    """Return request `number` for a URL."""
    return json.dumps({"id": f"r{number}", "url": url, **more}).encode()


class Upstream:
    """A real HTTP server on loopback. `/doc/<n>?delay=s&status=200` answers `{"n": n}`; tests add what else they
    need.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.app = web.Application()
        self.app.router.add_route("*", r"/doc/{n:\d+}", self._document)

    async def _document(self, request: web.Request) -> web.Response:
        self.calls[request.path_qs] += 1
        self.headers.append(dict(request.headers))
        await asyncio.sleep(float(request.query.get("delay", "0")))
        size = int(request.query.get("size", "0"))
        document = {"n": int(request.match_info["n"])} | ({"pad": "x" * size} if size else {})
        return web.json_response(document, status=int(request.query.get("status", "200")))

    async def __aenter__(self) -> Upstream:
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://127.0.0.1:%d" % self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
