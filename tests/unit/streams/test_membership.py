"""A member that stood still knows that the group may have given its partitions to others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import aiokafka.consumer.consumer
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.group import SyncGroupRequest

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
    monkeypatch.setattr(membership, "clock", lambda: now)

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


async def test_an_assignment_is_a_membership(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has just been given partitions is a member, before its first heartbeat, from when they were asked for;
    without a coordinator nobody asks.
    """
    now = 100.0
    monkeypatch.setattr(membership, "clock", lambda: now)

    async def answer(_: Any, request: Any) -> None:
        nonlocal now
        now += SESSION_TIMEOUT - 0.1

    monkeypatch.setattr(GroupCoordinator, "_send_req", answer)
    made = coordinator()
    made.member_id = "m"
    await made._send_req(SyncGroupRequest.__new__(SyncGroupRequest))
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._consumer = cast("Any", SimpleNamespace(_coordinator=made))
    assert thread.is_member is False
    thread._stopping = asyncio.Event()
    thread._stopping.set()
    await thread.on_partitions_assigned(set(), 3)
    assert thread.is_member is True
    now += 0.1
    assert thread.is_member is False
    thread._consumer = None
    assert thread.is_member is True


def test_a_group_that_does_not_know_a_member_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removed it, or its coordinator has lost it: aiokafka forgets its generation, and it is none at once."""
    made = coordinator()
    made.confirmed = membership.clock()
    monkeypatch.setattr(made, "request_rejoin", lambda: None)
    assert made.is_member is True
    made.reset_generation()
    assert made.is_member is False
