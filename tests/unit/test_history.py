"""The fault matrix's questions find what they are to find, and blame nothing that is as it should be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.faults.faults import FAULTS, mix
from tests.faults.history import Observer, Result, Samples, disordered, lost, repeated, skipped
from tests.faults.matrix import QUESTIONS, table
from tests.faults.scene import Report

PLACES = {"a": (0, 0), "b": (0, 1), "c": (1, 0)}
KEYS = {"a": b"k", "b": b"k", "c": b"other"}


def result(name: str, at: float, *, partition: int = 0, offset: int = 0) -> Result:
    return Result(name, partition, offset, at, KEYS[name], "ok")


ALL = [result("a", 1.0), result("b", 2.0, offset=1), result("c", 1.5, partition=1)]


def test_a_request_without_a_result_is_lost() -> None:
    """An acknowledged request that has no result is named; with results for all, nothing is."""
    assert lost(PLACES, ALL) == ""
    assert lost(PLACES, ALL[1:]) == "1 without a result: ['a']"


def test_a_repeat_needs_a_crash_that_explains_it() -> None:
    """A second result is right only if a crash lies between, and the first is no older than a commit may be."""
    again = [*ALL, result("a", 9.0, offset=2)]
    assert repeated(ALL, []) == (0, "")
    assert repeated(again, []) == (1, "1 repeated without need: ['a']")
    assert repeated(again, [(4.0, 5.0)]) == (1, "")
    assert repeated(again, [(8.0, 8.5)]) == (1, "1 repeated without need: ['a']")
    assert repeated(again, [(9.5, 9.6)]) == (1, "1 repeated without need: ['a']")
    late = [result("a", 30.0), result("a", 31.0)]
    assert repeated(late, [(4.0, 25.0)]) == (1, "")
    assert repeated(late, [(4.0, 5.0)]) == (1, "1 repeated without need: ['a']")  # long after that crash


def test_a_commit_past_an_unanswered_request_is_seen() -> None:
    """A commit counts as wrong if a request before it had no result when the commit was seen."""
    assert skipped(PLACES, ALL, Samples([(1.2, {0: 1}), (2.5, {0: 2, 1: 1})])) == ""
    assert skipped(PLACES, ALL, Samples([(1.2, {0: 2})])) == "b at 0/1 was committed (2) before it had a result"
    assert skipped(PLACES, ALL[1:], Samples([(9.0, {0: 1})])).startswith("a at 0/0")


def test_results_of_a_key_out_of_order_are_seen() -> None:
    """The first result of a later request before that of an earlier one of its key is out of order; repeats are not."""
    assert disordered(PLACES, KEYS, [*ALL, result("a", 9.0, offset=2)]) == ""
    swapped = [result("b", 1.0), result("a", 2.0, offset=1)]
    assert disordered(PLACES, KEYS, swapped) == "key b'k': the result of offset 0 came after that of 1"


def test_a_seed_draws_the_same_faults() -> None:
    """The random mix can be run again."""
    assert mix(7, 20) == mix(7, 20)
    assert mix(7, 20) != mix(8, 20)
    assert set(mix(7, 200)) <= FAULTS.keys()


def test_the_table_has_a_row_a_fault_and_a_column_a_question() -> None:
    """What was not asked is a dash, what is well says so, what is not says what."""
    report = Report("x", {"I1 lost": "", "I2 repeats": "3 repeated"}, requests=1_000)
    [head, rule, row] = table([report]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == len(QUESTIONS) + 5
    assert "| 1,000 | 0 | 0.0 s | yes | 3 repeated | - |" in row


def test_a_request_without_an_offset_is_looked_up_in_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is there, poison too, is passed over; one that is not there ends the questions."""
    observer = Observer("127.0.0.1:9", "group", "requests")
    values = [b"{", None, b"[1]", b'{"id": ["a"]}', b'{"id": "a"}', b'{"id": "b"}']
    there = [SimpleNamespace(value=lambda value=value: value, partition=lambda: 0, offset=lambda at=at: at)
             for at, value in enumerate(values)]  # fmt: skip
    monkeypatch.setattr(observer, "_read", lambda _: iter(there))
    assert observer.located({"a": (0, None), "b": (0, 5)}) == {"a": (0, 4), "b": (0, 5)}
    with pytest.raises(AssertionError, match="not there"):
        observer.located({"c": (0, None)})
