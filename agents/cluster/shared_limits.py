"""Shares the rates of limits with `shared = true` among the workers of a group, over the topic of the heartbeats.

While that topic cannot be read or written, a worker keeps its share; one that never could uses the whole limit.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from agents.cluster.heartbeat import FAREWELL_TIMEOUT, HEARTBEAT_TIMEOUT, make_topic
from agents.cluster.rate_shares import PREFIX, WRITE_EVERY, Limit, RateShares, want
from models import strictjson
from models.errors import BrokerError, reason_of
from streams.config.settings import Settings
from streams.http.limits import Bulkhead
from streams.kafka import client
from streams.tasks import end_tasks, keep

logger = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at what this worker uses and what others want."""
USED_OVER = 1.0
"""Seconds over which its use is measured."""
STALE = 3.0
"""Seconds without a record of its own read back after which a worker keeps what it has."""
ALONE = 20.0
"""The same for a worker that has never had a share: it uses the whole limits then."""
RETRY_PAUSE = 2.0
"""Seconds between attempts while the topic is not available."""
POLL = 1.0
"""Seconds that a poll waits for records."""
MAX_RECORD = 512 << 10
"""Bytes of a record that is read."""


class SharedLimits:
    """Opened with `async with`. `bulkheads` are those whose rates are shared, by the names of their limits."""

    def __init__(
        self, settings: Settings, bulkheads: Mapping[str, Bulkhead], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._bulkheads = bulkheads
        limits = {name: Limit(each.limits.rate or 0.0) for name, each in bulkheads.items()}
        self._shares = RateShares(uuid.uuid4().hex, limits, self._changed)
        self._used: dict[str, deque[tuple[float, int]]] = {name: deque() for name in bulkheads}
        self._tasks: list[asyncio.Task[None]] = []
        self._producer: Any = None
        self._written_at = self._read_at = clock()
        self._ever_joined = self._is_alone = self._has_left = self._is_kept = False
        self._workers = 0
        self._reason = "nothing comes"

    async def __aenter__(self) -> Self:
        for name in self._bulkheads:
            self._changed(name)
        means = "this worker keeps its share of shared limits"
        self._tasks = [
            keep(self._write, "writing shares of limits", means=means, again=RETRY_PAUSE),
            keep(self._read, "reading shares of limits", means=means, again=RETRY_PAUSE),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._has_left = True
        for name in self._bulkheads:
            self._changed(name)
        if self._producer is not None:
            farewell = {"limits": {}, "run": self._shares.me, "at": self._clock(), "left": True}
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(self._send(farewell), FAREWELL_TIMEOUT)
        await end_tasks(*self._tasks)

    def report(self) -> list[dict[str, Any]]:
        """Return each limit: its rate, this worker's share, what it wants, and how many workers share it."""
        shares = self._shares
        return [
            {"name": name, "rate": limit.rate, "share": round(self._share(name), 3), "want": round(limit.want, 3),
             "workers": 1 + len(shares.peers)}
            for name, limit in shares.limits.items()
        ]  # fmt: skip

    def _share(self, name: str) -> float:
        limit = self._shares.limits[name]
        return 0.0 if self._has_left else limit.rate if self._is_alone else limit.held

    def _changed(self, name: str) -> None:
        bucket = self._bulkheads[name].bucket
        assert bucket is not None
        bucket.share(self._share(name), self._shares.expected(name))

    # -- writing

    async def _write(self) -> None:
        while True:
            try:
                await self._publish()
            except (KafkaError, BrokerError, OSError) as exc:  # TimeoutError is an OSError
                self._reason = reason_of(exc)
            self._look()
            await asyncio.sleep(RETRY_PAUSE)

    async def _publish(self) -> None:
        settings = self._settings
        await make_topic(settings.kafka, settings.workers_topic)
        opening = client.producer(
            settings.kafka, client_id=f"{settings.worker_id}-shares", stop_timeout=FAREWELL_TIMEOUT,
            request_timeout_ms=int(HEARTBEAT_TIMEOUT * 1000), acks=1, enable_idempotence=False,
        )  # fmt: skip
        try:
            async with opening as self._producer:
                while True:
                    self._look()
                    now = self._clock()
                    due = now - self._written_at >= WRITE_EVERY or (not self._is_stale and self._shares.is_due())
                    if due and not self._has_left:
                        self._written_at = now
                        await asyncio.wait_for(self._send(self._shares.write(now)), HEARTBEAT_TIMEOUT)
                    await asyncio.sleep(TICK)
        finally:
            self._producer = None

    async def _send(self, record: dict[str, Any]) -> None:
        value = json.dumps(record | {"group": self._settings.group}, separators=(",", ":")).encode()
        key = f"{self._settings.worker_id} limits".encode()
        await self._producer.send_and_wait(self._settings.workers_topic, value, key=key, partition=0)

    @property
    def _is_stale(self) -> bool:
        """Whether the topic stands still: then this worker keeps what it has."""
        return self._clock() - self._read_at >= STALE

    def _look(self) -> None:
        """Measure what is used and wanted, and log how the limits are shared."""
        now = self._clock()
        for name, bulkhead in self._bulkheads.items():
            bucket, samples = bulkhead.bucket, self._used[name]
            assert bucket is not None
            while len(samples) > 1 and now - samples[1][0] >= USED_OVER:
                samples.popleft()
            samples.append((now, bucket.taken))
            lasted = max(now - samples[0][0], USED_OVER)
            waiting = bucket.waiting and bucket.waiting + bulkhead.waiting
            if not self._is_stale:
                self._shares.limits[name].want = want((bucket.taken - samples[0][1]) / lasted, waiting)
            self._changed(name)  # what to count on follows the number of workers
        self._log(now)

    def _log(self, now: float) -> None:
        topic, workers = self._settings.workers_topic, 1 + len(self._shares.peers)
        if not self._is_stale:
            changed = workers != self._workers or self._is_kept
            if changed and self._shares.is_settled and not self._shares.is_due():
                logger.info("workers that share limits: %d; here %s", workers, self._described())
                self._workers, self._is_kept = workers, False
        elif self._ever_joined and not self._is_kept:
            self._is_kept = True
            logger.warning("%s: cannot be read or written, so this worker keeps its shares of limits: %s; "
                           "it retries: %s", topic, self._described(), self._reason)  # fmt: skip
        elif not self._ever_joined and not self._is_alone and now - self._read_at >= ALONE:
            self._is_alone = True
            logger.warning("%s: cannot be read or written, so this worker shares no limits and uses all of each: %s; "
                           "it retries: %s", topic, self._described(), self._reason)  # fmt: skip

    def _described(self) -> str:
        return ", ".join(f"{name} {self._share(name):.3g} of {limit.rate:g} a second"
                         for name, limit in self._shares.limits.items())  # fmt: skip

    # -- reading

    async def _read(self) -> None:
        while True:
            try:
                await self._follow()
            except (KafkaError, BrokerError, OSError) as exc:
                self._reason = reason_of(exc)
            await asyncio.sleep(RETRY_PAUSE)

    async def _follow(self) -> None:
        settings = self._settings
        await make_topic(settings.kafka, settings.workers_topic)
        async with client.consumer(settings.kafka, client_id=f"{settings.worker_id}-shares") as consumer:
            tp = TopicPartition(settings.workers_topic, 0)
            consumer.assign([tp])
            consumer.seek(tp, (await consumer.end_offsets([tp]))[tp])
            self._shares.restart()
            while True:
                for records in (await client.poll(consumer, seconds=POLL)).values():
                    for record in records:
                        self.receive(record)

    def receive(self, record: ConsumerRecord[bytes, bytes]) -> None:
        """Take the next record of the topic."""
        value = record.value
        if value is None or len(value) > MAX_RECORD or not value.startswith(PREFIX):
            return
        with suppress(ValueError, OverflowError):  # anyone who may write to the topic may write anything
            found = strictjson.loads(value)
            if not isinstance(found, dict) or found.get("group") != self._settings.group:
                return
            self._shares.read(found)
            if found.get("run") == self._shares.me:
                self._read_at = self._clock()
                if self._shares.joined:
                    self._ever_joined, self._is_alone = True, False
