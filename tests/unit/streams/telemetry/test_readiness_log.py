"""The line that says that a worker is ready."""

from __future__ import annotations

import asyncio
import logging

import pytest

from streams.telemetry.readiness_log import SETTLED_AFTER, Announcer


class Announced:
    """An announcer on a clock of the test's own, and what it said."""

    def __init__(self, caplog):
        caplog.set_level(logging.INFO)
        self.now, self.parts, self._caplog = 0.0, {}, caplog
        self.announcer = Announcer(lambda: self.parts, lambda: "4 partitions", lambda: self.now)
        self.look = self.announcer.look

    def said(self):
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def announced(caplog):
    return Announced(caplog)


def test_it_is_said_once_when_all_parts_are_ready(announced):
    """Nothing while it starts; one line, at once, when the last part is there; no more while that holds."""
    for announced.now, announced.parts in enumerate([{"a": "starting", "b": "ok"}] * 3 + [{"a": "ok", "b": "ok"}] * 5):
        announced.look()
    assert announced.said() == ["ready after 3.0 s: 4 partitions"]


def test_what_lasts_is_told_with_its_reason_and_its_end(announced):
    """A part that fails for a while is named once, and that all is well again is told once."""
    for announced.now, state in enumerate(["ok", *["no broker"] * 5, *["ok"] * 5]):
        announced.parts = {"a": state, "b": "ok"}
        announced.look()
    assert announced.said() == [
        "ready after 0.0 s: 4 partitions",
        "not ready: a: no broker",
        "ready again: 4 partitions",
    ]


def test_a_moment_is_not_worth_a_line(announced):
    """What a rebalance does for less than SETTLED_AFTER seconds is in no log."""
    for announced.now in range(20):
        announced.parts = {"a": "ok" if announced.now % 2 else "waiting"}
        announced.look()
    assert announced.said() == ["ready after 1.0 s: 4 partitions"]
    assert SETTLED_AFTER > 1


def test_a_stop_is_no_fault(announced):
    """A worker that stops, as it was told, does not complain that it is not ready."""
    for announced.now, state in enumerate(["ok", *["stopping"] * 5]):
        announced.parts = {"a": state}
        announced.look()
    assert announced.said() == ["ready after 0.0 s: 4 partitions"]


async def test_it_looks_by_itself_until_it_is_closed(announced):
    """Opened, it needs nobody to call it; closed, it says no more."""
    announced.parts = {}
    async with announced.announcer, asyncio.timeout(5):
        while not announced.said():
            await asyncio.sleep(0.01)
    assert announced.announcer._task.done()
