"""Topics that are deleted and made again, mirrored, cut or enlarged while workers are at them, on a real broker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete

from agents.testing.broker import Broker
from models import strictjson
from streams.config.settings import Kafka
from streams.kafka import commit_metadata as memo
from streams.kafka.producer import ABSENT_FOR
from streams.kafka.topics import Admin
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked, repeats
from tests.integration.test_watchdog import FAULTY, until_unready

pytestmark = pytest.mark.kafka
LOGIN = {"Authorization": "Bearer t"}
NOTICED = 30.0
"""Seconds within which a worker goes on with a topic that was made again."""


async def delete(stage: Stage, name: str) -> None:
    """Delete a topic, and wait until it is gone."""
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        await admin._client.delete_topics([name])
        while name in await admin.describe(name):
            await asyncio.sleep(0.05)


async def make_again(stage: Stage, name: str) -> None:
    """Delete a topic, and make it again."""
    await delete(stage, name)
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        assert await admin.create(name, stage.partitions, 1)
        await admin.settled(name)


async def add_partitions(stage: Stage, name: str, count: int) -> None:
    """Give a topic more partitions."""
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        await admin._client.create_partitions({name: NewPartitions(count)})


async def delete_records(stage: Stage, before: int) -> None:
    """Delete what stands before an offset from the one requests partition that reaches so far."""
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        [place] = [tp for tp, end in (await ends(stage, stage.requests)).items() if end >= before]
        await admin._client.delete_records({place: RecordsToDelete(before)})


async def ends(stage: Stage, topic: str) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.servers)
    await consumer.start()
    try:
        found = await consumer.end_offsets([TopicPartition(topic, number) for number in range(stage.partitions)])
        return dict(found)
    finally:
        await consumer.stop()


async def timestamp_at(stage: Stage, place: TopicPartition, offset: int) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.servers, fetch_max_wait_ms=20)
    await consumer.start()
    try:
        consumer.assign([place])
        consumer.seek(place, offset)
        return int((await consumer.getone()).timestamp)
    finally:
        await consumer.stop()


async def committed(stage: Stage, count: int) -> bool:
    """Whether the group's commits are for the topic as it is now, and reach so far together."""
    try:
        return sum(offset for offset, _ in (await stage.remembered()).values()) == count
    except memo.InvalidCommitMetadata:
        return False


async def readiness(worker: Worker) -> str:
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/readyz?verbose") as response:
        return await response.text()


async def metric(worker: Worker, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/metrics") as response:
        return sum(float(line.split()[-1]) for line in (await response.text()).splitlines() if line.startswith(name))


async def rows_of(worker: Worker, table: str, count: int) -> None:
    """Wait until a worker's table has so many rows."""
    name = f'millrace_table_rows{{table="{table}"}}'
    async with asyncio.timeout(PATIENCE):
        while await metric(worker, name) != count:
            await asyncio.sleep(0.1)


def some(upstream: Upstream, numbers: Iterable[int]) -> list[bytes]:
    return [asked(f"{upstream.url}/doc/1", number) for number in numbers]


def ids(numbers: Iterable[int]) -> set[str]:
    return {f"r{number}" for number in numbers}


async def test_requests_made_again_are_read_from_the_first(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Deleted and made again while the worker was stopped for a moment, as if it were full: the new topic's records
    are all answered, also those at offsets that the old one's were committed at; and a worker that comes later does
    not take the old commits for the new topic's.
    """
    worker = await stage.start()
    await stage.send(some(upstream, range(600)))
    await stage.results_of(ids(range(600)))
    worker.process.send_signal(signal.SIGSTOP)
    await make_again(stage, stage.requests)
    await stage.send(some(upstream, range(1000, 2000)))
    worker.process.send_signal(signal.SIGCONT)
    await stage.results_of(ids(range(1000, 2000)), seconds=NOTICED)
    await worker.logged("made again")

    async with asyncio.timeout(20):
        while not await committed(stage, 1000):
            await asyncio.sleep(0.1)
    worker.kill()
    await worker.ended()
    before = await stage.read()
    await stage.start()
    await stage.send(some(upstream, range(2000, 2010)))
    assert len(await stage.results_of(ids(range(2000, 2010)))) == len(before) + 10


async def test_the_group_s_commits_for_a_former_topic_skip_nothing(
    kafka: Broker, stage: Stage, upstream: Upstream
) -> None:
    """A commit that was made for the old topic and is still there, or again, says nothing of the new one's records."""
    worker = await stage.start()
    await stage.send(some(upstream, range(400)))
    await stage.results_of(ids(range(400)))
    async with asyncio.timeout(20):
        while sum(offset for offset, _ in (await stage.commits()).values()) < 400:
            await asyncio.sleep(0.1)
    worker.terminate()
    await worker.ended()
    former = await stage.commits()
    await make_again(stage, stage.requests)
    await stage.commit(former)
    await stage.send(some(upstream, range(1000, 1800)))
    worker = await stage.start()
    await stage.results_of(ids(range(1000, 1800)))
    await worker.logged("made for a former topic")


async def test_requests_made_again_under_a_worker(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Deleted, missed for a while, and made again with fewer partitions under a running worker: it says that there is
    no such topic, makes none by looking for it, and goes on with the new one within 30 s.
    """
    worker = await stage.start()
    await stage.send(some(upstream, range(100)))
    await stage.results_of(ids(range(100)))
    await delete(stage, stage.requests)
    await until_unready(worker, "connected")
    assert f"no topic '{stage.requests}'" in await readiness(worker)
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        assert await admin.create(stage.requests, 2, 1)
        await admin.settled(stage.requests)
    await stage.producer.client.force_metadata_update()
    await stage.send(some(upstream, range(1000, 1300)))
    await stage.results_of(ids(range(1000, 1300)), seconds=NOTICED)
    assert worker.process.returncode is None


async def test_results_made_again_with_fewer_partitions_end_the_worker(
    kafka: Broker, stage: Stage, upstream: Upstream
) -> None:
    """It says so within 20 s and what that takes to be noticed, does not wait for what cannot be published, and shows
    no fault of its own. The next worker publishes to the new topic.
    """
    worker = await stage.start()
    await stage.send(some(upstream, range(100)))
    await stage.results_of(ids(range(100)))
    await delete(stage, stage.results)
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        assert await admin.create(stage.results, 1, 1)
        await admin.settled(stage.results)
    await stage.send(some(upstream, range(100, 300)))
    async with asyncio.timeout(ABSENT_FOR + 20):
        assert await worker.ended() == 1
    log = "\n".join(worker.log)
    assert f"topic '{stage.results}' has 1 partitions now, fewer than when this worker began" in log
    assert not [line for line in log.splitlines() if "Traceback" in line or "Assertion" in line or "not enough" in line]


async def test_partitions_added_to_requests_are_read(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Records of partitions that were added under a running worker are answered within 30 s."""
    await stage.start()
    await add_partitions(stage, stage.requests, 6)
    sent = [await stage.producer.send(stage.requests, value, partition=5) for value in some(upstream, range(20))]
    await asyncio.gather(*sent)
    await stage.results_of(ids(range(20)), seconds=NOTICED)


async def test_partitions_added_under_load_cost_no_request(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Each time a rebalance comes in the middle of polls: what a poll took for a lease that is over is read again."""
    worker = await stage.start()
    sent: set[str] = set()
    grown = asyncio.Event()

    async def flow() -> None:
        while not grown.is_set():
            numbers = range(len(sent), len(sent) + 40)
            await asyncio.gather(*[
                await stage.producer.send(stage.requests, asked(f"{upstream.url}/doc/1", number), partition=number % 4)
                for number in numbers
            ])  # fmt: skip
            sent.update(ids(numbers))

    flowing = asyncio.create_task(flow())
    for count in (12, 24, 40):
        await add_partitions(stage, stage.requests, count)
        await worker.logged(rf"assigned: .*-{count - 1}\b")
    grown.set()
    await flowing
    await stage.results_of(sent)


async def test_what_went_from_the_log_unread_is_counted(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Records deleted past the commit while no worker was there, and under one that is full: a warning and a count."""
    worker = await stage.start()
    await stage.send(some(upstream, range(100)), key=lambda _: b"k")
    await stage.results_of(ids(range(100)))
    worker.terminate()
    assert await worker.ended() == 0
    await stage.send(some(upstream, range(100, 300)), key=lambda _: b"k")
    await delete_records(stage, 250)
    worker = await stage.start(*FAULTY, "full")
    await stage.results_of(ids(range(250, 300)))
    await worker.logged(r"150 offsets, from 100 on, went from the log unread.*going on at 250")
    assert await metric(worker, "millrace_skipped_offsets_total") == 150

    hanging = [asked(f"{upstream.url}/doc/{number}?delay=4", number) for number in range(300, 310)]
    # of several times the bytes that aiokafka has fetched ahead: what it has already is not skipped, but answered
    rest = [asked(f"{upstream.url}/doc/1", number, context="x" * 2_000) for number in range(310, 3000)]
    await stage.send([*hanging, *rest], key=lambda _: b"k")
    async with asyncio.timeout(20):
        while upstream.calls["/doc/309?delay=4"] < 1:
            await asyncio.sleep(0.05)
    await delete_records(stage, 2900)
    seen = await stage.results_of(ids([*range(300, 310), *range(2900, 3000)]))
    assert repeats(seen) == 0
    assert await metric(worker, "millrace_skipped_offsets_total") > 150
    async with asyncio.timeout(20):
        while max(offset for offset, _ in (await stage.commits()).values()) < 3000:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("written", ["in another cluster", "by the release before"])
async def test_a_list_that_may_be_another_log_s_skips_nothing(
    kafka: Broker, stage: Stage, upstream: Upstream, written: str
) -> None:
    """A commit that a mirroring tool carried here with its memo, or that does not say of which topic it is: point and
    timestamp fit, and all requests from the point on are answered.
    """
    await stage.send(some(upstream, range(200)), key=lambda _: b"k")
    [(place, _)] = [(tp, end) for tp, end in (await ends(stage, stage.requests)).items() if end]
    owner = f"{stage.group}/{stage.requests}/{place.partition}"
    timestamp = await timestamp_at(stage, place, 50)
    metadata = memo.encode(owner, memo.Identity("source", "c291cmNlLXRvcGljLWlkIQ"), 50, timestamp, [(51, 150)])
    if written == "by the release before":
        words = metadata.split(" ")
        metadata = " ".join(["mr1", words[1], *words[4:]])
    await stage.commit({place.partition: (50, metadata)})
    await stage.start()
    seen = await stage.results_of(ids(range(50, 200)))
    assert {each.result["id"] for each in seen} == ids(range(50, 200))


async def test_results_that_grow_hold_up_nobody(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Partitions added to results: answering goes on, the changelogs are enlarged, and what comes on the added
    partitions is counted, too.
    """
    worker = await stage.start(MILLRACE_ROLE="all")
    await stage.send(some(upstream, range(40)))
    await rows_of(worker, "answers", 40)
    await add_partitions(stage, stage.results, 6)
    await worker.logged("answers-changelog: 6 partitions, as many as")
    value = strictjson.dumps((await stage.read())[0].result | {"id": "x"})
    await stage.producer.client.force_metadata_update()
    await stage.producer.send_and_wait(stage.results, value, key=b"x", partition=5)
    await stage.send(some(upstream, range(40, 80)))
    await stage.results_of(ids(range(80)))
    await rows_of(worker, "answers", 41)  # a row a key, and the keys are the same
    assert "tables: ok" in await readiness(worker)


async def test_results_made_again_are_written_and_counted_anew(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Results and dead letters deleted and made again under a worker: it publishes to the new ones, and the tables
    count what is there from the first record on, also where the former topic was longer.
    """
    worker = await stage.start(MILLRACE_ROLE="all")
    await stage.send(some(upstream, range(100)))
    await rows_of(worker, "answers", 100)
    for name in (stage.results, stage.dead_letters):
        await make_again(stage, name)
    await stage.send([*some(upstream, range(100, 140)), b"no request"])
    await stage.results_of(ids(range(100, 140)))
    await rows_of(worker, "answers", 41)
    assert worker.process.returncode is None


async def get(worker: Worker, path: str) -> dict[str, Any]:
    async with aiohttp.ClientSession(headers=LOGIN) as session, session.get(worker.url + path) as response:
        found: dict[str, Any] = await response.json()
        return found


async def redrive(worker: Worker, letters: Iterable[dict[str, Any]]) -> list[bool]:
    """Redrive dead letters through a worker's API; returns of each whether it was put back."""
    places = [{"partition": each["partition"], "offset": each["offset"]} for each in letters]
    async with (
        aiohttp.ClientSession(headers=LOGIN) as session,
        session.post(worker.url + "/api/redrive", json={"letters": places}) as response,
    ):
        assert response.status == 200, await response.text()
        found = {(each["partition"], each["offset"]): each for each in (await response.json())["letters"]}
    return [found[place["partition"], place["offset"]]["redriven"] for place in places]


async def letters_of(worker: Worker, count: int) -> list[dict[str, Any]]:
    """Wait until a worker lists so many dead letters; returns them."""
    async with asyncio.timeout(PATIENCE):
        while len(found := (await get(worker, "/api/errors"))["errors"]) < count:
            await asyncio.sleep(0.2)
    return list(found)


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made again"])
async def test_marks_that_are_gone_redrive_nothing_twice(
    kafka: Broker, stage: Stage, upstream: Upstream, again: bool
) -> None:
    """The topic of redrive marks is deleted, or deleted and created again, under a worker: what that worker put back
    stays put back, the rest can still be.
    """
    worker = await stage.start(MILLRACE_ROLE="all", MILLRACE_WEB_TOKEN="t")
    await stage.send([asked(f"{upstream.url}/never/{number}", number) for number in range(3)])
    await stage.results_of(ids(range(3)))
    first, second, third = await letters_of(worker, 3)
    assert await redrive(worker, [first, second]) == [True, True]
    marks = f"{stage.group}-redriven"
    await delete(stage, marks)
    if again:
        async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
            assert await admin.create(marks, 1, 1, **{"cleanup.policy": "compact"})
            await admin.settled(marks)
    assert await redrive(worker, [first, second, third]) == [False, False, True]
    assert worker.process.returncode is None
    other = await stage.start(MILLRACE_ROLE="all", MILLRACE_WEB_TOKEN="t")
    assert await redrive(other, [first, second, third]) == [False, False, False]


async def test_workers_made_again_see_one_another(kafka: Broker, stage: Stage) -> None:
    """The topic of heartbeats is deleted under two workers: one of them creates it, and both list both again."""
    two = [await stage.start(MILLRACE_ROLE="all", MILLRACE_WEB_TOKEN="t") for _ in range(2)]
    await delete(stage, stage.environment["MILLRACE_WORKERS_TOPIC"])
    await asyncio.sleep(1)
    async with asyncio.timeout(2 * NOTICED):
        for worker in two:
            while sum(each["answering"] for each in (await get(worker, "/api/workers"))["workers"]) < len(two):
                await asyncio.sleep(0.5)
    assert [worker.process.returncode for worker in two] == [None, None]
    assert not [line for worker in two for line in worker.log if "Traceback" in line]
