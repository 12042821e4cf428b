"""JSON by a JSON Schema: read as JSON, written if it fits."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from models import strictjson
from models.errors import InvalidDocument
from streams.registry.client import Registered
from streams.registry.json_schema import JsonCodec

ADDRESS = {"$id": "http://shop.example/address.json", "type": "object", "required": ["zip"],
           "properties": {"zip": {"type": "string", "pattern": "^[0-9]+$"}}}  # fmt: skip
ORDER = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"id": {"type": "integer"}, "to": {"$ref": "address.json"}, "code": {"pattern": "^(?!x)"}},
    "additionalProperties": False,
}


def codec_of(schema=ORDER, **references):
    texts = {name: json.dumps(each) for name, each in references.items()}
    return JsonCodec(Registered(7, "JSON", json.dumps(schema), texts))


CODEC = codec_of(**{"address.json": ADDRESS})


def test_a_value_is_the_json_that_it_is():
    """With its digits, both ways."""
    data = b'{"id":5,"to":{"zip":"1"}}'
    for decoded in (CODEC.decode(data), CODEC.decode_in_steps(data)):
        assert decoded == {"id": 5, "to": {"zip": "1"}}
        assert CODEC.encode(decoded) == CODEC.encode_in_steps(decoded) == data
    digits = b'[1.10,-0,12345678901234567890.5,"\\u0000\xc3\xa4"]'
    plain = codec_of(schema={})
    for decoded in (plain.decode(digits), plain.decode_in_steps(digits)):
        assert plain.encode(decoded) == plain.encode_in_steps(decoded) == digits
    assert plain.encode(Decimal("1.10")) == b"1.10"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"id": "x"}, '$.id: does not fit type: "integer"'),
        ({"to": {"zip": "abc"}}, '$.to.zip: does not fit pattern: "^[0-9]+$"'),
        ({"to": {}}, '$.to: does not fit required: ["zip"]'),
        ({"more": 1}, "$: does not fit additionalProperties: false"),
        ({"code": "x"}, "$.code: does not fit pattern"),
        ({"id": 1.5}, "$.id: does not fit type"),
    ],
)
def test_what_does_not_fit_is_named(value, reason):
    """The error has the place and the rule, and none of the value."""
    for encode in (CODEC.encode, CODEC.encode_in_steps):
        with pytest.raises(InvalidDocument) as caught:
            encode(value)
        assert reason in str(caught.value)


def test_what_json_cannot_say_does_not_fit():
    """NaN is no number."""
    with pytest.raises(InvalidDocument, match="not JSON"):
        codec_of(schema={}).encode(float("nan"))


def test_a_reference_that_is_not_there_is_named():
    """Nothing is fetched, whatever a schema refers to."""
    with pytest.raises(InvalidDocument, match=r"address\.json"):
        codec_of().encode({"to": {}})


def test_a_pattern_takes_linear_time():
    """A backtracking engine would take hours for this."""
    codec = codec_of(schema={"pattern": "^(a+)+$"})
    with pytest.raises(InvalidDocument, match="pattern"):
        codec.encode("a" * 5_000 + "!")


@pytest.mark.parametrize("data", [b"{", b"", b"[" * 100 + b"]" * 100, b"[" * 100_000, b"[NaN]", b'{"a":1,"a":2}',
                                  b"\xff", b'"\\ud800"', b"1 2", b"1e999"])  # fmt: skip
def test_what_is_not_json_is_refused(data):
    """By both ways to read alike."""
    reasons = []
    for decode in (CODEC.decode, CODEC.decode_in_steps):
        with pytest.raises(ValueError) as caught:
            decode(data)
        reasons.append(str(caught.value).replace("too deep", "deeper than 64 levels"))
    assert reasons[0] == reasons[1] or "[[" in data.decode(errors="replace")


@pytest.mark.parametrize("text", ["{", '{"type": "nothing"}', "[" * 100_000, '{"properties": 5}'])
def test_what_is_no_schema_is_refused(text):
    """It is named as such."""
    with pytest.raises(ValueError):
        JsonCodec(Registered(7, "JSON", text, {}))


def test_reading_in_steps_is_reading():
    """The scanner in Python reads what the compiled one does."""
    text = json.dumps({"a": [1, 2.5, None, True, {"b": "ü\n"}], "c": -0.0, "d": 10**30}).encode()
    assert strictjson.loads_in_steps(text) == strictjson.loads(text, exact=True)


@pytest.mark.parametrize("dialect", ["http://json-schema.org/draft-07/schema#", None])
@pytest.mark.parametrize(
    ("value", "fits"), [(b"19.99", True), (b"0.07", True), (b"0.005", False), (b"1e-999999999", False)]
)
def test_multiples_are_those_of_decimal_digits(dialect, value, fits):
    """Doubles would refuse 19.99 as a multiple of 0.01; also in a schema that is referred to, and names its dialect."""
    price = {"multipleOf": 0.01} | ({"$schema": dialect} if dialect else {})
    for codec in (codec_of(price), codec_of({"$ref": "price"}, price=price)):
        if fits:
            assert codec.encode(strictjson.loads(value, exact=True)) == value
        else:
            with pytest.raises(InvalidDocument, match="multipleOf"):
                codec.encode(strictjson.loads(value, exact=True))


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (b'[1,true,0,false,null,"1",[1],{"a":1}]', True),
        (b"[1,1.0]", False),
        (b"[1.10,1.1]", False),
        (b"[0,-0.0]", False),
        (b"[100,1e2]", False),
        (b'[{"a":1,"b":[2]},{"b":[2.0],"a":1}]', False),
        (b"[[1],[true]]", True),
        (b"[1e-999999999,1e-999999998]", True),
    ],
)
def test_unique_items_are_those_of_json_schema(value, fits):
    """By value: digits and the order of names make no difference, types do."""
    codec = codec_of({"uniqueItems": True})
    if fits:
        assert codec.encode(strictjson.loads(value, exact=True)) == value
    else:
        with pytest.raises(InvalidDocument, match="uniqueItems"):
            codec.encode(strictjson.loads(value, exact=True))


def test_unique_items_take_linear_time():
    """Each of 20,000 objects compared with all others would take minutes."""
    codec_of({"uniqueItems": True}).encode([{"number": number} for number in range(20_000)])


def test_a_pattern_may_be_one_of_another_language():
    """What a registry takes is used: by RE2 if that knows it, and values are refused, not records, if nobody does."""
    letters = codec_of({"pattern": r"^\p{L}+$"})
    assert letters.encode("ä") == '"ä"'.encode()
    with pytest.raises(InvalidDocument, match="pattern"):
        letters.encode("1")
    with pytest.raises(InvalidDocument, match="cannot be judged"):
        codec_of({"pattern": r"^(?<name>[\p{L}--a])\k<name>$"}).encode("a")


def test_a_number_that_cannot_be_judged_does_not_fit():
    """One of thousands of decimals."""
    with pytest.raises(InvalidDocument, match="cannot be judged"):
        codec_of({"multipleOf": 0.01}).encode(strictjson.loads(b"0." + b"1" * 5_000, exact=True))


def test_a_reference_is_found_beside_the_schema_s_own_id():
    """A name is relative to the `$id` of who refers to it, as Confluent's serializers have it, and itself."""
    bare = {name: each for name, each in ADDRESS.items() if name != "$id"}
    for address in (bare, ADDRESS):
        codec = codec_of(ORDER | {"$id": "http://shop.example/order.json"}, **{"address.json": address})
        assert codec.encode({"to": {"zip": "1"}}) == b'{"to":{"zip":"1"}}'
        with pytest.raises(InvalidDocument, match="zip"):
            codec.encode({"to": {"zip": "x"}})
