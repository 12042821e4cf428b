"""Taking up early what waits in delay topics: everything that is there at a moment.

The offsets up to which all is due now are commits of a group without members, `<group>-later-released`: they need no
topic of their own, and a worker reads them while anything waits. So nothing is copied, and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from models.errors import BrokerError, reason_of
from models.retry_later import is_delay_topic
from streams.config.settings import Settings
from streams.kafka import client
from streams.kafka.commits import all_commits
from streams.kafka.patterns import existing
from streams.kafka.reader import READ_TIMEOUT
from streams.kafka.topics import REQUEST_TIMEOUT, Admin, Topic

logger = logging.getLogger(__name__)

Offsets = Mapping[tuple[str, int], int]
"""By topic and partition."""


def later_group(settings: Settings) -> str:
    """Return the consumer group that reads the delay topics."""
    return f"{settings.group}-later"


def released_group(settings: Settings) -> str:
    """Return the group whose commits say what is released."""
    return f"{later_group(settings)}-released"


class Releases:
    """Reads what is released, over one connection that it opens when it is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._admin: Any = None
        self._found: dict[tuple[str, int], int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def read(self, topics: Collection[str]) -> Offsets:
        """Return the offsets of these topics; what was read last while Kafka does not answer."""
        try:
            if self._admin is None:
                opening = client.admin(self._settings.kafka, "millrace-later", REQUEST_TIMEOUT)
                self._admin = await self._stack.enter_async_context(opening)
            async with asyncio.timeout(REQUEST_TIMEOUT):
                found = await all_commits(self._admin, released_group(self._settings))
        except (KafkaError, BrokerError, OSError, AssertionError) as exc:  # TimeoutError is an OSError
            logger.info("what is released cannot be read, trying again: %s", reason_of(exc))
            self._admin = None
            await self._stack.aclose()
        else:
            self._found = {(tp.topic, tp.partition): at.offset for tp, at in found.items() if tp.topic in topics}
        return self._found


async def left_behind(settings: Settings, topics: Collection[str]) -> dict[str, int]:
    """Return how many records wait in delay topics of the group that are none of these, where any does.

    Raises BrokerError.
    """
    async with Admin(settings.kafka) as admin:
        names = [name for name in await existing(settings.kafka) if is_delay_topic(settings.group, name)]
        found = await admin.describe(*(name for name in names if name not in topics))
    if not found:
        return {}
    return {name: count for name, count in (await release(settings, found.values(), dry_run=True)).items() if count}


async def release(settings: Settings, topics: Collection[Topic], *, dry_run: bool = False) -> dict[str, int]:
    """Release all that is in these topics now; returns how much waits in each. With `dry_run` nothing is released.

    Raises BrokerError.
    """
    tps = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
    group = released_group(settings)
    async with (
        client.admin(settings.kafka, "millrace-redrive", REQUEST_TIMEOUT) as admin,
        client.consumer(settings.kafka, group_id=group, client_id="millrace-redrive") as consumer,
        asyncio.timeout(READ_TIMEOUT),
    ):
        consumer.assign(tps)
        begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        committed = await all_commits(admin, later_group(settings))
        if not dry_run:
            await consumer.commit({tp: end for tp, end in ends.items() if end})
    waiting = dict.fromkeys((topic.name for topic in topics), 0)
    for tp, end in ends.items():
        at = committed[tp].offset if tp in committed else begins[tp]
        waiting[tp.topic] += max(0, end - max(at, begins[tp]))
    return waiting
