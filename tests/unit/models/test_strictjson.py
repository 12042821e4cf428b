from __future__ import annotations

import json
import math
import pickle
import sys
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import strictjson
from tests.turns import FOLLOWED

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=12) | st.text(alphabet='[]{}"\\,:u', max_size=12)
VALUES = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=16,
)
LAYOUTS = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 1])})


def typed(value):
    """Tell 1, 1.0 and True apart, which == does not."""
    return json.dumps(value)


def depth(value):
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_is_read_back_the_same(value):
    """Whatever JSON can say survives dumps and loads with its types."""
    assert typed(strictjson.loads(strictjson.dumps(value))) == typed(value)


@settings(deadline=None)
@given(VALUES)
def test_dumps_writes_what_the_json_module_reads(value):
    """The compact encoding is ordinary JSON for any other reader, without a needless byte."""
    data = strictjson.dumps(value)
    assert typed(json.loads(data)) == typed(value)
    assert data == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@settings(deadline=None)
@given(VALUES, LAYOUTS)
def test_valid_json_is_read_as_the_json_module_reads_it(value, layout):
    """Being strict changes nothing about valid input, whatever its layout and escapes."""
    text = json.dumps(value, **layout)
    assert typed(strictjson.loads(text.encode())) == typed(json.loads(text))


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=40) | st.text(alphabet='{}[]",:0123456789eE.+-\\ud8ab truefalsn', max_size=40).map(str.encode)
)
def test_any_bytes_are_read_as_the_json_module_does_or_refused_with_a_reason(data):
    """No input makes anything but a value that the json module agrees on, or a ValueError that says why."""
    try:
        read = typed(strictjson.loads(data))
    except ValueError as exc:
        read = exc
    assert str(read)
    assert isinstance(read, ValueError) or read == typed(json.loads(data.decode("utf-8-sig")))


@settings(deadline=None)
@given(VALUES.filter(depth))
def test_the_depth_limit_is_exact_whatever_the_strings_hold(value):
    """A value as deep as the limit is read and one level more is refused, with brackets and quotes in its strings."""
    data = strictjson.dumps(value)
    assert typed(strictjson.loads(data, max_depth=depth(value))) == typed(value)
    with pytest.raises(ValueError, match="nested deeper than"):
        strictjson.loads(data, max_depth=depth(value) - 1)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_sixty_four_levels_are_taken_and_one_more_is_not(opening, closing):
    """The contract's depth of 64 holds for arrays and for objects."""
    levels = strictjson.MAX_DEPTH
    assert strictjson.loads(opening * levels + b"1" + closing * levels)
    with pytest.raises(ValueError, match=r"^nested deeper than 64 levels$"):
        strictjson.loads(opening * (levels + 1) + b"1" + closing * (levels + 1))


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b"[{"])
def test_bottomless_nesting_is_refused_without_recursing(unit):
    """A hundred thousand open brackets end in the depth error, not in a RecursionError."""
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        strictjson.loads(unit * 100_000)


def test_nesting_beyond_the_interpreter_s_stack_is_refused_too():
    """A caller that allows more levels than Python can recurse gets a ValueError all the same."""
    with pytest.raises(ValueError, match=r"^nested too deep$"):
        strictjson.loads(b"[" * 1_000_000 + b"]" * 1_000_000, max_depth=2_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "[" + ",".join(["[]"] * 200) + "]",
        json.dumps("[" * 200),
        json.dumps(["\\" * 3 + '"' + "{" * 200]),
        json.dumps({"[" * 100: "\\", "]": '"' + "[" * 100}),
    ],
)
def test_brackets_side_by_side_or_in_strings_are_no_depth(text):
    """Only brackets that nest count: many shallow ones, or some inside strings with escapes, are taken."""
    assert strictjson.loads(text.encode()) == json.loads(text)


def test_measuring_depth_takes_few_steps():
    """However many strings and brackets there are, no Python runs for each: the event loop waits for it."""
    data = json.dumps([{"a": ['\\"', {}]}] * 1_000).encode()
    steps = []
    sys.setprofile(lambda *event: steps.append(event[1]))
    try:
        assert not strictjson.deeper_than(data, 4)
    finally:
        sys.setprofile(None)
    assert len(steps) < 50


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON: Expecting value at line 1, column 1"),
        (b" ", "not JSON: Expecting value"),
        (b"nul", "not JSON: Expecting value"),
        (b"{'a':1}", "not JSON: Expecting property name"),
        (b'{"a":1,}', "not JSON: .*line 1, column [78]"),  # of the comma, from Python 3.13 on
        (b"[1,]", "not JSON: (Expecting value|Illegal trailing comma)"),
        (b"[1] 2", "not JSON: Extra data at line 1, column 5"),
        (b'{\n"a": x}', "not JSON: Expecting value at line 2, column 6"),
        (b'"a', "not JSON: Unterminated string"),
        (b'"' + b"[" * 100, "not JSON: Unterminated string"),
        (b'"' + b"[" * 100 + b'\\"', "not JSON: Unterminated string"),
        (b'"a\nb"', "not JSON: Invalid control character"),
        (b'"\\x41"', r"not JSON: Invalid \\escape"),
        (b"01", "not JSON: Extra data"),
        (b"+1", "not JSON: Expecting value"),
        (b"\x00", "not JSON"),
        (b"]" * 100 + b"[" * 100, "not JSON"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[Infinity]", "Infinity is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b"1e999", "number out of range: 1e999"),
        (b"[-1e999]", "number out of range: -1e999"),
        (b"9" * 400 + b".0", "number out of range: 9{40}$"),
        (b"1" * 5000, "^a number of more than 4300 digits$"),
        (b'{"a":1,"b":2,"a":1}', "duplicate key 'a'"),
        (b'[{"x":{"\\u0061":1,"a":2}}]', "duplicate key 'a'"),
        (b'"\\ud800"', "a lone surrogate is not valid Unicode"),
        (b'{"\\udFFF":1}', "a lone surrogate is not valid Unicode"),
        (b'["\\ude00\\ud83d"]', "a lone surrogate is not valid Unicode"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
        (b'"\xc0\xaf"', "not UTF-8 at byte 1"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8 at byte 0"),
    ],
)
def test_what_the_contract_forbids_is_refused_with_its_reason(data, reason):
    """Each kind of forbidden or broken JSON is a ValueError that says what is wrong."""
    with pytest.raises(ValueError, match=reason):
        strictjson.loads(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
        (b" \t\r\n1 ", 1),
        (b"1e-999", 0.0),
        (b"1e308", 1e308),
        (b"9" * 4300, int("9" * 4300)),
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
        (b'"\\u0000"', "\0"),
    ],
)
def test_what_only_looks_forbidden_is_read(data, value):
    """A byte order mark, surrogate pairs, escaped backslashes and extreme but finite numbers are all valid."""
    assert strictjson.loads(data) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"a": {"b": math.inf}}])
@pytest.mark.parametrize("write", [strictjson.dumps, strictjson.canonical])
def test_numbers_that_json_cannot_say_are_not_written(write, value):
    """NaN and the infinities raise ValueError wherever they sit."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (rb'"\ud83d\ude00 \n \u0041"', "\U0001f600 \n A"),
        (rb'"\ud83d x \ude00 \uD83D"', "\ufffd x \ufffd \ufffd"),
        (rb'"\ud83d\ud83d\ude00\ude00"', "\ufffd\U0001f600\ufffd"),
        (rb'"\\ud83d \\\ud83d"', "\\ud83d \\\ufffd"),
    ],
)
def test_a_surrogate_that_stands_alone_is_replaced(given, wanted):
    """Pairs, other escapes and escaped backslashes stay; half a pair becomes U+FFFD."""
    assert strictjson.loads(strictjson.well_formed(given)) == wanted


@pytest.mark.parametrize("write", [strictjson.dumps, strictjson.canonical, strictjson.quote])
def test_lone_surrogates_are_not_written(write):
    """What is no Unicode text raises ValueError instead of reaching the wire."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        write("a\ud800")


def test_dumps_is_compact_utf8():
    """No spaces and no escapes where UTF-8 can say it."""
    assert strictjson.dumps({"ä": [1, 2.5, None, True, "😀"]}) == '{"ä":[1,2.5,null,true,"😀"]}'.encode()


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(VALUES)
def test_canonical_does_not_depend_on_the_order_of_keys(value):
    """The same value written in another order of keys, at every level, gives the same bytes, which mean the value."""
    assert strictjson.canonical(value) == strictjson.canonical(reversed_keys(value))
    assert typed(reversed_keys(reversed_keys(strictjson.loads(strictjson.canonical(value))))) == json.dumps(
        value, sort_keys=True
    )


@settings(deadline=None)
@given(VALUES, VALUES)
def test_canonical_tells_different_values_apart(one, other):
    """Two values have the same canonical bytes only if they are the same value with the same types."""
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (strictjson.canonical(one) == strictjson.canonical(other)) is same


def test_canonical_writes_tuples_as_arrays_and_keeps_their_order():
    """Sequences are not sorted, and the objects inside them are."""
    assert strictjson.canonical(({"b": 1, "a": (2, 1)}, 3)) == b'[{"a":[2,1],"b":1},3]'


def test_canonical_writes_what_was_parsed_elsewhere_as_no_json_can_be():
    """A request whose large body is known by its digest alone must not share a cache entry with one that quotes it."""
    large = strictjson.Raw({"a": [1.10]}, "an object")
    assert strictjson.canonical([large]) == strictjson.canonical([strictjson.Raw({"a": [1.1]}, "an object")])
    assert strictjson.canonical([large]) != strictjson.canonical([strictjson.Raw({"a": [1.2]}, "an object")])
    with pytest.raises(ValueError, match="not JSON"):
        strictjson.loads(strictjson.canonical([large]))


@settings(deadline=None)
@given(st.text())
def test_quote_writes_one_json_string(text):
    """Any Unicode text becomes one JSON string that reads back as itself."""
    assert strictjson.loads(strictjson.quote(text)) == text


EXACT = b'{"a":0.29999999999999998,"b":[1.10,1e5,-0,9007199254740993,1.5,-0.0],"c":{"d":1E-7}}'


def test_digits_survive_where_they_are_asked_for():
    """Read and written exactly, every number keeps its text; to arithmetic it is the double that it always was."""
    value = strictjson.loads(EXACT, exact=True)
    assert strictjson.dumps(value, exact=True) == EXACT
    assert strictjson.canonical(value) == EXACT
    assert value == strictjson.loads(EXACT)
    assert value["a"] + 0 == 0.3
    assert str(value["a"]) == "0.29999999999999998"
    assert type(value["b"][4]) is float


def test_numbers_with_digits_travel_between_processes():
    """A pickled value has its digits again."""
    value = pickle.loads(pickle.dumps(strictjson.loads(EXACT, exact=True)))
    assert strictjson.dumps(value, exact=True) == EXACT


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_written_with_its_digits(number):
    """Whatever its exponent, a Decimal is a JSON number that reads as the same."""
    assert json.loads(strictjson.dumps([number]), parse_float=Decimal, parse_int=Decimal) == [number]


def test_text_that_looks_like_our_own_stays_text():
    """What marks a number inside is not to be guessed: no string becomes a number."""
    assert strictjson.dumps(["number 0123456789abcdef 1.5", strictjson.Number("1.50")], exact=True) == (
        b'["number 0123456789abcdef 1.5",1.50]'
    )


def cpu_of(function):
    """Return the least CPU seconds of some runs."""
    taken = []
    for _ in range(25):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return min(taken)


@pytest.mark.slow
def test_many_small_values_are_put_in_order_about_as_quickly_as_they_are_read():
    """A request of 45 KB may hold 15,000 arrays, and is looked at on the event loop."""
    text = b'{"enum":[' + b",".join([b"[]"] * 15_000) + b"]}"
    value = strictjson.loads(text, exact=True)
    assert strictjson.canonical(value) == text
    assert cpu_of(lambda: strictjson.canonical(value)) < FOLLOWED * 8 * cpu_of(
        lambda: strictjson.loads(text, exact=True)
    )


@pytest.mark.parametrize("value", [None, "ä", [], {}, {"b": [1, 1.5, Decimal("1.10")], "a": {"c": None}}, [True, [[]]]])
def test_a_value_written_in_steps_is_the_same(value):
    """Up to the limit; one more byte is too many."""
    data = strictjson.dumps(value)
    assert strictjson.dumps_in_steps(value, len(data)) == data
    with pytest.raises(OverflowError):
        strictjson.dumps_in_steps(value, len(data) - 1)


@pytest.mark.parametrize("digits", ["1.10", "0.29999999999999998", "1E+5", "-0.00", "-0", "9007199254740993"])
@pytest.mark.parametrize("read", [Decimal, lambda digits: strictjson.loads(digits.encode(), exact=True)])
def test_a_number_written_in_steps_keeps_its_digits(digits, read):
    """As a plugin's Decimal, and as a number that it was given."""
    value = read(digits)
    assert strictjson.dumps_in_steps({"n": [value]}, 100) == b'{"n":[%b]}' % digits.encode()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [Decimal("NaN")], {"a": object()}])
def test_what_is_no_json_is_not_written_in_steps(value):
    """As with `dumps`, by the same kind of error."""
    with pytest.raises((ValueError, TypeError)) as whole:
        strictjson.dumps(value)
    with pytest.raises(type(whole.value)):
        strictjson.dumps_in_steps(value, 100)
