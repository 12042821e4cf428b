"""Until when a group surely counts this process as a member, which aiokafka's coordinator knows in place of its own.

A process that stood still, frozen or on a machine that slept, finds its leases as they were, while the group has given
its partitions to others: what it publishes now comes a second time, behind what they have committed. The session began
no earlier than the last heartbeat that was answered was sent, by the same clock that goes on while a process is frozen.
"""

from __future__ import annotations

import math
import time

import aiokafka.consumer.consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator

from streams.config.settings import SESSION_TIMEOUT


class Coordinator(GroupCoordinator):
    """`confirmed` is the monotonic time at which the group knew this member at the latest."""

    confirmed = -math.inf

    async def _do_heartbeat(self) -> bool:
        sent = time.monotonic()
        known = bool(await super()._do_heartbeat())
        if known:
            self.confirmed = sent
        return known

    @property
    def is_member(self) -> bool:
        """Whether the session cannot have ended yet."""
        return time.monotonic() < self.confirmed + SESSION_TIMEOUT


aiokafka.consumer.consumer.GroupCoordinator = Coordinator
