"""What becomes of the topics that a consumer is at: made again, cut, gone, or out of reach.

A consumer reads by name and offset, and gets what now has that name and offset. So it looks every few seconds
whether each name still stands for the topic that its leases are of (KIP-516), and whether anybody answers at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka.errors import KafkaError, KafkaTimeoutError
from faust.types import TP

from models.errors import BrokerError
from streams.config import settings as defaults
from streams.config.settings import Kafka
from streams.kafka import client
from streams.kafka.commits import all_commits
from streams.kafka.errors import explain, may_pass
from streams.kafka.holdings import Holdings
from streams.kafka.lease import Lease
from streams.kafka.thread import ConsumerThread

logger = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks."""
LOOK_TIMEOUT = 5.0
"""Seconds that one look may take."""
COORDINATOR_TIMEOUT = 10.0
"""Seconds that the group's coordinator may take to answer, finding it included."""
AWAY_AFTER = 15.0
"""Seconds without an answer after which a worker is not ready."""


class TopicWatch:
    """One consumer's; `skipped` counts the offsets that went from the log before they were read, `missing` are the
    topics that are not there, of which those that `may_go` are no fault. `guessed` are partitions of which nothing was
    read, and of which nobody has said yet where they begin.
    """

    def __init__(
        self, thread: ConsumerThread, leases: Holdings, kafka: Kafka, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._thread = thread
        self._leases = leases
        self._kafka = kafka
        self._clock = clock
        self._answered = clock()
        self._trouble = ""
        self.missing: frozenset[str] = frozenset()
        self._gone: frozenset[str] = frozenset()
        self.may_go: frozenset[str] = frozenset()
        self.guessed: set[TP] = set()
        self.skipped = 0

    def state(self) -> str:
        """Return `ok`, or what keeps this consumer from reading, for `/readyz`."""
        silent = self._clock() - self._answered
        if silent >= AWAY_AFTER:
            return f"no answer for {silent:.0f} s: {self._trouble or 'no request was sent'}"
        if missing := sorted(self.missing - self.may_go):
            return f"no topic {', '.join(map(repr, missing))}; create it with: millrace topics --create"
        return "ok"

    async def look(self) -> None:
        """Look once. Raises ConsumerStoppedError, and KafkaError for what does not mend by itself."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                found = await self._thread.call(self._thread.identities())
            self._answered, self._trouble = self._clock(), ""
            gone = frozenset(name for name, identity in found.items() if identity is None)
            self.missing, self._gone = gone & self._gone, gone  # one broker, just started, may not know it yet
            former = {
                tp: lease for tp, lease in self._leases.items()
                if lease.alive and found.get(tp.topic) not in (None, lease.identity)
            }  # fmt: skip
            if former:
                await self._begin_anew(former)
        except (KafkaError, TimeoutError) as exc:
            if not may_pass(exc):
                raise
            self._trouble = str(await self._reason(exc))

    async def _reason(self, exc: Exception) -> BrokerError:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return await client.reason(exc, self._kafka)
        except TimeoutError:
            return explain(exc, self._kafka)

    async def _begin_anew(self, former: Mapping[TP, Lease]) -> None:
        """Take leases on topics that were made again; what was begun for the former ones may still finish."""
        for topic in sorted({tp.topic for tp in former}):
            logger.warning(
                "topic %r was deleted and made again: beginning at its first record; what was "
                "not read of the former one is gone with it",
                topic,
            )
        await asyncio.gather(*(lease.drain(defaults.DRAIN_DEADLINE) for lease in former.values()))
        await self.replace(former, lambda lease: lease.alive, anew=True)

    async def replace(
        self, former: Mapping[TP, Lease], held: Callable[[Lease], bool], *, anew: bool = False
    ) -> None:  # fmt: skip
        """Take leases in place of those that are still `held`, from the group's commits. Raises KafkaError."""
        identities, commits = await self._thread.call(self._thread.outlook(former))
        begins = await self._thread.call(self._thread.begins(former))
        for tp, lease in former.items():
            if self._leases.get(tp) is lease and held(lease):  # no rebalance has come before
                self._leases.give_up(tp)
                new = self._leases.lease(tp, identities[tp.topic], commits.get(tp), anew=anew)
                new.start = begins[tp] if new.position is None else new.position
                new.member, new.draining = lease.member, new.draining or (lease.draining and not anew)
                self._leases[tp] = new
                await self._thread.call(self._thread.seek_all({tp: new.next_offset}))

    async def resume(self, lost: Mapping[Any, int]) -> None:
        """Go on where the log has something, after it had nothing at these offsets. Raises KafkaError."""
        for place, offset in lost.items():
            tp = TP(*place)
            lease = self._leases.get(tp)
            if lease is None or not lease.taking:
                continue
            try:
                async with asyncio.timeout(LOOK_TIMEOUT):  # aiokafka's own is 40 s, and nothing is delivered meanwhile
                    first, end = await self._thread.call(self._thread.span(tp))
            except TimeoutError:
                msg = f"where {tp.topic}-{tp.partition} begins and ends is not known: its leader does not answer"
                raise KafkaTimeoutError(msg) from None
            if self._leases.get(tp) is not lease:
                continue
            if tp in self.guessed:  # nobody has read anything of it
                self.guessed.discard(tp)
                lease.start = first
            elif offset < first:
                self.skipped += first - offset
                logger.warning("%s-%d: %d offsets, from %d on, went from the log unread: retention, or a deletion of "
                               "records; going on at %d", *tp, first - offset, offset, first)  # fmt: skip
                lease.skip_to(first)
            elif offset > end:
                logger.warning("%s-%d ends at offset %d, before %d: it lost its end, and all that it has is read again",
                               *tp, end, offset)  # fmt: skip
                lease = self._leases.lease_at(tp, first)
            await self._thread.call(self._thread.seek_all({tp: lease.next_offset}))


async def coordinator_answers(kafka: Kafka, group: str) -> bool:
    """Whether the group's coordinator returns the group's commits over a new connection, as it must to take one."""
    try:
        async with asyncio.timeout(COORDINATOR_TIMEOUT):
            async with client.admin(kafka, "millrace-watchdog", COORDINATOR_TIMEOUT) as admin:
                await all_commits(admin, group)
    except (BrokerError, TimeoutError) as exc:
        logger.info("the coordinator of group %s does not answer: %s", group, exc)
        return False
    return True
