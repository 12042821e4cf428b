"""Type hints give the validation: which values and arguments a check takes, and in what words others are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import pytest

from models.checks.signature import shape_of, signature_of

VALUES: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True, False],
    "integer": [0, -7, 10**30],
    "number": [0.5, 1.0],
    "string": ["", "7"],
    "array": [[], [1, "a"]],
    "object": [{}, {"a": None}],
}


@pytest.mark.parametrize(
    ("hint", "said", "taken"),
    [
        (Any, "anything", set(VALUES)),
        (object, "anything", set(VALUES)),
        (bool, "a boolean", {"boolean"}),
        (int, "an integer", {"integer"}),
        (float, "a number", {"integer", "number"}),
        (str, "a string", {"string"}),
        (None, "null", {"null"}),
        (list, "an array", {"array"}),
        (Sequence, "an array", {"array"}),
        (list[Any], "an array", {"array"}),
        (dict, "an object", {"object"}),
        (dict[str, Any], "an object", {"object"}),
        (Mapping[str, Any], "an object", {"object"}),
        (int | None, "an integer or null", {"integer", "null"}),
        (Optional[str], "a string or null", {"string", "null"}),  # noqa: UP045  who writes it so is understood
        (Union[list, dict], "an array or an object", {"array", "object"}),  # noqa: UP007
    ],
)
def test_a_hint_is_a_kind_of_json(hint, said, taken):
    """Each hint lets in its own kinds and no other: true is no integer, 1.0 is none either."""
    shape = shape_of(hint)
    assert shape.one == said
    assert {kind for kind, values in VALUES.items() if all(map(shape.fits, values))} == taken
    assert {kind for kind, values in VALUES.items() if any(map(shape.fits, values))} == taken


@pytest.mark.parametrize(
    ("hint", "good", "bad", "problem"),
    [
        (list[int], [1, 2], [1, "a", None], "an array of integers, not an array of numbers and strings and nulls"),
        (list[int], [], {}, "an array of integers, not an object"),
        (dict[str, list[str]], {"a": ["b"]}, {"a": "b"}, "an object of arrays of strings, not an object of strings"),
        (list[int | str], [1, "a"], [True], "an array of integers or strings, not an array of booleans"),
        (Literal["a", 1], 1, True, 'one of "a", 1, not true'),
        (Literal["a", None], None, "b" * 60, 'one of "a", null, not "' + "b" * 39),  # noqa: PYI061  who writes it so
        (Literal[True], True, 1, "one of true, not 1"),
    ],
)
def test_what_is_wrong_inside_is_told(hint, good, bad, problem):
    """Items and members are judged too, and named as they are."""
    shape = shape_of(hint)
    assert shape.fits(good)
    assert not shape.fits(bad)
    assert shape.problem(bad) == problem


@pytest.mark.parametrize(
    "hint", [bytes, set[int], tuple[int, int], dict[int, str], complex, Literal[b"x"], list[bytes], int | bytes]
)
def test_a_hint_that_json_cannot_keep_is_refused(hint):
    """Whoever registers such a check is told at once."""
    with pytest.raises(ValueError, match="use bool, int, float, str"):
        shape_of(hint)


def _check(value: str, low: int, high: int = 9, *, mode: Literal["a", "b"] = "a", more: list[int] | None = None):
    return value, low, high, mode, more


def test_arguments_are_judged_by_name():
    """Missing ones, unknown ones and those that do not fit are all told, each under its name."""
    signature = signature_of(_check)
    assert signature.problems({"low": 1}) == {}
    assert signature.problems({"low": 1, "high": 2, "mode": "b", "more": [3]}) == {}
    assert signature.problems({"high": "2", "mode": "c", "more": ["x"], "value": "v", "odd": 1}) == {
        "low": "missing",
        "high": "must be an integer, not a string",
        "mode": 'must be one of "a", "b", not "c"',
        "more": "must be an array of integers or null, not an array of strings",
        "value": "no such argument; known: low, high, mode, more",
        "odd": "no such argument; known: low, high, mode, more",
    }


def test_other_names_are_taken_if_the_check_takes_any():
    """`**others` is for arguments that no signature knows, but the value keeps its name."""
    signature = signature_of(lambda value, a=1, **others: (value, a, others))
    assert signature.problems({"b": [1], "c": None}) == {}
    assert "value" in signature.problems({"value": 1})
    assert signature_of(lambda value, /, **others: (value, others)).problems({"value": 1}) == {}


def test_a_check_without_arguments_says_so():
    """There is nothing to choose from."""
    assert signature_of(lambda value: value).problems({"a": 1}) == {"a": "no such argument; known: none"}


def _nothing(): ...
def _only_named(*, value): ...
def _many(value, *more): ...
def _second_unnamed(value, other, /): ...
def _unknown_hint(value: NoSuchName): ...  # noqa: F821  it is what this is about


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_nothing, "it has no parameter for the value"),
        (_only_named, "it has no parameter for the value"),
        (_many, "'more' is positional-only"),
        (_second_unnamed, "'other' is positional-only"),
        (_unknown_hint, "NoSuchName"),
    ],
)
def test_a_function_that_no_request_could_call_is_refused(function, reason):
    """With the parameter at fault."""
    with pytest.raises(ValueError, match=reason):
        signature_of(function)
