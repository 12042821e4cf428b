from __future__ import annotations

import asyncio
from functools import partial

import pytest

from streams.config.settings import Settings
from streams.registry.registry import Registry
from tests.unit.streams.registry.server import RegistryServer


@pytest.fixture
async def server(opened):
    return await RegistryServer().open(opened)


@pytest.fixture
async def registry(opened, server):
    return await opened.enter_async_context(Registry(Settings(registry_url=server.url)))


@pytest.fixture
def client(server):
    """confluent-kafka's own client, as a producer has it."""
    from confluent_kafka.schema_registry import SchemaRegistryClient

    with SchemaRegistryClient({"url": server.url, "timeout": 5, "ssl.ca.location": False}) as opened:
        yield opened


@pytest.fixture
async def serialize():
    """Serialize a record by one of confluent-kafka's serializers, which block."""
    from confluent_kafka.serialization import MessageField, SerializationContext

    async def run(serializer, value, topic="orders", headers=None, field=MessageField.VALUE):
        context = SerializationContext(topic, field, [] if headers is None else headers)
        return await asyncio.to_thread(partial(serializer, value, context))

    return run
