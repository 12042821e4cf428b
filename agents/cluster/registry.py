"""Reads the latest record of every worker from the compacted topic that each publishes one to once a second.

Groups may share that topic: of the workers of another one, which are another installation's, nothing is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Self

from aiokafka import ConsumerRecord, TopicPartition

from agents.cluster.rate_shares import PREFIX
from models import strictjson
from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka import client
from streams.kafka.topics import Admin
from streams.tasks import end_tasks, keep

logger = logging.getLogger(__name__)

FORGET_AFTER = 600.0
"""Seconds without a record after which a worker is no longer listed."""
SILENT_AFTER = 5.0
"""Seconds without a record after which a worker counts as not answering."""
MOST = 1_000
"""Workers that are listed at most."""
RETRY_PAUSE = 2.0
"""Seconds between attempts while the topic cannot be read."""
FAILURES_BEFORE_LOG = 3
"""Failures before the log says so: at the first start the topic is created a moment later."""
POLL = 1.0
"""Seconds that a poll, and a fetch, waits for records."""
MAX_RECORD = 512 << 10
"""Bytes of a record that is read; one with 200 hosts and 1,000 partitions has about 150 KiB."""
MAX_RECORDS = 64 << 20
"""Bytes of all records that are kept; beyond, the oldest are dropped."""
MAX_ID = 250
"""Characters of an id."""


class WorkerRegistry:
    """Opened with `async with`. While the topic cannot be read, other workers' records are missing, nothing else."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.me = settings.worker_id
        self._settings = settings
        self._clock = clock
        self._workers: dict[str, tuple[float, dict[str, Any]]] = {}
        self._sizes: dict[str, int] = {}
        self._reading: asyncio.Task[None] | None = None
        self.unreadable = 0

    async def __aenter__(self) -> Self:
        self._reading = keep(
            self._run, "reading workers' records", means="pages here do not see other workers", again=RETRY_PAUSE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._reading)

    def all(self) -> list[dict[str, Any]]:
        """Return each worker's latest record by id, with `silent_s`, the seconds since it came."""
        now = self._clock()
        return [
            record | {"silent_s": round(max(0.0, now - seen), 1)}
            for _, (seen, record) in sorted(self._workers.items())
            if now - seen < FORGET_AFTER
        ]

    async def _run(self) -> None:
        left = FAILURES_BEFORE_LOG
        while True:
            try:
                await self._read()
            except BrokerError as exc:
                left -= 1
                if not left:
                    logger.warning(
                        "%s: cannot read the heartbeats of other workers; pages and /api miss their rows, requests "
                        "are answered, and the worker retries: %s",
                        self._settings.workers_topic,
                        exc,
                    )
            await asyncio.sleep(RETRY_PAUSE)

    async def _read(self) -> None:
        topic = self._settings.workers_topic
        async with Admin(self._settings.kafka) as admin:
            if topic not in await admin.describe(topic):
                msg = f"no topic {topic!r}"
                raise BrokerError(msg)
        opening = client.consumer(
            self._settings.kafka, client_id=f"{self._settings.worker_id}-workers", fetch_max_wait_ms=int(POLL * 1000)
        )
        async with opening as consumer:
            tp = TopicPartition(topic, 0)
            consumer.assign([tp])
            # Older records, which compaction has not removed yet, are of workers that are no longer listed.
            begin = (await consumer.offsets_for_times({tp: int((self._clock() - FORGET_AFTER) * 1000)}))[tp]
            end = (await consumer.end_offsets([tp]))[tp]
            consumer.seek(tp, end if begin is None else begin.offset)
            while True:
                for records in (await client.poll(consumer, seconds=POLL)).values():
                    for record in records:
                        self.receive(record, live=record.offset >= end)

    def receive(self, record: ConsumerRecord[bytes, bytes], *, live: bool = True) -> None:
        """Take one record; `live` if it was written just now: then the clock of its writer does not matter."""
        if record.value is not None and record.value.startswith(PREFIX):
            return
        try:
            name = (record.key or b"").decode()
            status = None if record.value is None else _loads(record.value)
        except ValueError:
            self.unreadable += 1
            return
        if status is None:
            self._drop(name)
        elif not isinstance(status, dict) or not 0 < len(name) <= MAX_ID:
            self.unreadable += 1
        elif status.get("group", self._settings.group) != self._settings.group:  # older workers report none
            self._drop(name)
        else:
            now = self._clock()
            self._workers[name] = (now if live else min(now, record.timestamp / 1000), status | {"id": name})
            self._sizes[name] = len(record.value or b"")
            self._forget(now)

    def _forget(self, now: float) -> None:
        if self._are_too_many():
            for name in [name for name, (seen, _) in self._workers.items() if now - seen >= FORGET_AFTER]:
                self._drop(name)
            while self._are_too_many():
                self._drop(min(self._workers, key=lambda name: self._workers[name][0]))

    def _are_too_many(self) -> bool:
        return len(self._workers) > MOST or sum(self._sizes.values()) > MAX_RECORDS

    def _drop(self, name: str) -> None:
        self._workers.pop(name, None)
        self._sizes.pop(name, None)


def _loads(value: bytes) -> Any:
    if len(value) > MAX_RECORD:
        msg = "too large for the record of a worker"
        raise ValueError(msg)
    return strictjson.loads(value)
