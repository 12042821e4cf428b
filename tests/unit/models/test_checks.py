from __future__ import annotations

import hashlib
import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from models import checks, strictjson
from models.checks import MAX_VALUE_BYTES, Call, CheckOutcome
from models.plugins import PluginError, load_all

DOCUMENT = {"a": {"b": [10, {"c": None}]}, "": {"": 1}, "0": "key", "list": [[1], 2]}


@pytest.fixture
def _own_registry(monkeypatch):
    """Give a test its own copy of the registered checks."""
    monkeypatch.setattr(checks.registry, "_REGISTRY", dict(checks.registry._REGISTRY))


def sieve(limit):
    """Return the primes below a limit by crossing out, which shares no idea with the code under test."""
    crossed = bytearray(limit)
    for number in range(2, limit):
        if not crossed[number]:
            yield number
            crossed[number::number] = b"\1" * len(range(number, limit, number))


def test_is_prime_agrees_with_the_sieve_up_to_ten_thousand():
    """Every number from 0 to 10,000 is judged right."""
    assert [number for number in range(10_001) if checks.is_prime(number)] == list(sieve(10_001))


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_is_prime_agrees_with_trial_division(number):
    """Any number up to a thousand million is judged as trial division judges it."""
    by_trial = number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
    assert checks.is_prime(number) is by_trial


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        4_294_967_291,
        4_294_967_311,
        112_272_535_095_293,
        2**61 - 1,
        9_223_372_036_854_775_783,
        18_446_744_073_709_551_557,
        18_446_744_073_709_551_629,
        2**89 - 1,
        2**107 - 1,
        "112272535095293",
    ],
)
def test_known_primes_are_prime(number):
    """Primes around 2^32, 2^63 and 2^64, and Mersenne primes beyond the proven bound, are found prime."""
    assert checks.is_prime(number) is True


@pytest.mark.parametrize("number", [561, 1105, 1729, 2465, 2821, 6601, 8911, 825_265, 321_197_185, 5_394_826_801])
def test_carmichael_numbers_are_composite(number):
    """Numbers that fool Fermat's test do not fool this one."""
    assert checks.is_prime(number) is False


@pytest.mark.parametrize(
    "number",
    [
        2_047,
        1_373_653,
        25_326_001,
        3_215_031_751,
        2_152_302_898_747,
        3_474_749_660_383,
        341_550_071_728_321,
        3_825_123_056_546_413_051,
        318_665_857_834_031_151_167_461,
        3_317_044_064_679_887_385_961_981,
        (2**61 - 1) * (2**31 - 1),
        (2**61 - 1) ** 2,
        18_446_744_073_709_551_556,
    ],
)
def test_strong_pseudoprimes_are_composite(number):
    """The least strong pseudoprimes to the first one to thirteen primes, and products of big primes, are found out."""
    assert checks.is_prime(number) is False


@pytest.mark.parametrize("number", [-7, -1, 0, 1, "-7", "0", "000"])
def test_nothing_below_two_is_prime(number):
    """Negative numbers, zero and one are no primes, also as text."""
    assert checks.is_prime(number) is False


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (7.0, "a number"),
        (True, "a boolean"),
        (None, "null"),
        ("", "a string"),
        ("seven", "a string"),
        ("--7", "a string"),
        (" 7", "a string"),
        ("7.0", "a string"),
        ("\u0667", "a string"),
        ("1_000", "a string"),
        ([7], "an array"),
        ({}, "an object"),
    ],
)
def test_is_prime_refuses_what_is_no_integer(value, kind):
    """Anything but an integer or ASCII digits is a TypeError in JSON's words."""
    with pytest.raises(TypeError, match=f"^takes an integer, not {kind}$"):
        checks.is_prime(value)


def test_sha256_of_a_string_is_of_its_utf8():
    """Text is digested as its bytes, so that any other tool gets the same."""
    assert checks.run("sha256", "ä", {}).value == hashlib.sha256("ä".encode()).hexdigest()


@pytest.mark.parametrize("value", [{"b": 1, "a": [1, {"d": None, "c": 2}]}, [], None, 1.5])
def test_sha256_of_anything_else_is_of_its_sorted_compact_json(value):
    """Other values are digested in one canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    assert checks.run("sha256", value, {}).value == hashlib.sha256(text.encode()).hexdigest()


PERSON = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        ({"age": 3}, PERSON, True),
        ({"age": -3}, PERSON, False),
        ({}, PERSON, False),
        ([1, "a"], {"prefixItems": [{"type": "integer"}, {"type": "string"}]}, True),
        (["a", 1], {"prefixItems": [{"type": "integer"}, {"type": "string"}]}, False),
        ({"exclusive": 5}, {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"}, True),
        (5, {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 5, "exclusiveMaximum": True}, False),
        ([1, [2, []]], {"$defs": {"l": {"items": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/l"}]}}}}, True),
        ("x", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_json_schema_says_whether_a_value_fits(value, schema, fits):
    """Draft 2020-12 by default, the draft that `$schema` names otherwise, and references within the schema."""
    assert checks.run("json_schema", value, {"schema": schema}) == CheckOutcome(
        value=fits, elapsed=pytest.approx(0, abs=9)
    )


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"type": "nope"}, "SchemaError: 'nope'"),
        ({"properties": 5}, "SchemaError: 5 is not of type 'object'"),
        ({"minimum": "a"}, "SchemaError: 'a' is not of type 'number'"),
        ([], "SchemaError"),
        ("x", "SchemaError"),
        (5, "SchemaError"),
        (None, "SchemaError"),
        ({"$schema": []}, "ValueError"),
        ({"$ref": "#/$defs/gone"}, "PointerToNowhere"),
        ({"$ref": "#"}, "RecursionError"),
        ({"const": math.nan}, "ValueError"),
    ],
)
def test_a_bad_json_schema_is_an_error_not_an_answer(schema, error):
    """A schema that is none makes the verdict an error that says why."""
    verdict = checks.run("json_schema", {"a": 1}, {"schema": schema})
    assert verdict.value is None
    assert error in verdict.error


@pytest.mark.disable_socket
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/schema", "https://example.org/schema", "file:///etc/passwd"])
def test_a_reference_to_elsewhere_is_never_fetched(url):
    """A `$ref` out of the schema is an error about the reference: nobody tried to open a socket or a file for it."""
    opened = []

    def watch(event, args):
        if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request") or (
            event == "open" and args[0] == "/etc/passwd"
        ):
            opened.append((event, args))

    watching = True
    sys.addaudithook(lambda event, args: watching and watch(event, args))
    try:
        verdict = checks.run("json_schema", {"a": 1}, {"schema": {"$ref": url}})
    finally:
        watching = False
    assert f"Unresolvable: {url}" in verdict.error
    assert opened == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (None, DOCUMENT),
        ("", DOCUMENT),
        ("a", DOCUMENT["a"]),
        ("a.b", [10, {"c": None}]),
        ("a.b.0", 10),
        ("a.b.1.c", None),
        (".", 1),
        ("0", "key"),
        ("list.0.0", 1),
    ],
)
def test_a_dotted_path_leads_to_its_value(path, value):
    """Names step into objects, numbers into arrays, and no path is the whole document."""
    assert checks.select(DOCUMENT, path) == value


@pytest.mark.parametrize(
    "path", ["x", "a.x", "a.b.2", "a.b.-1", "a.b.x", "a.b.0.0", "a.b.1.c.d", "a.", "list.1.0", "1"]
)
def test_a_path_to_nowhere_is_told(path):
    """A step that is not there, beyond an array's end or into a scalar raises ValueError with the whole path."""
    with pytest.raises(ValueError, match=f"^the document has no field {path!r}$"):
        checks.select(DOCUMENT, path)


@pytest.mark.usefixtures("_own_registry")
def test_a_check_is_registered_under_its_own_or_a_given_name():
    """The decorator works bare and with a name, gives the function back, and makes it known."""

    @checks.check
    def is_even(value):
        return value % 2 == 0

    @checks.check("divides")
    def divide(value, by):
        return value % by == 0

    assert is_even(4) is True
    assert {"is_even", "divides"} <= set(checks.names())
    checks.check_known("is_even")
    checks.check_known("divides")
    assert checks.run("is_even", 3, {}).value is False
    assert checks.run("divides", 9, {"by": 3}).value is True


@pytest.mark.usefixtures("_own_registry")
def test_a_taken_check_name_is_refused():
    """Another function cannot take a check's name."""
    with pytest.raises(ValueError, match=r"^the check name 'is_prime' is taken by models.checks.prime.is_prime$"):
        checks.check("is_prime")(lambda _: True)
    assert checks.run("is_prime", 4, {}).value is False


@pytest.mark.usefixtures("_own_registry")
def test_the_same_function_may_be_registered_again():
    """A plugin that is imported twice does no harm."""
    assert checks.check(checks.is_prime) is checks.is_prime


def test_the_built_in_checks_are_known_and_sorted():
    """The three built-in checks can be asked for, and names come in order."""
    assert {"is_prime", "json_schema", "sha256"} <= set(checks.names())
    assert checks.names() == sorted(checks.names())


def test_an_unknown_check_is_refused_with_the_known_ones():
    """The message for a check that is not there lists those that are, and cuts a long name short."""
    with pytest.raises(ValidationError) as caught:
        checks.check_known("x" * 1000)
    assert caught.value.messages[0].startswith(f"unknown check '{'x' * 60}'; known: is_prime")


@pytest.mark.parametrize(
    ("name", "value", "args", "error"),
    [
        ("is_prime", "x", {}, "TypeError: takes an integer, not a string"),
        ("is_prime", 7, {"fast": True}, "TypeError: "),
        ("is_prime", 7, {"value": 8}, "TypeError: "),
        ("is_prime", "9" * 5000, {}, "ValueError: "),
        ("json_schema", 7, {}, "TypeError: "),
        ("sha256", "\ud800", {}, "UnicodeEncodeError: "),
        ("gone", 7, {}, "KeyError: 'gone'"),
    ],
)
def test_a_check_that_raises_has_no_answer_but_an_error(name, value, args, error):
    """Wrong values, wrong arguments and unknown names end as the verdict's error, never as an exception."""
    verdict = checks.run(name, value, args)
    assert verdict.value is None
    assert verdict.error.startswith(error)
    assert verdict.elapsed >= 0


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("x" * MAX_VALUE_BYTES, "ValueError: returned more than 65536 bytes of JSON"),
        (math.nan, "ValueError: "),
        ("\ud800", "UnicodeEncodeError: "),
        (object(), "TypeError: "),
        (b"bytes", "TypeError: "),
    ],
)
def test_an_answer_that_json_cannot_carry_is_an_error(answer, error):
    """A check that returns too much, or what JSON cannot say, has failed."""
    checks.check("odd")(lambda _: answer)
    verdict = checks.run("odd", None, {})
    assert verdict.value is None
    assert verdict.error.startswith(error)


@pytest.mark.usefixtures("_own_registry")
def test_an_answer_of_exactly_the_limit_is_taken():
    """The bound on what a check returns counts the bytes of its JSON, quotes included."""
    checks.check("big")(lambda _: "x" * (MAX_VALUE_BYTES - 2))
    assert checks.run("big", None, {}).error is None


@pytest.mark.usefixtures("_own_registry")
def test_a_long_complaint_is_cut():
    """An error of any length reaches the result as 400 characters at most."""

    @checks.check
    def complain(value):
        raise RuntimeError("x" * 10_000)

    assert checks.run("complain", None, {}).error == ("RuntimeError: " + "x" * 10_000)[:400]


@pytest.mark.usefixtures("_own_registry")
def test_a_child_knows_the_plugins_checks(tmp_path, monkeypatch):
    """Preparing a pool child imports the plugins, so that their checks run there."""
    (tmp_path / "millrace_plugin_for_test.py").write_text(
        "from models.checks import check\n\n\n@check\ndef double(value):\n    return 2 * value\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    load_all(["millrace_plugin_for_test"])
    assert checks.run("double", 21, {}).value == 42


def test_a_plugin_that_is_not_there_is_told():
    """A child with a missing plugin does not start silently without it."""
    with pytest.raises(PluginError, match=r"ModuleNotFoundError: .*no_such_plugin_for_millrace"):
        load_all(["no_such_plugin_for_millrace"])


@pytest.mark.usefixtures("_own_registry")
def test_a_complaint_of_lone_surrogates_can_be_told():
    """What a check raises is made Unicode text, so that a result can carry it."""

    @checks.check
    def complain(value):
        raise RuntimeError("odd \ud800")

    error = checks.run("complain", None, {}).error
    assert error == "RuntimeError: odd \\ud800"
    assert strictjson.dumps(error)


@pytest.mark.usefixtures("_own_registry")
def test_an_answer_may_nest_as_deep_as_a_document_and_no_deeper():
    """What a check returns is held to the contract's depth."""

    @checks.check
    def nest(levels):
        return [] if levels == 1 else [nest(levels - 1)]

    assert checks.run("nest", 64, {}).error is None
    assert checks.run("nest", 65, {}).error == "ValueError: returned a value nested deeper than 64 levels"


@pytest.mark.slow
def test_every_price_is_a_multiple_of_a_cent():
    """MultipleOf goes by the digits, as people do, not by the nearest doubles."""
    schema = {"items": {"multipleOf": 0.01}}
    assert checks.run("json_schema", [cents / 100 for cents in range(1, 10_000)], {"schema": schema}).value is True


@pytest.mark.parametrize(
    ("value", "divisor", "fits"),
    [(19.99, 0.01, True), (19.995, 0.01, False), (1e308, 0.01, True), (1e-300, 1e-301, True), (0.3, 0.1, True),
     (9007199254740993, 2, False), (4.5, 1.5, True), (True, 2, True), ("x", 2, True), (0, 0.1, True)],
)  # fmt: skip
@pytest.mark.parametrize("dialect", ["draft-04", "draft-07", "draft/2020-12"])
def test_multiple_of_goes_by_the_digits(value, divisor, fits, dialect):
    """Far from one as well, in each dialect; what is no number fits anyway."""
    schema = {"$schema": f"http://json-schema.org/{dialect}/schema#", "multipleOf": divisor}
    assert checks.run("json_schema", value, {"schema": schema}).value is fits


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("end", ["", "#"])
@pytest.mark.parametrize(("dialect", "fits"), [("draft-07", True), ("draft/2019-09", True), ("draft/2020-12", False)])
def test_a_dialect_is_known_however_its_name_is_written(scheme, end, dialect, fits):
    """Http or https, with or without a fragment: `items` as an array means what it meant in that dialect."""
    schema = {"$schema": f"{scheme}://json-schema.org/{dialect}/schema{end}", "items": [{"type": "string"}]}
    verdict = checks.run("json_schema", ["a", 1], {"schema": schema})
    assert (verdict.value, verdict.error is None) == ((True, True) if fits else (None, False))


@pytest.mark.parametrize("named", ["https://json-schema.org/draft-08/schema", "urn:x", "", 7, []])
def test_a_dialect_that_is_not_known_makes_the_request_invalid(named):
    """It is named when the request is read, not judged by another dialect."""
    with pytest.raises(ValidationError, match="unknown dialect"):
        checks.check_call(Call("json_schema", None, {"schema": {"$schema": named}}))


DRAFTS = ["draft-03", "draft-04", "draft-06", "draft-07", "draft/2019-09", "draft/2020-12"]
TUPLE = {"items": [{"type": "string"}]}
"""What only dialects before 2020-12 know."""


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("end", ["", "#"])
def test_multiple_of_goes_by_the_digits_wherever_a_dialect_is_named(draft, scheme, end):
    """In the whole, behind a reference to it, and in a resource of its own."""
    named = f"{scheme}://json-schema.org/{draft}/schema{end}"
    keyword = "divisibleBy" if draft == "draft-03" else "multipleOf"
    cents = {"$schema": named, keyword: 0.01}
    schemas = [
        (cents, 19.99),
        ({"$schema": named, "definitions": {"c": {keyword: 0.01}}, "properties": {"p": {"$ref": "#/definitions/c"}}},
         {"p": 19.99}),
        ({"$schema": named, "properties": {"p": {"$ref": "#"}}, keyword: 0.01}, {"p": 19.99}),
        ({"items": cents}, [19.99]),
        ({"items": {"$id": "https://example.com/c", "id": "https://example.com/c", **cents}}, [19.99]),
    ]  # fmt: skip
    if draft == "draft/2020-12":
        schemas += [({"$schema": named, "$dynamicAnchor": "n", "multipleOf": 0.01, "items": {"$dynamicRef": "#n"}},
                     [19.99])]  # fmt: skip
    for schema, value in schemas:
        assert checks.run("json_schema", value, {"schema": schema}).value is True, schema
        assert checks.run("json_schema", json.loads(json.dumps(value).replace("19.99", "19.995")), {"schema": schema}
                          ).value is False, schema  # fmt: skip


@pytest.mark.parametrize(
    "named", ["http://json-schema.org/draft-07/schema", "https://json-schema.org/draft-07/schema#"]
)
@pytest.mark.parametrize(
    "around",
    [
        lambda own: {"items": {"$id": "https://example.com/a", **own}},
        lambda own: {"items": {"$ref": "/a"}, "$id": "https://example.com/", "$defs": {"a": {"$id": "/a", **own}}},
        lambda own: {"items": {"$ref": "https://example.com/a#/definitions/b"},
                     "$defs": {"a": {"$id": "https://example.com/a", "$schema": own["$schema"],
                                     "definitions": {"b": TUPLE}}}},
        lambda own: {"$schema": "https://json-schema.org/draft/2019-09/schema",
                     "items": {"allOf": [{"$id": "https://example.com/a", **own}]}},
    ],
)  # fmt: skip
def test_an_embedded_resource_is_judged_by_its_own_dialect(around, named):
    """JSON Schema 2020-12, sections 8.1.1 and 9.3.3: also where a reference leads into it."""
    schema = around({"$schema": named, **TUPLE})
    checks.check_call(Call("json_schema", None, {"schema": schema}))
    for value, fits in (([["a", 1]], True), ([[1]], False)):
        outcome = checks.run("json_schema", value, {"schema": schema})
        assert (outcome.value, outcome.error) == (fits, None)


def test_what_surrounds_an_embedded_resource_keeps_its_dialect():
    """A keyword of draft-07 is an error outside of it, and one of 2020-12 means nothing within."""
    old = {"$id": "https://example.com/a", "$schema": "http://json-schema.org/draft-07/schema#"}
    bad = {"$defs": {"a": old, "b": TUPLE}}
    assert "SchemaError" in checks.run("json_schema", 1, {"schema": bad}).error
    assert "SchemaError" in checks.run("json_schema", 1, {"schema": {"$defs": {"a": {**old, "type": "no"}}}}).error
    inside = {"items": {**old, "prefixItems": [False]}, "prefixItems": [{"type": "array"}]}
    assert checks.run("json_schema", [[1], [1]], {"schema": inside}).value is True
    assert checks.run("json_schema", [1], {"schema": inside}).value is False


@pytest.mark.parametrize("keyword", ["$defs", "properties", "definitions", "items", "not", "allOf"])
def test_an_unknown_dialect_of_an_embedded_resource_makes_the_request_invalid(keyword):
    """It is named as it is at the top."""
    own = {"$id": "https://example.com/a", "$schema": "https://example.com/own"}
    schema = {keyword: [own] if keyword == "allOf" else own if keyword in ("items", "not") else {"a": own}}
    with pytest.raises(ValidationError, match=r"unknown dialect 'https://example.com/own'"):
        checks.check_call(Call("json_schema", None, {"schema": {"$id": "https://example.com/", "items": schema}}))


@pytest.mark.parametrize(
    "schema",
    [{"const": {"$schema": "urn:x"}}, {"default": {"$schema": "urn:x"}}, {"enum": [{"$schema": "urn:x"}]},
     {"properties": {"$schema": {"const": "urn:x"}}}, {"dependentRequired": {"$schema": ["a"]}}],
)  # fmt: skip
def test_what_only_looks_like_a_dialect_is_none(schema):
    """A value, and a property of that name."""
    checks.check_call(Call("json_schema", None, {"schema": schema}))
    value = schema.get("const", {"$schema": "urn:x", "a": 1})
    assert checks.run("json_schema", value, {"schema": schema}).value is ("enum" not in schema)
