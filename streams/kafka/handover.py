"""Giving up leases, so that the next owner repeats as little as can be: begin nothing more, wait for what is under way,
cancel what is not through in time, wait for the acknowledgements of what was published by then, and commit, again if
Kafka does not take it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from models.errors import AccessError
from streams.config import settings as defaults
from streams.kafka.lease import Lease

logger = logging.getLogger(__name__)

ARRIVAL_DEADLINE = 3.0
"""Seconds that acknowledgements may take once nothing more is published."""
COMMIT_DEADLINE = 18.0
"""Seconds after which no further commit is tried; another one and closing still have time before SHUTDOWN_DEADLINE."""
RETRY_PAUSE = 0.5
"""Seconds before a commit is tried again."""

Arrived = Callable[[float], Awaitable[bool]]
"""Waits so many seconds until all that was published is acknowledged; returns whether it is."""
Commit = Callable[[], Awaitable[bool | None]]
"""Returns whether all was committed; None if there was nothing to commit, or never will be."""


async def finish(leases: Sequence[Lease], arrived: Arrived | None, commit: Commit, crash: BaseException | None) -> None:
    """Bring leases to their end. What Kafka refuses to take is not waited for after a `crash` of that."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    seconds = 0.0 if isinstance(crash, AccessError) else defaults.DRAIN_DEADLINE
    if not all(await asyncio.gather(*(lease.drain(seconds) for lease in leases))):
        for lease in leases:
            lease.cancel()
        if arrived is not None and seconds:
            await arrived(ARRIVAL_DEADLINE)
        if seconds:
            _report_late(leases, seconds)
    while await commit() is False and crash is None and loop.time() - began < COMMIT_DEADLINE:  # noqa: ASYNC110  no event says that Kafka would take it
        await asyncio.sleep(RETRY_PAUSE)


def _report_late(leases: Sequence[Lease], seconds: float) -> None:
    late = [lease for lease in leases if lease.in_progress > 0]
    if late:
        logger.warning("%g s were not enough for %d requests under way in %s: the next owner answers them",
                       seconds, sum(lease.in_progress for lease in late),
                       ", ".join(f"{lease.topic}-{lease.partition}" for lease in late))  # fmt: skip
