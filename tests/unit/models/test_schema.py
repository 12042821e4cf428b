from __future__ import annotations

import math

import pytest
from marshmallow import ValidationError, fields

from models.schema import Seconds, StrictSchema, Text, flatten, kind, problems


def no_spaces(text):
    if " " in text:
        msg = "has a space"
        raise ValidationError(msg)


class Sample(StrictSchema):
    name = fields.String()
    wait = Seconds()
    word = Text(no_spaces)


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), (3, 3.0), (2.5, 2.5), (1e-9, 1e-9), (10**300, 1e300)])
def test_seconds_takes_finite_numbers_from_zero_on(value, seconds):
    """Integers and floats of any finite size load as a float."""
    loaded = Sample().load({"wait": value})["wait"]
    assert loaded == seconds
    assert type(loaded) is float


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1", "must be a number of seconds, not a string"),
        (True, "must be a number of seconds, not a boolean"),
        ([1], "must be a number of seconds, not an array"),
        ({}, "must be a number of seconds, not an object"),
        (None, "Field may not be null."),
        (-1, "must be a number of seconds, 0 or more"),
        (-1e-9, "must be a number of seconds, 0 or more"),
        (math.inf, "must be a number of seconds, 0 or more"),
        (math.nan, "must be a number of seconds, 0 or more"),
        (10**400, "must be a number of seconds, 0 or more"),
        (-(10**400), "must be a number of seconds, 0 or more"),
    ],
)
def test_seconds_refuses_what_is_no_duration(value, reason):
    """Strings, booleans, negative and non-finite numbers are refused with a reason, also ints beyond a float."""
    with pytest.raises(ValidationError) as caught:
        Sample().load({"wait": value})
    assert caught.value.messages == {"wait": [reason]}


@pytest.mark.parametrize("text", ["", "a", "\u00e4\n", "x" * 100_000])
def test_a_text_is_taken_as_it_is(text):
    """What the function has nothing against is the value, unchanged."""
    assert Sample().load({"word": text}) == {"word": text}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a b", "has a space"),
        (1, "must be a string, not a number"),
        (True, "must be a string, not a boolean"),
        ([" "], "must be a string, not an array"),
        ({}, "must be a string, not an object"),
        (None, "Field may not be null."),
    ],
)
def test_a_text_is_a_string_that_the_function_allows(value, reason):
    """Other types never get to the function; what it refuses is told in its words."""
    with pytest.raises(ValidationError) as caught:
        Sample().load({"word": value})
    assert caught.value.messages == {"word": [reason]}


def test_unknown_keys_are_refused_by_name():
    """A key the schema does not have is an error under that key."""
    with pytest.raises(ValidationError) as caught:
        Sample().load({"name": "a", "nmae": "b"})
    assert caught.value.messages == {"nmae": ["unknown field"]}


@pytest.mark.parametrize("value", [None, 1, "a", [], [{}]])
def test_what_is_no_object_is_refused(value):
    """Anything but a JSON object is one error about the whole."""
    with pytest.raises(ValidationError) as caught:
        Sample().load(value)
    assert flatten(caught.value.messages) == ["must be a JSON object"]


def test_inapplicable_keys_are_left_out_on_the_way_out():
    """None is dropped; other false values stay."""
    assert Sample().dump({"name": None, "wait": 0.0}) == {"wait": 0.0}
    assert Sample().dump({"name": ""}) == {"name": ""}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        (0, "a number"),
        (1.5, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_kinds_are_named_as_in_json(value, name):
    """A producer reads JSON's words for types, not Python's."""
    assert kind(value) == name


@pytest.mark.parametrize(
    ("messages", "lines"),
    [
        ({"a": ["Wrong."]}, ["a: Wrong"]),
        ({"a": ["one.", "two"], "b": ["three"]}, ["a: one", "a: two", "b: three"]),
        ({"a": {0: {"b": ["deep."]}}}, ["a.0.b: deep"]),
        ({"_schema": ["whole."]}, ["whole"]),
        ({"a": {"_schema": ["part"]}}, ["a: part"]),
        ({"a": "bare"}, ["a: bare"]),
        (["top."], ["top"]),
        ({}, []),
    ],
)
def test_nested_messages_become_one_line_each(messages, lines):
    """Every reason ends as `path: reason`, with the path dotted and `_schema` left out."""
    assert flatten(messages) == lines


def test_problems_are_told_one_by_one_with_their_paths():
    """Each reason comes with the steps to its field, as text; a step may itself have dots in it."""
    messages = {"a.b": {0: {"c": ["one.", "two"]}, "_schema": ["three"]}, "d": "four.", "_schema": ["five"]}
    assert list(problems(messages)) == [
        (("a.b", "0", "c"), "one"),
        (("a.b", "0", "c"), "two"),
        (("a.b",), "three"),
        (("d",), "four"),
        ((), "five"),
    ]
