"""Verdicts beside a document: found while they hold, bounded, and counted in bytes."""

from __future__ import annotations

import json
import math

import pytest

from models.checks import Call, CheckOutcome
from models.errors import CheckError
from models.result import encode_check_result
from streams.cache.check_results import (
    CHECK_RESULT_OVERHEAD,
    MAX_CHECK_RESULTS,
    CheckResult,
    CheckResults,
    read_check_results,
)

NOW = 1_800_000_000.0


def said(value):
    return CheckResult(encode_check_result(Call("x"), CheckOutcome(value)))


FAILED = CheckResult(b'{"name":"x","error":"boom","elapsed_ms":0.0}', CheckError("boom"), NOW + 5)


def test_a_verdict_is_found_and_a_failure_for_a_while():
    """What a check said lasts as long as its document; that it failed, until then and no longer."""
    verdicts = CheckResults({"a": said(1), "b": FAILED})
    assert (verdicts.find("a", math.inf), verdicts.find("c", NOW)) == (None, None)
    assert verdicts.find("a", NOW + 1e9) == said(1)
    assert (verdicts.find("b", NOW + 4.9), verdicts.find("b", NOW + 5)) == (FAILED, None)


def test_keeping_says_what_is_news():
    """The same again is none; another verdict under the same key takes its place."""
    verdicts, first = CheckResults(), said(1)
    assert verdicts.store("a", first)
    assert not verdicts.store("a", first)
    assert verdicts.store("a", said(2))
    assert verdicts.find("a", NOW) == said(2)
    assert verdicts == CheckResults({"a": said(2)}) != CheckResults({"a": first})


def test_verdicts_are_bounded_and_counted():
    """The first kept are the first to go; the size is that of what is there."""
    verdicts = CheckResults()
    for number in range(MAX_CHECK_RESULTS + 3):
        verdicts.store(str(number), said("v" * number))
        verdicts.store(str(number), said("w" * number))
    held = [number for number in range(MAX_CHECK_RESULTS + 3) if verdicts.find(str(number), NOW)]
    assert held == list(range(3, MAX_CHECK_RESULTS + 3))
    assert verdicts.size == sum(CHECK_RESULT_OVERHEAD + 2 * len(said("w" * number).encoded) for number in held)


def test_what_all_of_some_checks_said_is_told_in_their_order():
    """Only if all is known; the first failure is the error; the same again, until something changes, is the same."""
    one, two = said(1), said(2)
    verdicts = CheckResults({"a": one, "b": two, "f": FAILED})
    assert verdicts.joined((), NOW) == (b"", None)
    for keys, expected in (("ab", [one, two]), ("ba", [two, one]), ("aba", [one, two, one]), ("ab", [one, two])):
        for _ in range(2):
            assert verdicts.joined(tuple(keys), NOW) == (b",".join(each.encoded for each in expected), None)
    assert verdicts.joined(("a", "x"), NOW) is None
    assert verdicts.joined(("a", "f"), NOW) == (b"%b,%b" % (one.encoded, FAILED.encoded), FAILED.error)
    assert verdicts.joined(("a", "f"), NOW + 5) is None
    assert verdicts.joined(("a", "b"), NOW + 5) == (b"%b,%b" % (one.encoded, two.encoded), None)
    verdicts.store("b", one)
    assert verdicts.joined(("a", "b"), NOW) == (b"%b,%b" % (one.encoded, one.encoded), None)


def test_only_what_lasts_is_written():
    """Failures stay in this process; what is written is JSON on one line, and comes back."""
    verdicts = CheckResults({"a": said("x\ny"), "b": FAILED, "c": said(None)})
    written = verdicts.write()
    assert b"\n" not in written
    assert read_check_results(json.loads(written)) == CheckResults({"a": said("x\ny"), "c": said(None)})
    assert CheckResults().write() == b"{}"


@pytest.mark.parametrize("written", [None, [], 7, {"a": 7}, {"a": {"name": "x", "value": math.nan, "elapsed_ms": 1}}])
def test_what_is_none_is_refused(written):
    """Whatever else lies there raises ValueError."""
    with pytest.raises(ValueError, match=r"invalid check results|JSON"):
        read_check_results(written)
