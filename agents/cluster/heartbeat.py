"""Publishes the status of this worker: a record a second on a compacted topic, and a tombstone at an orderly stop.

Nothing else depends on it: a topic that is not available is logged once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from aiokafka.errors import KafkaError

from models.errors import BrokerError, reason_of
from streams import ticks
from streams.config.settings import Kafka, Settings
from streams.kafka import client
from streams.kafka.topics import Admin
from streams.tasks import end_tasks, keep

logger = logging.getLogger(__name__)

HEARTBEAT_EVERY = 1.0
"""Seconds between two records."""
HEARTBEAT_TIMEOUT = 5.0
"""Seconds that one record may take."""
RETRY_PAUSE = 5.0
"""Seconds between attempts while the topic is not available."""
FAREWELL_TIMEOUT = 2.0
"""Seconds that the tombstone may take."""
CONFIG = {
    "cleanup.policy": "compact,delete",
    "retention.ms": str(86_400_000),
    # Only whole segments are compacted: of a record a second, ten minutes are kept, not a week.
    "segment.ms": str(600_000),
    "min.cleanable.dirty.ratio": "0.1",
}

Status = Callable[[], Awaitable[dict[str, Any]]]


class Heartbeat:
    """Opened with `async with`. `status` returns the record."""

    def __init__(self, settings: Settings, status: Status) -> None:
        self._settings = settings
        self._status = status
        self._stack = AsyncExitStack()
        self._producer: Any = None
        self._publishing: asyncio.Task[None] | None = None
        self._failing = False
        self.sent = 0

    async def __aenter__(self) -> Self:
        self._publishing = keep(
            self._run, "publishing the heartbeat", means="pages do not show this worker", again=RETRY_PAUSE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._publishing)
        if self._producer is not None and self.sent:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(self._send(None), FAREWELL_TIMEOUT)
        await self._close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                if self._producer is None:
                    await self._open()
                await asyncio.wait_for(self._send(await self._status()), HEARTBEAT_TIMEOUT)
            except (KafkaError, BrokerError, OSError, TimeoutError) as exc:
                await self._failed(exc)
            except Exception as exc:  # must not end the worker
                logger.exception("cannot make the heartbeat: pages do not show this worker; report this fault")
                await self._failed(exc)
            else:
                self.sent += 1
                if self._failing:
                    self._failing = False
                    logger.info("%s: heartbeats are published again", self._settings.workers_topic)
            due = max(due + HEARTBEAT_EVERY, loop.time())
            await ticks.sleep(due - loop.time())

    async def _failed(self, exc: Exception) -> None:
        if not self._failing:
            self._failing = True
            logger.warning(
                "%s: cannot publish the heartbeat; pages do not show this worker, requests are answered, and the "
                "worker retries: %s",
                self._settings.workers_topic,
                reason_of(exc),
            )
        await self._close()
        await asyncio.sleep(RETRY_PAUSE)

    async def _send(self, record: dict[str, Any] | None) -> None:
        value = None if record is None else json.dumps(record, separators=(",", ":")).encode()
        key = self._settings.worker_id.encode()
        await self._producer.send_and_wait(self._settings.workers_topic, value, key=key, partition=0)

    async def _open(self) -> None:
        await make_topic(self._settings.kafka, self._settings.workers_topic)
        self._producer = await self._stack.enter_async_context(client.producer(
            self._settings.kafka, client_id=f"{self._settings.worker_id}-presence", stop_timeout=FAREWELL_TIMEOUT,
            request_timeout_ms=int(HEARTBEAT_TIMEOUT * 1000), acks=1, enable_idempotence=False,
        ))  # fmt: skip

    async def _close(self) -> None:
        self._producer = None
        await self._stack.aclose()


async def make_topic(kafka: Kafka, name: str, replication: int = -1) -> None:
    """Create the topic of the heartbeats if it does not exist. Raises BrokerError."""
    async with Admin(kafka) as admin:
        if name in await admin.describe(name):
            return
        await admin.create(name, 1, replication, **CONFIG)
        await admin.settled(name)
