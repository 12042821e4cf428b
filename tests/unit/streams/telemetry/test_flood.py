"""The gate that leaves out what is said too often, on a clock of the test's own."""

from __future__ import annotations

import logging

import pytest

from streams.telemetry import logs as flood
from streams.telemetry.logs import BURST, INTERVAL, FloodGate


class Timer:
    """Stands in for a timer's thread: `fire` is its end."""

    started: list[Timer]

    def __init__(self, seconds, call):
        self.seconds = seconds
        self.fire = call
        self.cancelled = False

    def start(self):
        self.started.append(self)

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def gate(monkeypatch):
    Timer.started = []
    monkeypatch.setattr(flood.threading, "Timer", Timer)
    told = []
    gate = FloodGate(lambda record: told.append(record.getMessage()), lambda: gate.now)
    gate.now, gate.told = 100.0, told
    return gate


def line(message="failed: %s", level=logging.WARNING, name="a"):
    return logging.LogRecord(name, level, "", 0, message, ("x",), None)


def passed(gate, count, **kind):
    return sum(gate.filter(line(**kind)) for _ in range(count))


def test_kinds_are_told_apart(gate):
    """Another logger, level or message is another kind; another value is not."""
    assert passed(gate, BURST + 5) == BURST
    assert passed(gate, 1, name="b") == passed(gate, 1, level=logging.ERROR) == passed(gate, 1, message="%s") == 1


def test_what_is_critical_always_passes(gate):
    """The line that says why a process ends is never left out."""
    assert passed(gate, 100, level=logging.CRITICAL) == 100


def test_the_next_interval_tells_what_the_last_left_out(gate):
    """After INTERVAL seconds lines are written again, after one that says how many were not."""
    passed(gate, BURST + 7)
    gate.now += INTERVAL - 0.1
    assert (passed(gate, 1), gate.told) == (0, [])
    gate.now += 0.1
    assert passed(gate, 1) == 1
    assert gate.told == ["8 more lines like this were left out: failed: x"]
    gate.now += INTERVAL
    assert (passed(gate, 1), len(gate.told)) == (1, 1)


def test_a_flood_that_stops_is_told_of_without_another_line(gate):
    """A timer tells of what was left out if no more such lines come; and again if its interval was not over."""
    passed(gate, BURST + 1)
    gate.now += INTERVAL - 1
    passed(gate, BURST + 2, message="other %s")
    (timer,) = Timer.started
    gate.now += 1
    timer.fire()
    assert gate.told == ["1 more lines like this were left out: failed: x"]
    gate.now += INTERVAL
    Timer.started[1].fire()
    assert gate.told[1:] == ["2 more lines like this were left out: other x"]
    assert len(Timer.started) == 2


def test_memory_is_bounded(gate):
    """Messages made of values are told apart up to MAX_KINDS; more of them pass, and are forgotten with time."""
    for number in range(flood.MAX_KINDS + 10):
        assert gate.filter(line(f"number {number}"))
    assert len(gate._intervals) == flood.MAX_KINDS
    gate.now += INTERVAL
    assert gate.filter(line("new"))
    assert len(gate._intervals) == 1


def test_closing_tells_the_rest(gate):
    """What was left out is told at the end, and the timer does not outlive it."""
    passed(gate, BURST + 3)
    gate.close()
    assert gate.told == ["3 more lines like this were left out: failed: x"]
    assert Timer.started[0].cancelled


def test_a_library_that_tries_again_has_one_line_of_a_kind(gate):
    """A broker that is away for a moment is told of by aiokafka 80 times; the line names the first left out."""
    assert passed(gate, 80, name="aiokafka.client", message="unable to reach %s") == 1
    gate.close()
    assert gate.told == ["79 more lines like this were left out: unable to reach x"]
