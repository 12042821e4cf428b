"""The built-in checks regex, range, one_of and length: what they say, and what they do not take."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from models import checks, strictjson
from models.checks import Call
from models.checks.builtin import MAX_PATTERN, is_multiple
from models.checks.registry import check_call

CATASTROPHIC = [r"(a+)+$", r"([a-zA-Z]+)*$", r"(a|aa)+$", r"(a|a?)+$", r"(.*a){12}$", r"^(([a-z])+.)+[A-Z]([a-z])+$"]
"""Patterns that take Python's engine, and many others, exponential or high polynomial time."""


def said(name, value, **args):
    """Run a check as a child does; return its value, or its error."""
    check_call(Call(name, None, args))
    verdict = checks.run(name, value, args)
    return verdict.value if verdict.error is None else verdict.error


def refused(name, **args):
    """Return what a request with these arguments is told."""
    with pytest.raises(ValidationError) as caught:
        check_call(Call(name, None, args))
    return json.dumps(caught.value.messages)


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_no_pattern_takes_more_than_linear_time(pattern):
    """What hangs other engines is answered in a moment, on a string of 100,000 characters."""
    began = time.thread_time()
    assert said("regex", "a" * 100_000 + "!", pattern=pattern, full=True) is False
    assert time.thread_time() - began < 5


@settings(deadline=None)
@given(st.sampled_from(["ab", "^a", "b$", "a|b", "[a-c]+", "a.c", r"\d{2}", "(?:ab)+", "", "a*"]), st.text("abc1 \n"))
def test_plain_patterns_say_what_pythons_engine_says(pattern, text):
    """Search and whole match agree with `re`, but for `$` before a last newline."""
    assert said("regex", text, pattern=pattern) is (re.search(pattern.replace("$", r"\Z"), text) is not None)
    assert said("regex", text, pattern=pattern, full=True) is (re.fullmatch(pattern, text) is not None)


def test_case_is_ignored_if_asked():
    """And only then."""
    assert said("regex", "ÄB", pattern="äb") is False
    assert said("regex", "ÄB", pattern="äb", ignore_case=True) is True


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "missing"),
        ({"pattern": 7}, "must be a string, not a number"),
        ({"pattern": "("}, "missing )"),
        ({"pattern": "(?=a)"}, "syntax is RE2's"),
        ({"pattern": r"(a)\1"}, "syntax is RE2's"),
        ({"pattern": "a" * (MAX_PATTERN + 1)}, f"at most {MAX_PATTERN} are allowed"),
        ({"pattern": "((a{100}){100}){100}"}, "syntax is RE2's"),
        ({"pattern": "a", "full": "yes"}, "must be a boolean"),
        ({"pattern": "a", "flags": 1}, "no such argument; known: pattern, full, ignore_case"),
    ],
)
def test_a_pattern_that_is_none_is_refused_before_anything_is_fetched(args, reason):
    """The request is told what is wrong with it."""
    assert reason in refused("regex", **args)


@pytest.mark.parametrize("value", [7, None, ["a"], {"a": 1}, True])
def test_a_pattern_is_for_strings(value):
    """Anything else is an error, no answer."""
    assert said("regex", value, pattern="a").startswith("TypeError: takes a string, not ")


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS, st.booleans())
def test_a_number_is_in_range_if_it_is_between_the_bounds(value, low, high, exclusive):
    """Both bounds count unless `exclusive`; one may be left out."""
    bounds = [bound for bound in (low, high) if bound is not None]
    if not bounds or sorted(bounds) != bounds:
        assert refused("range", low=low, high=high, exclusive=exclusive)
        return
    inside = (-math.inf if low is None else low) <= value <= (math.inf if high is None else high)
    expected = inside and not (exclusive and value in bounds)
    assert said("range", value, low=low, high=high, exclusive=exclusive) is expected


@pytest.mark.parametrize(("value", "kind"), [("7", "a string"), (True, "a boolean"), (None, "null"), ([7], "an array")])
def test_what_is_no_number_has_no_range(value, kind):
    """A string of digits neither, and true is no 1."""
    assert said("range", value, low=0) == f"TypeError: takes a number, not {kind}"


@pytest.mark.parametrize("name", ["range", "length"])
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "give low, high or both"),
        ({"low": None}, "give low, high or both"),
        ({"low": 2, "high": 1}, "low is above high"),
        ({"low": "1"}, "must be a"),
        ({"low": True}, "must be a"),
        ({"min": 1}, "no such argument"),
    ],
)
def test_bounds_that_are_none_are_refused_before_anything_is_fetched(name, args, reason):
    """A range that holds nothing, or everything, is a mistake of who asks."""
    assert reason in refused(name, **args)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 0.5]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=4,
)


def as_text(value):
    """Write a value so that two are the same text if and only if JSON says that they are equal."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{as_text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    plain = value is None or isinstance(value, bool | str)
    return repr(value) if plain else repr(float(value))


@given(JSON, st.lists(JSON, max_size=4))
def test_a_value_is_one_of_those_that_json_takes_for_equal(value, others):
    """1 is 1.0, true is neither 1 nor "true", members have no order; at any depth."""
    assert said("one_of", value, values=others) is (as_text(value) in map(as_text, others))
    assert said("one_of", value, values=[*others, value]) is True


@given(st.text() | st.lists(st.none()) | st.dictionaries(st.text(), st.none()), st.integers(0, 5), st.integers(0, 5))
def test_a_length_is_that_of_text_array_or_object(value, low, more):
    """Characters, items, members."""
    assert said("length", value, low=low, high=low + more) is (low <= len(value) <= low + more)


@pytest.mark.parametrize("value", [7, None, True, 1.5])
def test_what_has_no_length_is_an_error(value):
    """A number's digits are not counted."""
    assert said("length", value, low=1).startswith("TypeError: takes a string or an array or an object, not ")


@pytest.mark.parametrize(
    ("value", "divisor", "expected"),
    [
        ("19.99", "0.01", True), ("0.005", "0.01", False), ("1e300", "0.01", True), ("1E2", "10", True),
        ("0", "2", True), ("-0", "0.1", True), ("0.00", "3", True), ("0e-999999999", "2", True),
        ("1e-999999999", "0.01", False), ("-1e-310", "2", False),
    ],
)  # fmt: skip
def test_a_multiple_is_one_by_its_decimal_digits(value, divisor, expected):
    """And 1e-999999999 takes no hours."""
    one, other = (strictjson.loads(text.encode(), exact=True) for text in (value, divisor))
    assert is_multiple(one, other) is expected
