"""Expressions of routes."""

from __future__ import annotations

from decimal import Decimal

import pytest

from models import strictjson
from models.expression import MAX_EXPRESSION, Expression, Path, is_true, plain

SCOPE = {
    "value": {"customer": {"id": 7, "x-id": "a"}, "lines": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}], "empty": None},
    "key": "k", "headers": {"x-id": "h"}, "topic": "orders", "partition": 3, "offset": 4, "timestamp": 5,
    "lookups": {"risk": {"score": 0.5}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value.customer.id", 7),
        ("value.customer.id.deeper", None),
        ("value.nothing.at.all", None),
        ("key", "k"),
        ("partition", 3),
        ('headers."x-id"', "h"),
        ('value.customer."x-id"', "a"),
        ("value.lines[*].sku", ["a", "b"]),
        ("value.lines[?n > `1`].sku | [0]", "b"),
        ("value.customer.id == `7`", True),
        ("value.customer.country != 'US'", True),
        ("lookups.risk.score", 0.5),
        ("join('-', [topic, key])", "orders-k"),
    ],
)
def test_an_expression_finds_what_jmespath_finds(text, value):
    """Plain paths, which are followed by hand, and all else alike."""
    assert Expression(text).evaluate(SCOPE) == value


@pytest.mark.parametrize(
    "text", ["value.customer.id", "value.lines.sku", "value.empty", "value.empty.x", "topic.x", "key"]
)
def test_a_plain_path_is_what_jmespath_makes_of_it(text):
    """The fast way and the library agree."""
    import jmespath

    assert Expression(text).path is not None
    assert Expression(text).evaluate(SCOPE) == jmespath.search(text, SCOPE)


def test_a_number_keeps_its_digits_on_its_way():
    """A price of 1.10 stays 1.10, also out of a projection."""
    scope = {"value": strictjson.loads(b'{"prices":[{"p":1.10}]}', exact=True)}
    assert str(Expression("value.prices[*].p").evaluate(scope)[0]) == "1.10"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("valeu.id", "no 'valeu' in a record; known: value, key"),
        ("value.", "not a JMESPath expression"),
        ("value.a ==", "not a JMESPath expression"),
        ("", "not a JMESPath expression"),
        ("@", "the whole record"),
        ("lookups", "say which lookup"),
        ("lookups.*.x", "say which lookup"),
        ("length(nothing)", "no 'nothing' in a record"),
        ("lenght(value.x)", r"no function lenght\(\); known: abs, avg"),
        ("value.x[?lenght(@) > `1`]", r"no function lenght\(\)"),
        ("length()", "takes 1 arguments, not 0"),
        ("join(',')", "takes 2 arguments, not 1"),
        ("&value.x", "& is for the functions"),
        ("to_array(&value.x)", "& is for the functions"),
        ("lookups.[@]", "say which lookup"),
        ("v" * (MAX_EXPRESSION + 1), "characters"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_reason(text, reason):
    """When the configuration is read, not when the first record comes."""
    with pytest.raises(ValueError, match=reason):
        Expression(text)


def test_lookups_that_an_expression_uses_are_known():
    """From whatever part of it."""
    assert Expression("lookups.a.x").lookups == {"a"}
    assert Expression("join('-', [lookups.a.x, lookups.\"b-c\".y[0], value.z])").lookups == {"a", "b-c"}
    assert Expression("value.lines[?lookups == `1`]").lookups == frozenset()
    assert Expression('lookups.{a: risk.score, b: "p-q"[0]}').lookups == {"risk", "p-q"}
    assert Expression("lookups.[risk, prices.x]").lookups == {"risk", "prices"}


def test_a_value_of_a_wrong_type_is_an_error_that_says_so():
    """JMESPath's functions refuse other types."""
    with pytest.raises(ValueError, match="length"):
        Expression("length(partition)").evaluate(SCOPE)


def test_truth_is_jmespaths():
    """Null, false and what is empty are false; zero is true."""
    assert [is_true(value) for value in (None, False, "", [], {}, 0, 0.0, "0", [0], True)] == [False] * 5 + [True] * 5


def test_a_place_is_made_without_changing_what_others_hold():
    """Objects on the way are copied."""
    inner = {"b": 1}
    members = {"a": inner}
    Path("a.c.d").put(members, 2)
    assert (members, inner) == ({"a": {"b": 1, "c": {"d": 2}}}, {"b": 1})
    with pytest.raises(ValueError, match="'b' on the way to"):
        Path("a.b.c").put(members, 2)


@pytest.mark.parametrize("text", ["", "a..b", "a[0]", "a.*", "9", 'a."b"'])
def test_a_wrong_place_is_refused(text):
    """A place is made of names."""
    with pytest.raises(ValueError, match="is not a path"):
        Path(text)


DOCUMENT = strictjson.loads(
    b'{"p":[{"x":1.10,"n":"a"},{"x":0.20,"n":"b"}],"neg":-0,"minus":-2.50,"mixed":[1,"2",true,null],"big":9007199254740993.5}',
    exact=True,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max(p[*].x)", "1.10"),
        ("sort_by(p, &x)[*].n", '["b","a"]'),
        ("max_by(p, &x).n", '"a"'),
        ("sum(p[*].x)", "1.30"),
        ("sum(p[*].neg)", "0"),
        ("avg(p[*].x)", "0.65"),
        ("abs(minus)", "2.50"),
        ("abs(neg)", "0"),
        ("ceil(minus)", "-2"),
        ("floor(big)", "9007199254740993"),
        ("to_string(p[0].x)", '"1.10"'),
        ("to_string(p[0])", '"{\\"x\\":1.10,\\"n\\":\\"a\\"}"'),
        ("to_number('1.10')", "1.10"),
        ("to_number('1_000')", "null"),
        ("to_number('NaN')", "null"),
        ("to_number('1e999')", "null"),
        ("mixed[?@ > `0`]", "[1]"),
        ("minus < '1'", "null"),
        ("'a' < 'b'", "true"),
        ("`true` > `0`", "null"),
    ],
)
def test_functions_take_numbers_with_their_digits(text, value):
    """A price of 1.10 is a number for each of them; 1.10 and 0.20 are 1.30; what cannot be compared is null."""
    found = Expression(text, document=True).evaluate(DOCUMENT)
    assert strictjson.dumps(found, exact=True).decode() == value


def test_whole_decimals_are_compared_with_all_their_digits():
    """An identifier of decimal(38,0) has more digits than a double; a fraction is a number with its digits."""
    scope = {"value": plain({"a": Decimal(9007199254740993), "b": Decimal("1.10"), "c": Decimal("1E+3")})}
    assert Expression("value.a == `9007199254740993`").evaluate(scope) is True
    assert Expression("value.a == `9007199254740992`").evaluate(scope) is False
    assert Expression("value.b == `1.1`").evaluate(scope) is True
    assert strictjson.dumps(scope["value"], exact=True) == b'{"a":9007199254740993,"b":1.10,"c":1E+3}'
