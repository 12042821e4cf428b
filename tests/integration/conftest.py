from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from models.errors import BrokerError
from streams.kafka.broker import Broker
from streams.kafka.broker import broker as give_broker
from streams.kafka.topics import Admin
from streams.settings import Kafka
from tests.integration.stage import Stage, Upstream


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The best broker found, for the whole run. In CI it must be Kafka itself."""
    try:
        with give_broker(need_real=bool(os.environ.get("CI"))) as found:
            print(f"broker: {found.kind}")
            yield found
    except BrokerError as exc:
        pytest.fail(str(exc), pytrace=False)


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
