"""The leases of a group's member as its transactions see them: whose offsets may be committed, and which leases end
when nobody here can know what was committed last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from aiokafka.errors import ConsumerStoppedError, KafkaError
from faust.types import TP

from models.errors import reason_of
from streams.kafka.errors import may_pass
from streams.kafka.holdings import Holdings
from streams.kafka.lease import Lease
from streams.kafka.thread import ConsumerThread
from streams.kafka.watch import TopicWatch
from streams.tasks import start

logger = logging.getLogger(__name__)

READ_TIMEOUT = 5.0
"""Seconds that one look at the group's commits may take."""
RETRY_PAUSE = 0.5
"""Seconds between two looks."""


class TransactionLeases:
    """See the module. `end` ends the worker with an error that no retry mends."""

    def __init__(
        self,
        thread: ConsumerThread,
        leases: Holdings,
        watch: TopicWatch,
        end: Callable[[Exception], Awaitable[None]],
    ) -> None:
        self._thread = thread
        self._leases = leases
        self._watch = watch
        self._end = end
        self._doubtful: set[Lease] = set()

    def committable(self) -> Mapping[TP, Lease]:
        """Return the leases of this generation whose offsets the group takes."""
        member = self._thread.member
        return {
            tp: lease for tp, lease in self._leases.items()
            if lease.alive and lease.member == member and tp.topic not in self._watch.missing
        }  # fmt: skip

    def is_whole(self) -> bool:
        """Return whether no lease has ended without another in its place."""
        return all(lease.alive for lease in self._leases.values())

    def lost(self, leases: Collection[Lease]) -> None:
        """Give up leases of a member that the group does not know any more; it joins again at its next heartbeat."""
        for tp, lease in self._leases.items():
            if lease in leases:
                self._leases.give_up(tp)

    def retake(self, leases: Collection[Lease]) -> None:
        """Take leases anew from the group's commits: nobody knows what was committed last."""
        former = {tp: lease for tp, lease in self._leases.items() if lease in leases and lease.alive}
        for tp in former:
            self._leases.give_up(tp)
        self._doubtful.update(former.values())
        start(self._retake(former), "reading the group's commits", means="partitions stand still")

    def settled(self) -> None:
        """Take note that all leases have ended, or were taken anew."""
        self._doubtful.clear()

    async def _retake(self, former: Mapping[TP, Lease]) -> None:
        while not self._doubtful.isdisjoint(former.values()):
            try:
                async with asyncio.timeout(READ_TIMEOUT):
                    await self._watch.replace(former, self._doubtful.__contains__)
            except ConsumerStoppedError:
                return
            except (TimeoutError, KafkaError) as exc:
                if not may_pass(exc):
                    await self._end(exc)
                    return
                logger.info("reading the group's commits failed, trying again: %s; requests wait", reason_of(exc))
                await asyncio.sleep(RETRY_PAUSE)
            else:
                self._doubtful.difference_update(former.values())
