"""Until when a group surely counts this process as a member, which aiokafka's coordinator knows in place of its own.

A process that stood still, frozen or on a machine that slept, finds its leases as they were, while the group has given
its partitions to others: what it publishes now comes a second time, behind what they have committed. The session began
no earlier than the last heartbeat that was answered was sent, or what the assignment was the answer to, by a clock that
goes on while a process is frozen and while a machine sleeps.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import aiokafka.consumer.consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.group import SyncGroupRequest

from streams.config.settings import SESSION_TIMEOUT

# Linux has one that counts the time of a suspended machine; elsewhere `monotonic` does, or nothing does.
clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


class Coordinator(GroupCoordinator):
    """`confirmed` is the time by `clock` at which the group knew this member at the latest; `requested` when an
    assignment was last requested.
    """

    confirmed = requested = -math.inf

    async def _send_req(self, request: Any) -> Any:
        if isinstance(request, SyncGroupRequest):
            self.requested = clock()
        return await super()._send_req(request)

    def reset_generation(self) -> None:
        """Take the group's word that it does not know this member."""
        self.confirmed = -math.inf
        super().reset_generation()

    async def _do_heartbeat(self) -> bool:
        sent = clock()
        known = bool(await super()._do_heartbeat())
        if known:
            self.confirmed = sent
        return known

    @property
    def is_member(self) -> bool:
        """Whether the session cannot have ended yet."""
        return clock() < self.confirmed + SESSION_TIMEOUT


aiokafka.consumer.consumer.GroupCoordinator = Coordinator
