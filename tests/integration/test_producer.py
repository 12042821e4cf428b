"""Producers on a real broker: what a failure leaves behind."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import ProducerClosed

from agents.testing.broker import Broker
from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.sender import Sender
from streams.kafka.topics import Admin
from tests.integration.stage import PATIENCE, Stage

pytestmark = pytest.mark.kafka


async def test_a_record_that_kafka_refuses_spoils_none_behind_it(kafka: Broker, stage: Stage) -> None:
    """A record larger than its topic takes fails alone: what is sent to the same partition next is acknowledged."""
    servers, topic = Kafka(bootstrap_servers=stage.servers), f"small-{stage.mark}"
    async with Admin(servers) as admin:
        await admin.create(topic, 1, 1, **{"max.message.bytes": "2000"})
        await admin.settled(topic)
    async with Sender(servers, "test") as sender:
        assert await sender.send(topic, 0, None, b"small", []) == 0
        with pytest.raises(BrokerError, match="MessageSizeTooLarge"):
            await sender.send(topic, 0, None, b"large" * 1000, [])
        assert await sender.send(topic, 0, None, b"small", []) == 1


async def test_a_producer_that_could_not_stop_writes_nothing_any_more(kafka: Broker, stage: Stage) -> None:
    """A record whose partition is away is given up: when the partition is there again, it has those of the next
    producer alone.
    """
    servers, topic = Kafka(bootstrap_servers=stage.servers), f"away-{stage.mark}"
    async with Admin(servers) as admin:
        await admin.create(topic, 1, 1)
        await admin.settled(topic)
        async with client.producer(servers, stop_timeout=0.5) as producer:
            await producer.send_and_wait(topic, b"former", partition=0)
            await _delete(stage, topic)
            sent = await producer.send(topic, b"former", partition=0)
        with pytest.raises(ProducerClosed):
            await sent
        await admin.create(topic, 1, 1)
        await admin.settled(topic)
    offsets = []
    async with client.producer(servers) as producer:
        for _ in range(5):  # aiokafka tries again every 0.1 s
            offsets.append((await producer.send_and_wait(topic, b"next", partition=0)).offset)
            await asyncio.sleep(0.1)
    assert offsets == [0, 1, 2, 3, 4]


async def _delete(stage: Stage, topic: str) -> None:
    """Delete a topic, and wait until it is gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        async with asyncio.timeout(PATIENCE):
            while topic in await admin.list_topics():
                await asyncio.sleep(0.05)
    finally:
        await admin.close()
