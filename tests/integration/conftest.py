from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agents.testing.broker import Broker
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from tests.integration.stage import Stage, Upstream


@pytest.fixture
def kafka(broker: Broker) -> Broker:
    """Kafka itself: for what a mock cluster does not have."""
    if not broker.real:
        pytest.skip(f"needs Kafka itself, found: {broker.kind}")
    return broker


@pytest.fixture
async def stage(broker: Broker) -> AsyncIterator[Stage]:
    """Topics and processes of one test's own."""
    async with Stage(broker.servers) as opened:
        if broker.real:
            await opened.create_topics()
        else:
            async with Admin(Kafka(bootstrap_servers=broker.servers)) as admin:
                await admin.mention(opened.requests, opened.results, opened.dead_letters)
        yield opened


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as opened:
        yield opened
