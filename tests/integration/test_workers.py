"""Workers tell of themselves on Kafka, and each of the tables role knows all of them."""

from __future__ import annotations

import asyncio

import pytest

from agents.cluster.registry import WorkerRegistry
from agents.testing.broker import Broker
from streams.config.settings import Kafka, Settings
from tests.integration.stage import PATIENCE, Stage, Upstream, asked

pytestmark = pytest.mark.kafka


async def until(condition, seconds: float = PATIENCE):
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.05)
    return found


def listening(stage: Stage) -> WorkerRegistry:
    kafka = Kafka(bootstrap_servers=stage.servers)
    return WorkerRegistry(Settings(kafka=kafka, group=stage.group, workers_topic=f"workers-{stage.mark}"))


async def test_records_appear_go_silent_and_go(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """A worker's record appears once a second; a killed one's grows silent, one stopped in order is gone."""
    first = await stage.start(MILLRACE_WORKER_ID="one", MILLRACE_ROLE="all")
    second = await stage.start(MILLRACE_WORKER_ID="two")
    await stage.send([asked(f"{upstream.url}/doc/{number}", number) for number in range(50)])
    await stage.until_results(50)
    async with listening(stage) as workers:
        one, two = await until(lambda: len(workers.all()) == 2 and workers.all())
        assert (one["id"], one["role"], one["url"], one["state"]) == ("one", "all", first.url, "running")
        assert (two["id"], two["role"]) == ("two", "answer")
        assert one["silent_s"] < 3
        assert "tables" not in two
        mine = await until(lambda: [each for each in workers.all()[0]["partitions"] if each["topic"] == stage.results])
        assert {each["partition"] for each in mine} == set(range(stage.partitions))
        await until(lambda: all(each["lag"] == 0 and each["end"] is not None
                                for record in workers.all() for each in record["partitions"]))  # fmt: skip
        await until(lambda: sorted(each["partition"] for record in workers.all() for each in record["partitions"]
                                   if each["topic"] == stage.requests) == [0, 1, 2, 3])  # fmt: skip
        await until(lambda: workers.all()[0]["tables"]["recovered"])
        second.kill()
        await second.ended()
        await until(lambda: workers.all()[1]["silent_s"] > 3)
        assert workers.all()[0]["silent_s"] < 3
        first.terminate()
        assert await first.ended() == 0
        await until(lambda: [record["id"] for record in workers.all()] == ["two"])


async def test_a_worker_answers_though_its_records_cannot_be_written(
    kafka: Broker, stage: Stage, upstream: Upstream
) -> None:
    """Without the right to write its records a worker answers all the same, and says so once."""
    worker = await stage.start(MILLRACE_WORKERS_TOPIC="__consumer_offsets")  # no client may write to it
    await worker.logged("pages do not show this worker")
    await stage.send([asked(f"{upstream.url}/doc/{number}", number) for number in range(50)])
    await stage.results_of({f"r{number}" for number in range(50)})
    assert sum("pages do not show this worker" in line for line in worker.log) == 1


async def test_nonsense_on_the_topic_hurts_nobody(kafka: Broker, stage: Stage) -> None:
    """What others write there is left out, counted, and the records of workers are read on."""
    topic = f"workers-{stage.mark}"
    await stage.start(MILLRACE_WORKER_ID="one")
    for key, value in (
        (b"x", b"\xff"),
        (b"y", b"[1]"),
        (b"z" * 300, b"{}"),
        (b"\xff", b"{}"),
        (b"d", b"[" * 9000),
    ):
        await stage.producer.send_and_wait(topic, value, key=key)
    async with listening(stage) as workers:
        await until(lambda: workers.unreadable == 5)
        first = await until(lambda: [each["at"] for each in workers.all()])
        await until(lambda: [each["at"] for each in workers.all()] > first)
        assert [each["id"] for each in workers.all()] == ["one"]


async def test_a_member_without_partitions_is_ready_and_claims_none(kafka: Broker, upstream: Upstream) -> None:
    """More workers than partitions: those that have to give theirs up stay ready, and say that they hold nothing."""
    async with Stage(kafka.servers, partitions=1) as stage:
        await stage.create_topics()
        # In the order of their names: the partition goes to each new one in turn.
        workers = [await stage.start(MILLRACE_WORKER_ID=name) for name in ("c", "b", "a")]
        await stage.send([asked(f"{upstream.url}/doc/{number}", number) for number in range(20)])
        await stage.until_results(20)
        async with listening(stage) as heard:
            await until(lambda: len(heard.all()) == 3)
            for worker in workers:  # whichever got the partition of another, none of before is claimed any more
                await stage.until_ready(worker)
            await until(lambda: sum(len(record["partitions"]) for record in heard.all()) == 1)
        for worker in workers[:2]:
            assert any("assigned: no partition" in line for line in worker.log)
