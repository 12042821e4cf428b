"""Steady load by another client than the service's, which knows what Kafka acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from confluent_kafka import Producer

RATE = 100
"""Requests a second."""
KEYS = 40
HOT = 20
"""Documents that half of the requests ask for; the others each ask for one of their own."""
SLOW_EVERY, SLOW = 101, 2.0
"""One request in so many takes so many seconds at the upstream: 1 %. No multiple of a number of KEYS: with 100 all of
them would be of two keys, which they fill by themselves where order by key is asked for.
"""
METADATA_AGE = 1_000
"""Milliseconds after which partitions that were added are written to."""
FLUSH_LIMIT = 180.0
"""Seconds for what was sent to be acknowledged, brokers that come back included."""


def document(number: int) -> int:
    """Return which document a steady request asks for; the upstream's answer has this number."""
    return number % HOT if number % 2 else HOT + number


class Load:
    """`acknowledged` has the partition and offset of each request by its id, the offset None where Kafka returned none;
    `stop` comes after `start`.
    """

    def __init__(self, servers: str, topic: str, url: str) -> None:
        # Kafka may be away for longer than the default of five minutes allows; nothing is to be given up.
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "acks": "all",
                                   "linger.ms": 5, "message.timeout.ms": 600_000, "log_level": 0,
                                   "topic.metadata.refresh.interval.ms": METADATA_AGE})  # fmt: skip
        self._topic = topic
        self.url = url
        self.acknowledged: dict[str, tuple[int, int | None]] = {}
        self.former: set[str] = set()
        """What was acknowledged by a topic that is gone."""
        self.keys: dict[str, bytes] = {}
        self.sent: dict[str, float] = {}
        """When each request was given to the producer, in seconds of the epoch."""
        self.nameless = 0
        """How many were sent without an id of their own."""
        self.refused: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._sent = self._names = 0

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._send())

    async def stop(self) -> None:
        """Send no more, and wait until all that was sent is acknowledged."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        left = await asyncio.to_thread(self._producer.flush, FLUSH_LIMIT)
        assert left == 0, f"{left} requests were never acknowledged"
        assert not self.refused, self.refused[:3]

    def forget_places(self) -> None:
        """Their topic is gone: what was acknowledged has no place any more."""
        self.former |= self.acknowledged.keys()
        self.acknowledged.clear()

    def name(self, text: str) -> str:
        """Return an id that no other request has."""
        self._names += 1
        return f"{text}-{self._names}"

    def put(self, value: bytes | None, key: bytes, request_id: str | None = None) -> None:
        """Send one value; with an id, its result is asked for afterwards."""

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                self.refused.append(str(error))
            elif request_id is not None:
                self.acknowledged[request_id] = message.partition(), message.offset()

        if request_id is None:
            self.nameless += 1
        else:
            self.keys[request_id] = key
            self.sent[request_id] = time.time()
        self._producer.produce(self._topic, value, key=key, on_delivery=delivered)

    async def _send(self) -> None:
        began, first = time.monotonic(), self._sent
        while True:
            while self._sent < first + (time.monotonic() - began) * RATE:
                number = self._sent
                place = f"hot-{number % HOT}" if number % 2 else number
                slow = f"?delay={SLOW}" if number % SLOW_EVERY == 0 else ""
                request_id = f"r{number}"
                url = f"{self.url}/doc/{document(number)}{slow}"
                value = {"id": request_id, "url": url, "context": {"place": place}}
                self.put(json.dumps(value).encode(), b"k%d" % (number % KEYS), request_id)
                self._sent += 1
            self._producer.poll(0)
            await asyncio.sleep(0.02)
