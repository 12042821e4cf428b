"""Asks the group's coordinator over a connection of its own, whatever the consumer's may be like."""

from __future__ import annotations

import asyncio
import logging

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.config.settings import Kafka
from streams.kafka.client import connection

logger = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that the coordinator may take, finding it included."""


async def coordinator_answers(kafka: Kafka, group: str) -> bool:
    """Whether the group's coordinator tells the group's commits, as it must to take one."""
    client = AIOKafkaAdminClient(
        **connection(kafka), client_id="millrace-watchdog", request_timeout_ms=int(TIMEOUT * 1000)
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            await client.start()
            await client.list_consumer_group_offsets(group)
    except (KafkaError, OSError) as exc:  # TimeoutError is an OSError
        logger.info("the coordinator of group %s does not answer: %r", group, exc)
        return False
    finally:
        await client.close()
    return True
