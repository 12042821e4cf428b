"""What checks have cost: which are quick, which may run in the worker, and who is to blame for a process."""

from __future__ import annotations

import signal
import time

import pytest

from streams.config.settings import CHECK_TIMEOUT
from streams.pool import costs as module
from streams.pool.costs import ADMITTED, ENOUGH, FADING, MAX_ITEMS, MAX_SIZE, UNSEEN, WEIGHT, Admission, Costs, size_of
from streams.pool.quarantine import DIED_BEFORE_BLAMED, KILLED_BEFORE_BLAMED, SUSPECT_FOR, Quarantine, exit_reason
from streams.pool.workers import Job


def test_a_check_is_thought_to_be_slow_until_it_was_seen():
    """Then what it has cost counts, the newest by a tenth."""
    costs = Costs()
    assert (costs.expected("a"), costs.seen("a")) == (UNSEEN, False)
    costs.add("a", None, 0.001)
    assert (costs.expected("a"), costs.seen("a"), costs.seen("b")) == (0.001, True, False)
    costs.add("a", None, 0.002)
    assert costs.expected("a") == pytest.approx(0.001 + WEIGHT * 0.001)


def test_a_check_is_cheap_once_it_has_always_been():
    """So many times for values of that size, each less than handing it over; one dear run ends it for long."""
    costs = Costs()
    for number in range(ENOUGH):
        assert not costs.is_cheap("a", 3)
        costs.add("a", 3, costs.hand_over / 2)
        assert costs.is_cheap("a", 3) is (number == ENOUGH - 1)
    assert not costs.is_cheap("a", 4)
    assert not costs.is_cheap("b", 3)
    assert not costs.is_cheap("a", None)
    costs.add("a", 3, costs.hand_over * 10)
    again = 0
    while not costs.is_cheap("a", 3):
        costs.add("a", 3, costs.hand_over / 2)
        again += 1
    assert again > 1 / FADING


def test_the_cost_of_handing_over_is_measured():
    """A check that is cheap while the worker is slow at handing over is dear once that is quick."""
    costs = Costs()
    for _ in range(100):
        costs.handed_over(0.001, 10)
        costs.took_back(0.0005, 10)
    assert costs.hand_over == pytest.approx(0.00015, rel=0.01)


def test_what_is_kept_in_mind_is_bounded(monkeypatch):
    """Names come from plugins, sizes from anywhere: past the bound all is learnt anew."""
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    costs = Costs()
    for name in "abcd":
        costs.add(name, 1, 0.1)
    assert [costs.seen(name) for name in "abcd"] == [False, False, False, True]
    assert len(costs._by_size) == 1


@pytest.mark.parametrize(
    ("value", "arguments", "size"),
    [
        (None, {}, 4),
        (True, {}, 4),
        (7, {}, 4),
        (1.5, {}, 4),
        (1 << 800, {}, 7),
        ("x" * 100, {}, 7),
        ("x" * 50, {"a": "y" * 50}, 7),
        ("x" * MAX_SIZE, {}, 11),
        ("x" * (MAX_SIZE + 1), {}, None),
        ("x", {"values": ["y" * MAX_SIZE]}, None),
        ([1, 2], {}, 5),
        ({"a": "b"}, {}, 4),
        ([1] * MAX_ITEMS, {}, 9),
        ([1] * (MAX_ITEMS + 1), {}, None),
        ([[1]], {}, None),
        ({"a": {"b": 1}}, {}, None),
        ([[]], {}, 5),
    ],
)
def test_values_are_classed_by_size(value, arguments, size):
    """Each class is twice the one before; large, long or nested values are in none: measuring them costs too."""
    assert size_of(value, arguments) == size


def test_work_is_admitted_up_to_a_bound():
    """Once enough is promised no more is; one may always begin, whatever it takes, and what is given back is free."""
    admission = Admission(Costs(), 1)
    many = int(ADMITTED / UNSEEN)
    assert admission.admit(["a"] * (3 * many)) == 3 * many * UNSEEN
    assert admission.admit(["a"]) is None
    admission.release(3 * many * UNSEEN)
    assert admission.promised == 0.0
    assert [admission.admit(["a"] * most) for most in (many - 1, 1, 1)] == [(many - 1) * UNSEEN, UNSEEN, None]
    admission.release(UNSEEN)
    assert admission.admit(["a"]) == UNSEEN


@pytest.mark.parametrize(
    ("code", "ran", "deaths", "spent", "guilty"),
    [
        (3, True, 1, 0.0, True),
        (0, True, 1, 0.0, True),
        (3, False, 1, 0.0, False),
        (3, False, KILLED_BEFORE_BLAMED, 0.0, True),
        (-signal.SIGSEGV, True, 1, 0.0, False),
        (-signal.SIGSEGV, True, DIED_BEFORE_BLAMED, 0.0, True),
        (-signal.SIGSEGV, True, 1, CHECK_TIMEOUT * 0.6, True),
        (-signal.SIGKILL, True, KILLED_BEFORE_BLAMED - 1, 0.0, False),
        (-signal.SIGKILL, True, KILLED_BEFORE_BLAMED, 0.0, True),
        (-signal.SIGKILL, True, 1, CHECK_TIMEOUT * 0.9, False),
        (-signal.SIGKILL, True, 2, CHECK_TIMEOUT * 1.1, True),
    ],
)
async def test_who_is_to_blame(code, ran, deaths, spent, guilty):
    """One that exits is; one that dies of a signal if it does so again, or if another run would be too late; one that
    is killed only if that goes on.
    """
    job = Job("a", None, {}, None)
    job.deaths, job.run_seconds = deaths, spent
    suspicion = Quarantine()
    assert suspicion.is_guilty(job, code, ran=ran) is guilty
    assert ("a" in suspicion) is (ran and code != -signal.SIGKILL)


def test_suspicion_ends(monkeypatch):
    """After a while without another incident a check travels with others again."""
    suspicion = Quarantine()
    suspicion.add("a")
    assert "a" in suspicion
    later = time.monotonic() + SUSPECT_FOR
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert "a" not in suspicion
    assert "b" not in suspicion


@pytest.mark.parametrize(("code", "said"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"),
                                            (-11, "killed by SIGSEGV"), (-40, "killed by signal 40")])  # fmt: skip
def test_how_a_process_ended_is_said(code, said):
    """In words that whoever reads a result can look up."""
    assert exit_reason(code) == said
