"""The fault matrix's questions find what they are to find, and blame nothing that is as it should be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.faults.faults import FAULTS, mix
from tests.faults.history import Observer, Result, Samples, disordered, failed, lost, repeated, skipped, unlike
from tests.faults.load import document
from tests.faults.matrix import QUESTIONS, table
from tests.faults.trial import Report

PLACES = {"a": (0, 0), "b": (0, 1), "c": (1, 0)}
KEYS = {"a": b"k", "b": b"k", "c": b"other"}


def result(name: str, at: float, *, partition: int = 0, offset: int = 0) -> Result:
    return Result(name, partition, offset, at, KEYS[name], "ok")


ALL = [result("a", 1.0), result("b", 2.0, offset=1), result("c", 1.5, partition=1)]


def test_a_request_without_a_result_is_lost() -> None:
    """An acknowledged request that has no result is named; with results for all, nothing is."""
    assert lost(PLACES, ALL) == ""
    assert lost(PLACES, ALL[1:]) == "1 without a result: ['a']"
    assert lost(["a", "b"], ALL, nameless=1) == ""
    assert lost(PLACES, ALL, nameless=2) == "2 that are no requests have 0 results"


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


def test_nothing_explains_a_repeat_of_what_was_committed() -> None:
    """Whatever crashed: a request of which somebody had seen a commit past it does not come again afterwards."""
    again = [*ALL, result("a", 9.0, offset=2)]
    crash = [(4.0, 5.0)]
    assert repeated(again, crash, PLACES, Samples([(8.0, {0: 0}), (9.5, {0: 2})])) == (1, "")
    assert repeated(again, crash, PLACES, Samples([(8.0, {1: 1})])) == (1, "")
    committed = Samples([(7.0, {0: 0}), (8.0, {0: 1}), (8.5, {0: 2})])
    assert repeated(again, crash, PLACES, committed) == (1, "1 repeated without need: ['a']")


def test_a_steady_request_has_its_own_document() -> None:
    """Failures are allowed while the upstream is hurt; another's document never."""
    own = Result("r7", 0, 0, 1.0, b"k", "ok", document(7))
    assert failed([own, Result("500-1", 0, 1, 1.0, b"k", "timeout")]) == ""
    assert failed([Result("r7", 0, 0, 1.0, b"k", "timeout")]) == "1 failed: [('r7', 'timeout')]"
    assert failed([Result("r7", 0, 0, 1.0, b"k", "timeout")], [(0.5, 1.5)]) == ""
    foreign = "1 with another's document: [('r7', 8)]"
    assert failed([Result("r7", 0, 0, 1.0, b"k", "ok", 8)], [(0.5, 1.5)]) == foreign


def test_requests_of_a_fault_come_to_what_it_is_about() -> None:
    """A fault that did not happen would have all its requests end well, or none there at all."""
    some = [Result("hang-1", 0, 0, 1.0, b"k", "timeout"), Result("hang-2", 0, 1, 1.0, b"k", "ok")]
    assert unlike(some, {"hang": {"timeout", "ok"}}) == ""
    assert unlike(some, {"hang": {"timeout"}}) == "'hang': 1 ok"
    assert unlike(some, {"hang": {"timeout", "ok"}, "bomb": {"too_large"}}) == "no result of 'bomb'"


def test_a_commit_past_an_unanswered_request_is_seen() -> None:
    """A commit counts as wrong if a request before it had no result when the commit was seen."""
    assert skipped(PLACES, ALL, Samples([(1.2, {0: 1}), (2.5, {0: 2, 1: 1})])) == ""
    assert skipped(PLACES, ALL, Samples([(1.2, {0: 2})])) == "b at 0/1 was committed (2) before it had a result"
    assert skipped(PLACES, ALL[1:], Samples([(9.0, {0: 1})])).startswith("a at 0/0")
    assert skipped(PLACES, ALL, Samples([(9.0, {})])) == "no commit was seen"


def test_results_of_a_key_out_of_order_are_seen() -> None:
    """The first result of a later request before that of an earlier one of its key is out of order; repeats are not."""
    assert disordered(PLACES, KEYS, [*ALL, result("a", 9.0, offset=2)]) == ""
    moved = {**PLACES, "b": (1, 9)}  # partitions were added between: its order there is another
    assert disordered(moved, KEYS, [result("b", 1.0), result("a", 2.0, offset=1)]) == ""
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
