"""Nothing is lost, and little is repeated, whatever happens to workers and broker."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from aiokafka import AIOKafkaProducer

from agents.testing.broker import Apache, Broker
from streams.config.settings import SHUTDOWN_DEADLINE
from streams.kafka.commit_metadata import CompletedOffsets
from tests.integration.stage import Stage, Upstream, asked, repeats

COUNT = 2_400
SLOW_EVERY = 50
"""Every 50th request takes 3 s: 2 %."""
FREEZE, FREEZE_COUNT = 20.0, 6_750
"""Seconds that a broker stands still, longer than a session, and requests that there are."""
pytestmark = pytest.mark.kafka


def load(upstream: Upstream, count: int = COUNT, slow: float = 3.0) -> tuple[list[bytes], set[str]]:
    """Requests for as many URLs, of which every 50th is slow."""
    values = [
        asked(f"{upstream.url}/doc/{n}?delay={slow if n % SLOW_EVERY == 0 else n % 50 / 1000}", n) for n in range(count)
    ]
    return values, {f"r{n}" for n in range(count)}


async def test_kill_in_mid_run_loses_nothing_and_repeats_only_what_was_open(
    kafka: Broker, stage: Stage, upstream: Upstream
) -> None:
    """(a) After kill -9 and a restart every request is answered; what repeats was unfinished at the last commit."""
    values, ids = load(upstream)
    worker = await stage.start(MILLRACE_MAX_IN_FLIGHT="40")  # the run takes some 7 s: several commits
    await stage.send(values)
    await stage.until_results(COUNT // 2)
    worker.kill()
    await worker.ended()
    before = await stage.read()
    commits = await stage.remembered()
    request_ids = await stage.offsets()
    await stage.assert_commits_are_true(request_ids, before)

    await stage.start()
    after = await stage.results_of(ids)
    remembered = _committed_ids(commits, request_ids)
    allowed = len({each.result["id"] for each in before} - remembered)
    print(f"\nkill -9: {COUNT - len({e.result['id'] for e in after})} lost, {repeats(after)} repeats; "
          f"{allowed} were finished since the last commit")  # fmt: skip
    assert repeats(after) <= allowed
    repeated = [each for each in after if each.result["id"] in remembered]
    assert len(repeated) == len(remembered), "what a commit remembers was answered again"


def _committed_ids(
    commits: dict[int, tuple[int, CompletedOffsets | None]], ids: dict[tuple[int, int], str]
) -> set[str]:
    return {
        name
        for (partition, number), name in ids.items()
        if partition in commits
        for offset, memo in [commits[partition]]
        if number < offset or (memo is not None and number in memo)
    }


async def test_sigterm_in_mid_run_loses_and_repeats_nothing(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """(b) SIGTERM under load ends with 0 within the deadline; the next worker does the rest, nothing twice."""
    values, ids = load(upstream)
    worker = await stage.start()
    await stage.send(values)
    await stage.until_results(COUNT // 3)
    started = time.monotonic()
    worker.terminate()
    assert await worker.ended() == 0
    assert time.monotonic() - started < SHUTDOWN_DEADLINE
    await stage.start()
    seen = await stage.results_of(ids)
    assert repeats(seen) == 0


async def test_members_come_go_and_die_without_a_loss(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """(c) A second worker joins, the first is told to go, a third joins, the second is killed: 0 lost."""
    values, ids = load(upstream, slow=1.0)
    first = await stage.start()
    sending = asyncio.create_task(stage.send(values))
    await stage.until_results(COUNT // 6)
    second = await stage.start()
    first.terminate()
    assert await first.ended() == 0
    await stage.start()
    second.kill()
    await sending
    seen = await stage.results_of(ids)
    print(f"\nmembership: 0 lost, {repeats(seen)} repeats")
    await stage.assert_commits_are_true(await stage.offsets(), seen)


async def test_sigterm_while_a_rebalance_waits(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """(d) A worker told to stop while its group waits for it to drain is gone in time, and the group goes on."""
    values, ids = load(upstream, 400, slow=6.0)
    first = await stage.start()
    await stage.send(values)
    await stage.until_results(300)
    second = await stage.start(ready=False)  # its joining makes the first drain
    await second.logged("web on")
    await asyncio.sleep(1.5)  # into the first one's drain: it waits there for up to 6 s
    started = time.monotonic()
    first.terminate()
    assert await first.ended() == 0
    assert time.monotonic() - started < SHUTDOWN_DEADLINE
    await stage.until_ready(second)
    seen = await stage.results_of(ids)
    assert repeats(seen) == 0


async def test_a_rebalance_while_a_worker_stops(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """(d) A worker that was told to stop drains while its group takes another in, as when several are replaced at once:
    the group waits for it, and nothing is answered twice.
    """
    values, ids = load(upstream, 400, slow=6.0)  # joining and the next heartbeat take less
    first = await stage.start()
    second = await stage.start(ready=False)
    await second.logged("web on")  # it joins in a moment, which the first one learns with its next heartbeat
    await stage.send(values)
    await stage.until_results(200)
    first.terminate()
    await stage.until_state("PreparingRebalance")
    assert "stopped" not in first.log[-1]
    assert await first.ended() == 0
    await stage.until_ready(second)
    assert sum("assigned: requests" in line for line in second.log) == 1, "the first one joined again before it left"
    await stage.results_of(ids)
    second.terminate()  # it drains, so what it answers once more is there, too
    assert await second.ended() == 0
    assert repeats(await stage.read()) == 0


async def test_the_broker_restarts_under_load(kafka: Broker, upstream: Upstream) -> None:
    """(e) A broker that goes and comes back in mid-run costs time, not requests, and no worker ends."""
    if kafka.apache is None:
        pytest.skip("needs a broker of the test's own")
    with Apache() as broker:
        async with Stage(broker.servers) as stage:
            await stage.create_topics()
            values, ids = load(upstream, slow=1.0)
            worker = await stage.start()
            await stage.send(values)
            await stage.until_results(COUNT // 3)
            await asyncio.to_thread(broker.stop)
            await asyncio.sleep(2)  # long enough for commits, fetches and sends to fail
            await asyncio.to_thread(broker.start)
            seen = await stage.results_of(ids)
            print(f"\nbroker restart: 0 lost, {repeats(seen)} repeats")
            assert worker.process.returncode is None


async def test_a_hanging_request_holds_up_nobody(stage: Stage, upstream: Upstream) -> None:
    """(f) One request hangs until its deadline; 5,000 behind it in its partition are answered before."""
    hanging = asked(f"{upstream.url}/doc/1?delay=60", 0, timeout=8)
    values = [hanging] + [asked(f"{upstream.url}/doc/{n % 100}", n) for n in range(1, 5_001)]
    await stage.start()
    await stage.send(values, key=lambda _: b"one partition")
    started = time.monotonic()
    await stage.results_of({f"r{n}" for n in range(1, 5_001)}, seconds=7)
    assert time.monotonic() - started < 7
    seen = await stage.results_of({"r0"})
    assert next(each for each in seen if each.result["id"] == "r0").result["outcome"] == "timeout"


async def test_holes_of_transactions_do_not_hold_up_the_commit(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """(g) Aborted requests are not answered; past them and the markers, the commit point reaches the log's end."""
    transactional = AIOKafkaProducer(bootstrap_servers=stage.servers, transactional_id=f"t-{stage.mark}")
    await transactional.start()
    try:
        for number in range(6):
            await transactional.begin_transaction()
            for n in range(10):
                value = asked(f"{upstream.url}/doc/{n}", number * 10 + n)
                await transactional.send(stage.requests, value, partition=n % stage.partitions)
            await (transactional.abort_transaction() if number % 2 else transactional.commit_transaction())
    finally:
        await transactional.stop()
    await stage.start()
    committed = {f"r{number * 10 + n}" for number in range(0, 6, 2) for n in range(10)}
    seen = await stage.results_of(committed)
    assert {each.result["id"] for each in seen} == committed
    await _commits_reach_the_end(stage)


async def test_holes_of_compaction_do_not_hold_up_the_commit(kafka: Broker, upstream: Upstream) -> None:
    """(g) A compacted requests topic has offsets that never come; the commit point reaches the log's end."""
    async with Stage(kafka.servers, partitions=1) as stage:
        eager = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01",
                 "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "100"}  # fmt: skip
        await stage.create_topics(requests=eager)
        for round_ in range(5):
            values = [asked(f"{upstream.url}/doc/{n}", round_ * 100 + n) for n in range(50)]
            await stage.send(values)
            await asyncio.sleep(0.3)  # each round in a segment of its own, so that compaction may take the older
        async with asyncio.timeout(60):
            while len(await stage.offsets()) == 250:
                await asyncio.sleep(1)
        left = set((await stage.offsets()).values())
        print(f"\ncompaction left {len(left)} of 250 requests")
        await stage.start()
        await stage.results_of(left)
        await _commits_reach_the_end(stage)


async def _commits_reach_the_end(stage: Stage) -> None:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(bootstrap_servers=stage.servers)
    await consumer.start()
    try:
        tps = [TopicPartition(stage.requests, number) for number in range(stage.partitions)]
        ends = {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
    finally:
        await consumer.stop()
    async with asyncio.timeout(20):
        while {place: offset for place, (offset, _) in (await stage.commits()).items()} != ends:
            await asyncio.sleep(0.2)


async def test_a_frozen_broker_repeats_no_more_than_was_in_flight(kafka: Broker, upstream: Upstream) -> None:
    """(h) A broker that stands still (SIGSTOP) for longer than a session loses its members; what they finished, but
    could not commit, is not answered again when they come back.
    """
    if kafka.apache is None:
        pytest.skip("needs a broker of the test's own")
    with Apache() as broker:
        async with Stage(broker.servers) as stage:
            await stage.create_topics()
            worker = await stage.start(MILLRACE_MAX_IN_FLIGHT="40")
            values, ids = load(upstream, FREEZE_COUNT, slow=0.1)
            await stage.send(values)
            await stage.until_results(FREEZE_COUNT // 4)
            broker._process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(FREEZE)
            broker._process.send_signal(signal.SIGCONT)
            seen = await stage.results_of(ids)
            print(f"\nfrozen broker: 0 lost, {repeats(seen)} repeats of {FREEZE_COUNT}")
            print(*(line for line in worker.log if "assigned" in line), sep="\n")
            assert repeats(seen) <= 40


async def test_a_member_that_the_group_lost_repeats_nothing(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """(i) Taken out of its group in mid-run, a worker comes back, and what it finished but could not commit any more is
    not answered again.
    """
    worker = await stage.start(MILLRACE_MAX_IN_FLIGHT="40")
    for n in range(0, 3_000, 1_000):  # few enough to be done within the drain's deadline
        values = [asked(f"{upstream.url}/doc/{i}?delay={i % 50 / 1000}", i) for i in range(n, n + 1_000)]
        await stage.send(values)
        await stage.until_results(n + 500)
        await stage.evict()
    seen = await stage.results_of({f"r{n}" for n in range(3_000)})
    print(f"\nlost by the group: {repeats(seen)} repeats of 3,000")
    assert sum("assigned: requests" in line for line in worker.log) > 1
    assert repeats(seen) <= 40
