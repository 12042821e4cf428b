"""Results, dead letters and offsets in one transaction: a reader of what is committed sees each of them once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from agents.testing.broker import Apache, Broker
from streams.config.settings import SESSION_TIMEOUT, Kafka
from streams.kafka.commits import UnstableOffsets
from streams.kafka.lease import CommitPoint, Member
from streams.kafka.topics import Admin
from streams.kafka.txn_offsets import GroupMovedOn, stable_commits
from streams.kafka.txn_producer import TransactionalProducer
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked, repeats

KILLS = int(os.environ.get("EXACTLY_ONCE_KILLS", "3"))
"""Times that a worker is killed; it is frozen or replaced less often, and the broker restarts once in ten kills."""
LONG = 20
"""Kills from which on a frozen worker stands still for longer than its session; else the group is told so."""
ROUND = 250
"""Requests sent before each fault."""
ID = "__dlq.errors.id"


@pytest.fixture
def exact(kafka: Broker, stage: Stage) -> Stage:
    """A stage of exactly-once workers, read as its consumers should."""
    return exactly(stage)


def exactly(stage: Stage) -> Stage:
    stage.isolation = "read_committed"
    stage.settings |= {"MILLRACE_DELIVERY": "exactly-once"}
    return stage


def load(upstream: Upstream, first: int, count: int) -> tuple[list[bytes], set[str], set[str]]:
    """Return requests of all kinds: hits, misses of 0 to 50 ms, a few of 2 s, some that fail; all ids, and of these."""
    values, failing = [], set()
    for n in range(first, first + count):
        delay, status = 2 if n % 200 == 0 else n % 50 / 1000, 404 if n % 20 == 7 else 200
        values.append(asked(f"{upstream.url}/doc/{n % 500}?delay={delay}&status={status}", n))
        if status != 200:
            failing.add(f"r{n}")
    return values, {f"r{n}" for n in range(first, first + count)}, failing


async def each_once(stage: Stage, ids: set[str], failing: set[str], *, seconds: float = PATIENCE) -> None:
    """Fail unless each request has one committed result, each failure one committed dead letter, and the group's
    offsets say that all are done.
    """
    seen = await stage.results_of(ids, seconds=seconds)
    assert repeats(seen) == 0, [name for name, n in Counter(each.result["id"] for each in seen).items() if n > 1][:5]
    # A transaction becomes visible partition by partition: its dead letters may do so after its results.
    letters: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while len(letters) < len(failing) and time.monotonic() < deadline:
        letters = [each.headers[ID].decode() for each in await stage.read(stage.dead_letters)]
    assert sorted(letters) == sorted(failing)
    offsets = await stage.offsets()
    async with asyncio.timeout(PATIENCE):
        while True:
            commits = await stage.commits()
            if all(commits.get(place, (0, ""))[0] > offset for place, offset in offsets):
                return
            await asyncio.sleep(0.2)


class Cast:
    """Two workers, each of a name of its own, as a StatefulSet has them; and what may happen to one."""

    def __init__(self, stage: Stage, upstream: Upstream) -> None:
        self.stage = stage
        self.upstream = upstream
        self.workers: dict[str, Worker] = {}
        self.ids: set[str] = set()
        self.failing: set[str] = set()

    async def send(self, count: int) -> None:
        values, ids, failing = load(self.upstream, len(self.ids), count)
        await self.stage.send(values)
        self.ids |= ids
        self.failing |= failing

    async def begin(self, name: str) -> None:
        self.workers[name] = await self.stage.start(MILLRACE_WORKER_ID=name, MILLRACE_MAX_IN_FLIGHT="20")

    async def kill(self, name: str) -> None:
        """Kill -9; the group's session with it ends, and another process of its name begins."""
        self.workers[name].kill()
        await self.workers[name].ended()
        await self.stage.evict()
        await self.begin(name)

    async def freeze(self, name: str) -> None:
        """Stop the process in whatever it does, for longer than its session, until the others have done its work."""
        process = self.workers[name].process
        process.send_signal(signal.SIGSTOP)
        before = await self.stage.count(self.stage.results)
        await self.send(ROUND // 5)
        if KILLS >= LONG:
            await asyncio.sleep(SESSION_TIMEOUT + 2)
        else:
            await self.stage.evict()
        await self.stage.until_results(before + ROUND // 5)
        process.send_signal(signal.SIGCONT)

    async def replace(self, name: str) -> None:
        """SIGTERM under load, and a new process."""
        self.workers[name].terminate()
        assert await self.workers[name].ended() == 0
        await self.begin(name)


async def test_each_result_is_committed_once_through_faults(kafka: Broker, upstream: Upstream) -> None:
    """Workers are killed with -9, frozen past their session and woken, and replaced, and the broker restarts, all of it
    under load: each request has one committed result, each failure one dead letter, and nothing is left over.
    """
    if kafka.apache is None:
        pytest.skip("needs a broker of the test's own")
    seed = int(os.environ.get("EXACTLY_ONCE_SEED", random.randrange(10**6)))
    print(f"EXACTLY_ONCE_SEED={seed}")
    draw = random.Random(seed)
    deeds = ["kill"] * KILLS + ["freeze"] * max(2, KILLS // 5) + ["replace"] * max(1, KILLS // 5)
    deeds += ["restart"] * max(1, KILLS // 10)
    draw.shuffle(deeds)
    with Apache() as broker:
        async with Stage(broker.servers) as stage:
            await exactly(stage).create_topics()
            cast = Cast(stage, upstream)
            await asyncio.gather(cast.begin("one"), cast.begin("two"))
            for deed in deeds:
                before = await stage.count(stage.results)
                await cast.send(ROUND)
                await stage.until_results(before + draw.randrange(ROUND // 2))
                await asyncio.sleep(draw.random() * 0.2)  # any place in a transaction
                name = draw.choice(list(cast.workers))
                print(deed, name, flush=True)
                if deed == "restart":
                    await asyncio.to_thread(broker.stop, kill=draw.random() < 0.5)
                    await asyncio.to_thread(broker.start)
                else:
                    await getattr(cast, deed)(name)
            await each_once(stage, cast.ids, cast.failing, seconds=2 * PATIENCE)
            assert all(worker.process.returncode is None for worker in cast.workers.values())
            refused = sum("the group has moved on" in line for each in stage.workers for line in each.log)
            print(f"{len(cast.ids)} requests, {len(deeds)} faults, {refused} transactions refused to a former member")


async def test_two_workers_of_one_name_both_get_on(exact: Stage, upstream: Upstream) -> None:
    """Two workers of one MILLRACE_WORKER_ID fence each other once, not for ever."""
    await exact.start(MILLRACE_WORKER_ID="same")
    await exact.start(MILLRACE_WORKER_ID="same")
    values, ids, failing = load(upstream, 0, 300)
    await exact.send(values)
    await each_once(exact, ids, failing)


ROUTE = """
[sources.docs]
url = "{url}/doc/{{n}}?status={{status}}"

[routes.orders]
topics = ["orders-{mark}"]
results = "enriched-{mark}"
failures = "failed-{mark}"

[[routes.orders.lookups]]
source = "docs"
params = {{ n = "value.n", status = "value.status" }}
into = "doc"
"""


async def test_a_route_commits_each_output_once(exact: Stage, upstream: Upstream, tmp_path: Path) -> None:
    """A route commits outputs and dead letters in transactions of its own: through kill -9 each record has one."""
    (tmp_path / "sources.toml").write_text(ROUTE.format(url=upstream.url, mark=exact.mark))
    exact.settings["MILLRACE_SOURCES"] = str(tmp_path / "sources.toml")
    orders, enriched, failed = (f"{name}-{exact.mark}" for name in ("orders", "enriched", "failed"))
    async with Admin(Kafka(bootstrap_servers=exact.servers)) as admin:
        for topic in (orders, enriched, failed):
            await admin.create(topic, exact.partitions, 1)
        await admin.settled(orders, enriched, failed)
    worker = await exact.start(MILLRACE_WORKER_ID="one")
    for n in range(600):
        value = b'{"n":%d,"status":%d}' % (n, 404 if n % 20 == 7 else 200)
        await exact.producer.send(orders, value, key=b"%d" % n)
    await exact.producer.flush()
    async with asyncio.timeout(PATIENCE):
        while await exact.count(enriched) < 100:
            await asyncio.sleep(0.02)
    worker.kill()
    await worker.ended()
    await exact.start(MILLRACE_WORKER_ID="one")
    async with asyncio.timeout(PATIENCE):
        while len(done := [*await exact.read(enriched), *await exact.read(failed)]) < 600:
            await asyncio.sleep(0.2)
    assert sorted(int(each.key) for each in done) == list(range(600))
    assert {int(each.key) % 20 for each in await exact.read(failed)} == {7}


# -- what the broker refuses, step by step


class Owner(NamedTuple):
    """A member of the group, by its consumer, with a transactional producer."""

    consumer: AIOKafkaConsumer
    producer: TransactionalProducer

    @property
    def member(self) -> Member:
        coordinator = self.consumer._coordinator
        return Member(coordinator.generation, coordinator.member_id)

    async def begin(self, stage: Stage, value: bytes) -> None:
        """Begin a transaction with one result in it."""
        await self.producer.begin()
        batch = await self.producer.new_batch()
        batch.append(timestamp=None, key=None, value=value)
        await self.producer.ship(stage.results, 0, batch)


class Members:
    """Opens members of a stage's group."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.opened: list[Owner] = []

    async def join(self, name: str) -> Owner:
        """Join, and wait for an assignment."""
        stage = self.stage
        consumer = AIOKafkaConsumer(stage.requests, bootstrap_servers=stage.servers, group_id=stage.group,
                                    enable_auto_commit=False, heartbeat_interval_ms=100_000,
                                    session_timeout_ms=300_000)  # fmt: skip
        await consumer.start()
        async with asyncio.timeout(PATIENCE):
            while not consumer.assignment():
                await asyncio.sleep(0.02)
        producer = TransactionalProducer(Kafka(bootstrap_servers=stage.servers), name, _ignore,
                                         f"{stage.group}-{name}")  # fmt: skip
        await producer.__aenter__()
        self.opened.append(Owner(consumer, producer))
        return self.opened[-1]


@pytest.fixture
async def members(exact: Stage) -> AsyncIterator[Members]:
    found = Members(exact)
    yield found
    for owner in found.opened:
        await owner.producer.discard(fenced=False)
        await owner.consumer.stop()


async def test_a_zombie_commits_nothing_even_with_a_new_producer(exact: Stage, members: Members) -> None:
    """A worker slept through a rebalance. Its open transaction is refused by its generation; so is one that it begins
    with a producer initialised after the new owner's, which fences nobody and is what a transactional id alone lets by.
    """
    former = await members.join("former")
    old, tp = former.member, TP(exact.requests, 0)
    await former.begin(exact, b"of the former")
    await exact.evict()
    present = await members.join("present")
    assert present.member.generation > old.generation

    with pytest.raises(GroupMovedOn):
        await former.producer.add_offsets(exact.group, old, {tp: CommitPoint(7, "former")})
    await former.producer.discard(fenced=False)
    await former.begin(exact, b"of the former again")  # InitProducerId, late
    with pytest.raises(GroupMovedOn):
        await former.producer.add_offsets(exact.group, old, {tp: CommitPoint(7, "former")})
    await former.producer.discard(fenced=False)

    await present.begin(exact, b"of the present")
    await present.producer.add_offsets(exact.group, present.member, {tp: CommitPoint(8, "present")})
    await present.producer.commit()
    await former.begin(exact, b"")  # its InitProducerId aborts what it had open: a reader waits for that
    seen = [each.result for each in await exact.read(exact.results)]
    assert seen == [b"of the present"]
    assert (await exact.commits())[0] == (8, "present")


async def test_offsets_without_a_generation_would_let_a_zombie_by(exact: Stage, members: Members) -> None:
    """Why Millrace sends a request of its own: aiokafka's names no member, and the broker takes it from a zombie."""
    former = await members.join("former")
    await exact.evict()
    present = await members.join("present")
    await former.begin(exact, b"of the former")
    stock = former.producer._producer
    await stock.send_offsets_to_transaction(
        {TopicPartition(exact.requests, 0): OffsetAndMetadata(7, "former")}, exact.group)  # fmt: skip
    await stock.commit_transaction()
    assert present.member.generation > former.member.generation
    async with asyncio.timeout(PATIENCE):
        while (await exact.commits()).get(0) != (7, "former"):
            await asyncio.sleep(0.05)


async def test_a_new_owner_waits_for_a_transaction_that_is_open(exact: Stage, members: Members) -> None:
    """A worker died, or stands still, between its offsets and the commit of their transaction: the next owner is given
    no offset until that has ended, one way or the other.
    """
    former, tp = await members.join("former"), TP(exact.requests, 0)
    for end in ("commit", "abort"):
        before = (await exact.commits()).get(0)
        member = former.member
        await former.begin(exact, end.encode())
        await former.producer.add_offsets(exact.group, member, {tp: CommitPoint(5, end)})
        with pytest.raises(UnstableOffsets):
            await stable_commits(former.consumer._coordinator, [TopicPartition(*tp)])
        if end == "commit":
            await former.producer.commit()
        else:
            await former.producer.discard(fenced=False)
            await former.begin(exact, b"")
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    found = await stable_commits(former.consumer._coordinator, [TopicPartition(*tp)])
                    break
                except UnstableOffsets:
                    await asyncio.sleep(0.02)
        assert found.get(tp) == (OffsetAndMetadata(5, end) if end == "commit" else OffsetAndMetadata(*before))
        if end == "abort":
            await former.producer.discard(fenced=False)


def _ignore(_: BaseException) -> None: ...
