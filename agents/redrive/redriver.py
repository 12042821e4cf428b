"""Writes redriven requests, each with its mark in the same transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import Any, Self

from aiokafka.errors import KafkaError, ProducerFenced

from models.dead_letter import DeadLetter
from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka import client
from streams.kafka.errors import explain
from streams.kafka.outgoing import RECORD_OVERHEAD
from streams.kafka.publisher import DEFAULT_LIMIT
from streams.kafka.topics import Topic

TRANSACTION_LETTERS = 100
"""Dead letters of one transaction at most."""
TRANSACTION_MARKS = 1_000
"""Marks that one transaction deletes at most."""
TRANSACTION_BYTES = 1 << 20
"""Bytes of values of one transaction, beyond which it ends."""
TRANSACTION_TIMEOUT = 10.0
"""Seconds after which the broker aborts a transaction without an owner: until then workers read no further."""
PER_SECOND = 4
"""Transactions a second with a rate, unless that were less than one dead letter each."""
START_TIMEOUT = 40.0
"""Seconds in which a former redrive's transaction is aborted and ours begins."""


COMPACTED = "compact"
"""The `cleanup.policy` of the marks: with any other Kafka would delete them, and dead letters would be redriven again.
"""
MARKS = {"cleanup.policy": COMPACTED}
"""Settings of the topic of the marks."""


def marks_of(settings: Settings) -> str:
    """Return the topic with the marks of what a group has redriven; it has one partition."""
    return f"{settings.group}-redriven"


class Redriver:
    """Writes requests and their marks, several in one transaction, at a rate. `done` gets those that are committed.

    Once opened, it is the only redrive of this group: the transaction of any other is fenced.
    """

    def __init__(
        self, settings: Settings, requests: Topic, *, marks: str, rate: float, done: Callable[[list[DeadLetter]], None]
    ) -> None:
        self._settings = settings
        self._requests = requests
        self._marks = marks
        self._rate = rate
        self._most = TRANSACTION_LETTERS if not rate else min(TRANSACTION_LETTERS, max(1, int(rate / PER_SECOND)))
        self._done = done
        self._waiting: list[DeadLetter] = []
        self._bytes = 0
        self._next = 0.0
        self._stack = AsyncExitStack()
        self._producer: Any = None

    async def __aenter__(self) -> Self:
        kafka = self._settings.kafka
        opening = client.producer(
            kafka, transactional_id=self._marks, transaction_timeout_ms=int(TRANSACTION_TIMEOUT * 1000),
            max_request_size=(self._requests.max_bytes or DEFAULT_LIMIT) + RECORD_OVERHEAD,
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_TIMEOUT):
                self._producer = await self._stack.enter_async_context(opening)
        except TimeoutError as exc:
            raise explain(exc, kafka) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def write(self, letter: DeadLetter) -> None:
        """Add a dead letter to the present transaction, and commit that if it is full."""
        self._waiting.append(letter)
        self._bytes += len(letter.value or b"")
        if len(self._waiting) >= self._most or self._bytes >= TRANSACTION_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write the waiting dead letters in one transaction, once the rate allows it."""
        letters, self._waiting, self._bytes = self._waiting, [], 0
        if not letters:
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._next - loop.time())
        if self._rate:
            self._next = max(self._next, loop.time()) + len(letters) / self._rate
        requests, send = self._requests, self._producer.send
        async with self._transaction() as pending:
            for letter in letters:
                partition = letter.origin_partition % requests.partitions
                pending.append(await send(
                    requests.name, letter.value, letter.key, partition, headers=letter.request_headers()
                ))  # fmt: skip
                pending.append(await send(self._marks, b"%d-%d" % letter.position, letter.redrive_key, 0))
        self._done(letters)

    async def forget(self, marks: Iterable[bytes]) -> None:
        """Delete marks, with tombstones."""
        await self._write_marks(marks, None)

    async def remember(self, marks: Iterable[bytes]) -> None:
        """Write marks again that their topic has lost."""
        await self._write_marks(marks, b"again")

    async def _write_marks(self, marks: Iterable[bytes], value: bytes | None) -> None:
        left = iter(marks)
        while some := list(islice(left, TRANSACTION_MARKS)):
            async with self._transaction() as pending:
                pending += [await self._producer.send(self._marks, value, mark, 0) for mark in some]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[list[Awaitable[object]]]:
        """Yield a list for the deliveries of one transaction, which commits when all are there."""
        pending: list[Awaitable[object]] = []
        try:
            async with self._producer.transaction():
                yield pending
                await asyncio.gather(*pending)
        except ProducerFenced as exc:
            msg = "another redrive has begun and takes over; run this one again if that selects other dead letters"
            raise BrokerError(msg) from exc
        except (KafkaError, OSError) as exc:
            raise explain(exc, self._settings.kafka) from exc
