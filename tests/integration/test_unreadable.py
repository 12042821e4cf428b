"""Records that aiokafka's parser dies of, with a header name that is no UTF-8, met by readers without a group."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from agents.cluster.registry import WorkerRegistry
from agents.testing.broker import Broker
from streams.config.settings import Kafka, Settings
from streams.kafka.tail import Tail
from streams.kafka.topics import Admin
from tests.integration.stage import PATIENCE, Stage
from tests.integration.test_commands import millrace
from tests.integration.test_contract import NotUtf8

pytestmark = pytest.mark.kafka


async def unreadable(stage: Stage, topic: str, *values: bytes, key: bytes = b"k", partition: int = 0) -> None:
    """Write one batch whose second record is such a one."""
    batch = stage.producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 1 << 20)
    for number, value in enumerate(values):
        names = [NotUtf8("x")] if number == 1 else []
        batch.append(timestamp=None, key=key, value=value, headers=[(name, b"1") for name in names])
    await (await stage.producer.send_batch(batch, topic, partition=partition))


async def test_the_end_of_the_results_is_followed(kafka: Broker, stage: Stage) -> None:
    """Who waits for a result gets it, though it comes behind such a record; who watches sees every record once."""
    seen: list[bytes] = []
    async with Tail(Kafka(bootstrap_servers=stage.servers), stage.results) as tail:
        with tail.watching(lambda records, _: seen.extend(record.value for record in records)):
            async with tail.expecting("wanted", 0) as future:
                await unreadable(stage, stage.results, b"1", b"2", b"3")
                headers = [("ce_id", b"wanted")]
                await stage.producer.send_and_wait(stage.results, b"4", partition=0, headers=headers)
                assert await asyncio.wait_for(future, PATIENCE) == b"4"
                async with asyncio.timeout(PATIENCE):
                    while len(seen) < 4:
                        await asyncio.sleep(0.05)
    assert seen == [b"1", b"2", b"3", b"4"]


async def test_the_command_shows_them(kafka: Broker, stage: Stage) -> None:
    """`millrace tail` shows what it is and goes on, from the beginning, with no record lost in any partition."""
    for partition in range(stage.partitions):
        await unreadable(stage, stage.results, b"1", b"2", b"3", partition=partition)
    code, out, err = await millrace(stage, "tail", "--from-beginning", "-n", str(3 * stage.partitions))
    assert (code, sorted(out.split())) == (0, sorted(["b'1'", "b'2'", "b'3'"] * stage.partitions)), err


async def test_workers_are_heard_beyond_them(kafka: Broker, stage: Stage) -> None:
    """What workers tell of themselves is read on."""
    settings = Settings(kafka=Kafka(bootstrap_servers=stage.servers), workers_topic=f"workers-{stage.mark}")
    async with Admin(settings.kafka) as admin:
        await admin.create(settings.workers_topic, 1)
        await admin.settled(settings.workers_topic)
    await unreadable(stage, settings.workers_topic, b'{"n": 1}', b'{"n": 2}', key=b"first")
    await stage.producer.send_and_wait(settings.workers_topic, b"{}", key=b"second")
    async with WorkerRegistry(settings) as workers, asyncio.timeout(PATIENCE):
        while len(workers.all()) < 2:
            await asyncio.sleep(0.05)
    assert [(each["id"], each.get("n")) for each in workers.all()] == [("first", 2), ("second", None)]
