"""A member that stood still knows that the group may have given its partitions to others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import aiokafka.consumer.consumer
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator

from streams.config.settings import SESSION_TIMEOUT
from streams.kafka import membership
from streams.kafka.membership import Coordinator
from streams.kafka.thread import ConsumerThread


def coordinator() -> Coordinator:
    return Coordinator.__new__(Coordinator)


def test_aiokafka_s_consumers_have_it() -> None:
    """Aiokafka makes the coordinator itself, from where ours stands in its place."""
    assert aiokafka.consumer.consumer.GroupCoordinator is Coordinator


@pytest.mark.parametrize(("known", "lasts"), [(True, True), (False, False)])
async def test_a_heartbeat_counts_from_when_it_was_sent(
    monkeypatch: pytest.MonkeyPatch, known: bool, lasts: bool
) -> None:
    """The broker may have begun the session as soon as that; one that it refuses counts for nothing."""
    now = 100.0
    monkeypatch.setattr(membership, "time", SimpleNamespace(monotonic=lambda: now))

    async def heartbeat(_: Any) -> bool:
        nonlocal now
        now += 4  # a slow answer, or a process that was frozen meanwhile
        return known

    monkeypatch.setattr(GroupCoordinator, "_do_heartbeat", heartbeat)
    made = coordinator()
    made.confirmed = 92.0
    assert await made._do_heartbeat() is known
    now = 100.0 + SESSION_TIMEOUT - 0.1
    assert made.is_member is lasts
    now = 100.0 + SESSION_TIMEOUT
    assert made.is_member is False


async def test_an_assignment_is_a_membership() -> None:
    """Who has just been given partitions is a member, before its first heartbeat; without a coordinator nobody asks."""
    made = coordinator()
    made.member_id = "m"
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._consumer = cast("Any", SimpleNamespace(_coordinator=made))
    assert thread.is_member is False
    thread._stopping = asyncio.Event()
    thread._stopping.set()
    await thread.on_partitions_assigned(set(), 3)
    assert thread.is_member is True
    thread._consumer = None
    assert thread.is_member is True
