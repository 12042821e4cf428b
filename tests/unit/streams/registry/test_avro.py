"""Avro's values as plain JSON-like values, and what hostile bytes cannot do."""

from __future__ import annotations

import io
import json
from decimal import Decimal

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidDocument
from streams.registry.avro import AvroCodec
from streams.registry.client import Registered


def codec_of(schema, references=None):
    return AvroCodec(Registered(7, "AVRO", json.dumps(schema), references or {}))


def record(**fields):
    return {"type": "record", "name": "x.R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


def logical(kind, name, **more):
    return {"type": kind, "logicalType": name, **more}


def number(value):
    """Write an integer as Avro does."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, "long", value)
    return stream.getvalue()


DAY = 19_782  # 2024-02-29
SECONDS = DAY * 86_400 + 3_723
NAMED_FIXED = {"type": "fixed", "name": "F", "size": 16}
LOGICAL = [
    (logical("int", "date"), number(DAY), "2024-02-29"),
    (logical("int", "time-millis"), number(3_723_004), "01:02:03.004"),
    (logical("long", "time-micros"), number(3_723_000_005), "01:02:03.000005"),
    (logical("long", "timestamp-millis"), number(SECONDS * 1000 + 4), "2024-02-29T01:02:03.004Z"),
    (logical("long", "timestamp-micros"), number(SECONDS * 10**6 + 4), "2024-02-29T01:02:03.000004Z"),
    (logical("long", "timestamp-nanos"), number(SECONDS * 10**9 + 4), "2024-02-29T01:02:03.000000004Z"),
    (logical("long", "local-timestamp-millis"), number(SECONDS * 1000 + 4), "2024-02-29T01:02:03.004"),
    (logical("long", "timestamp-millis"), number(-1), "1969-12-31T23:59:59.999Z"),
    (logical("long", "timestamp-millis"), number(2**63 - 1), 2**63 - 1),
    (logical("int", "date"), number(2**31 - 1), 2**31 - 1),
    (logical("int", "time-millis"), number(-1), -1),
    (logical("bytes", "decimal", precision=10, scale=2), b"\x04\xfb\x32", Decimal("-12.30")),
    (logical("bytes", "decimal", precision=4), b"\x02\x07", Decimal(7)),
    ({**NAMED_FIXED, "logicalType": "decimal", "precision": 9, "scale": 3}, bytes(15) + b"\x07", Decimal("0.007")),
    (record(d=logical("bytes", "decimal")), b"\x02\x07", {"d": "Bw=="}),
    (record(d=logical("bytes", "decimal", precision=2, scale=3)), b"\x02\x07", {"d": "Bw=="}),
    (logical("string", "uuid"), b"\x02x", "x"),
    ({**NAMED_FIXED, "logicalType": "uuid"}, bytes(15) + b"\x07", "00000000-0000-0000-0000-000000000007"),
    (NAMED_FIXED, bytes(16), "AAAAAAAAAAAAAAAAAAAAAA=="),
    (logical("long", "unheard-of"), number(5), 5),
    (record(b="bytes"), b"\x04\x00\xff", {"b": "AP8="}),
    (["null", "string"], b"\x00", None),
    ({"type": "map", "values": "int"}, b"\x02\x02a\x0a\x00", {"a": 5}),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x02", "B"),
    (record(d="double"), b"\x00\x00\x00\x00\x00\x00\xf8\x7f", {"d": "NaN"}),
    (record(d="double"), b"\x00\x00\x00\x00\x00\x00\xf0\xff", {"d": "-Infinity"}),
    (record(f="float"), b"\x00\x00\x80\x7f", {"f": "Infinity"}),
    (record(d="double"), b"\x00\x00\x00\x00\x00\x00\xf8\x3f", {"d": 1.5}),
    (record(i={"type": "record", "name": "N", "fields": [{"name": "y", "type": {"type": "int"}}]}), b"\x02",
     {"i": {"y": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "data", "value"), LOGICAL)
def test_each_type_becomes_a_plain_value_and_back(schema, data, value):
    """Both readers agree, and the value is written as the same bytes."""
    codec = codec_of(schema)
    for decoded in (codec.decode(data), codec.decode_in_steps(data)):
        assert decoded == value
        assert type(decoded) is type(value)
    assert codec.encode(value) == codec.encode_in_steps(value) == data or isinstance(value, dict)
    assert codec.decode(codec.encode(value)) == value


def test_top_level_bytes_have_no_length():
    """As Confluent's serializers write them."""
    codec = codec_of("bytes")
    assert codec.decode(b"\x00\xff") == "AP8="
    assert codec.encode("AP8=") == codec.encode_in_steps("AP8=") == b"\x00\xff"
    long = bytes(300)
    assert codec.encode(codec.decode(long)) == long


def test_a_bare_name_is_a_schema():
    """Some producers register a primitive without quotes."""
    assert AvroCodec(Registered(7, "AVRO", "long", {})).decode(b"\x02") == 1


def test_references_are_resolved():
    """A schema may use types of others, each of those that come before it."""
    zone = {"type": "record", "name": "x.Zone", "fields": [{"name": "code", "type": "string"}]}
    address = {"type": "record", "name": "x.Address", "fields": [{"name": "zone", "type": "x.Zone"}]}
    references = {"x.Zone": json.dumps(zone), "x.Address": json.dumps(address)}
    codec = codec_of(record(a="x.Address", b=["null", "x.Address"]), references)
    value = {"a": {"zone": {"code": "A"}}, "b": {"zone": {"code": "B"}}}
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (["x.Zone", "x.Address"], [{"code": "A"}, {"zone": {"code": "B"}}]),
        (["null", "x.Address"], [None, {"zone": {"code": "B"}}]),
        ({"type": "array", "items": "x.Address"}, [[{"zone": {"code": "B"}}, {"zone": {"code": "C"}}]]),
        ({"type": "map", "values": ["null", "x.Zone"]}, [{"a": None, "b": {"code": "A"}}]),
        ("x.Address", [{"zone": {"code": "B"}}]),
    ],
)
def test_a_schema_may_be_of_references_alone(schema, values):
    """Several events in one topic are a union of types that others define."""
    zone = {"type": "record", "name": "x.Zone", "fields": [{"name": "code", "type": "string"}]}
    address = {"type": "record", "name": "x.Address", "fields": [{"name": "zone", "type": "x.Zone"}]}
    codec = codec_of(schema, {"x.Zone": json.dumps(zone), "x.Address": json.dumps(address)})
    for value in values:
        for data in (codec.encode(value), codec.encode_in_steps(value)):
            assert codec.decode(data) == codec.decode_in_steps(data) == value


def test_a_whole_number_is_a_default_of_a_float():
    """As people write it; also where a value may hold what is no number."""
    number = {"name": "d", "type": "double", "default": 0}
    other = {"name": "f", "type": ["float", "null"], "default": 1}
    codec = codec_of({"type": "record", "name": "R", "fields": [number, other]})
    assert codec.decode(codec.encode({})) == {"d": 0.0, "f": 1.0}
    assert codec.decode(b"\x00\x00\x00\x00\x00\x00\xf8\x7f\x02") == {"d": "NaN", "f": None}


def test_defaults_fill_in_what_is_missing():
    """Also those of bytes, which a schema writes as characters."""
    schema = {"type": "record", "name": "R", "fields": [
        {"name": "b", "type": "bytes", "default": "\u00ff"},
        {"name": "u", "type": ["bytes", "null"], "default": "A"},
        {"name": "d", "type": logical("bytes", "decimal", precision=4, scale=1), "default": "\u0007"},
        {"name": "n", "type": ["null", "string"], "default": None},
        {"name": "i", "type": "int", "default": 3}]}  # fmt: skip
    codec = codec_of(schema)
    assert codec.decode(codec.encode({})) == {"b": "/w==", "u": "QQ==", "d": Decimal("0.7"), "n": None, "i": 3}


ORDER = record(
    id="long",
    at=logical("long", "timestamp-millis"),
    price=logical("bytes", "decimal", precision=5, scale=2),
    note=["null", "string"],
    day=logical("int", "date"),
    clock=logical("int", "time-millis"),
    photo="bytes",
    code={**NAMED_FIXED, "logicalType": "uuid"},
    ratio="double",
)
FITS = {
    "id": 1, "at": "2024-02-29T01:02:03Z", "price": "1.5", "note": None, "day": "2024-02-29", "clock": "01:02:03",
    "photo": "AAE=", "code": "00000000-0000-0000-0000-000000000007", "ratio": Decimal("0.5"),
}  # fmt: skip


def test_a_value_may_be_written_as_people_write_it():
    """Fewer digits of a second, another zone, a decimal as text, a number or a Decimal."""
    codec = codec_of(ORDER)
    decoded = codec.decode(codec.encode({**FITS, "at": "2024-02-29T02:02:03.5+01:00", "price": 1.5}))
    assert decoded["at"] == "2024-02-29T01:02:03.500Z"
    assert (decoded["price"], decoded["ratio"], decoded["clock"]) == (Decimal("1.50"), 0.5, "01:02:03.000")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "x"}, "x.R.id: a string, not long"),
        ({"id": 1.5}, "x.R.id: a number, not long"),
        ({"id": True}, "x.R.id: a boolean, not long"),
        ({"id": 2**63}, "x.R.id: an integer, not long"),
        ({"id": ...}, "x.R.id: null or missing, not long"),
        ({"more": 1}, "more fields than the schema specifies: more"),
        ({"at": "yesterday"}, "x.R.at: a string, not long (timestamp-millis)"),
        ({"at": "2024-02-30T01:02:03Z"}, "x.R.at: a string, not long (timestamp-millis)"),
        ({"at": "2024-02-29T01:02:03.0001Z"}, "x.R.at: a string, not long (timestamp-millis)"),
        ({"day": "2024-02-30"}, "x.R.day: a string, not int (date)"),
        ({"clock": "25:00:00"}, "x.R.clock: a string, not int (time-millis)"),
        ({"price": "1.234"}, "x.R.price: a string, not decimal(5,2)"),
        ({"price": Decimal(1000)}, "x.R.price: a number, not decimal(5,2)"),
        ({"price": Decimal("1E+100000000")}, "x.R.price: a number, not decimal(5,2)"),
        ({"price": "much"}, "x.R.price: a string, not decimal(5,2)"),
        ({"price": "1_0"}, "x.R.price: a string, not decimal(5,2)"),
        ({"price": "\N{ARABIC-INDIC DIGIT ONE}"}, "x.R.price: a string, not decimal(5,2)"),
        ({"price": True}, "x.R.price: a boolean, not decimal(5,2)"),
        ({"note": 5}, "x.R.note: an integer, not null; x.R.note: an integer, not string"),
        ({"photo": "not base64"}, "x.R.photo: a string, not bytes (base64)"),
        ({"code": "7"}, "x.R.code: a string, not fixed x.F (uuid)"),
        ({"ratio": "much"}, "x.R.ratio: a string, not double"),
    ],
)
def test_what_does_not_fit_is_named(change, reason):
    """The error names field, what is there and what the schema wants."""
    value = {name: each for name, each in {**FITS, **change}.items() if each is not ...}
    with pytest.raises(InvalidDocument) as caught:
        codec_of(ORDER).encode(value)
    assert reason in str(caught.value)


def test_what_is_no_record_does_not_fit():
    """The whole value may be of the wrong type."""
    with pytest.raises(InvalidDocument, match=r"the value: an array, not record x\.R"):
        codec_of(ORDER).encode([])


NODE = {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}


def test_a_recursive_schema_reads_values_of_a_reasonable_depth():
    """60 levels are read, 65 are not."""
    codec = codec_of(NODE)
    assert codec.decode(b"\x02" * 60 + b"\x00")["next"]["next"] is not None
    with pytest.raises(ValueError, match="deep"):
        codec.decode(b"\x02" * 65 + b"\x00")


@pytest.mark.parametrize("items", ["null", record(), record(n="null"), {"type": "fixed", "name": "E", "size": 0}])
def test_an_array_of_nothing_is_refused(items):
    """Ten bytes of it could be a list of any length."""
    with pytest.raises(ValueError, match="items take no bytes"):
        codec_of(["null", {"type": "array", "items": items}])


@pytest.mark.parametrize(
    ("schema", "data", "reason"),
    [
        ("long", b"", "too early"),
        ("string", b"\x10abc", "too early"),
        ("string", b"\xfe\xff\xff\xff\x0fabc", "too early"),
        ("string", b"\x04\xff\xff", "UnicodeDecodeError"),
        ("long", b"\xff" * 50, "IndexError|ten bytes"),
        (["null", "int"], b"\x0a", "Error"),
        ({"type": "array", "items": "long"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f\x02", "too early|1000000 items"),
        ("long", b"\x02\x02", "1 bytes are left over"),
        (logical("bytes", "decimal", precision=4), number(1_000) + bytes(1_000), "a decimal of 1000 bytes"),
    ],
)
def test_bytes_of_another_schema_are_refused(schema, data, reason):
    """Whatever they are, by both readers."""
    codec = codec_of(record(x=schema))
    for decode in (codec.decode, codec.decode_in_steps):
        with pytest.raises(ValueError, match=reason):
            decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data):
    """Nothing but ValueError comes out, and what is read can be read again once it is written."""
    codec = codec_of(ORDER)
    try:
        value = codec.decode(data)
    except ValueError:
        return
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("text", ["{", '{"type": "record"}', '{"type": "nothing"}', '["Unknown"]', "5", '{"type": 5}',
                                  '{"type": "record", "name": "R", "fields": [5]}'])  # fmt: skip
def test_what_is_no_schema_is_refused(text):
    """It is named as such."""
    with pytest.raises(ValueError, match="not an Avro schema"):
        AvroCodec(Registered(7, "AVRO", text, {}))


def test_a_number_without_an_end_is_refused():
    """It ends after ten bytes, whatever comes behind them."""
    codec = codec_of({"type": "array", "items": NODE | {"fields": [*NODE["fields"], {"name": "n", "type": "long"}]}})
    with pytest.raises(ValueError, match="ten bytes"):
        codec.decode(b"\x02" + b"\xff" * 12)


@pytest.mark.slow
def test_the_items_of_a_value_are_bounded():
    """A megabyte of them is one thing, eight are gigabytes of memory; in one array or in many."""
    codec = codec_of({"type": "array", "items": {"type": "map", "values": "boolean"}})
    data = b"\x01\x10" + b"\x02\x02a\x01\x00\x00"
    assert codec.decode(data) == codec.decode_in_steps(data) == [{"a": True}]
    many = codec_of({"type": "array", "items": "boolean"})
    assert len(many.decode_in_steps(number(400_000) + bytes(400_000) + b"\x00")) == 400_000
    for blocks in (number(1_000_001), number(600_000) + bytes(600_000) + number(-600_000) + b"\x00"):
        with pytest.raises(ValueError, match="more than 1000000 items"):
            many.decode_in_steps(blocks)


@pytest.mark.parametrize(
    ("schema", "kib"),
    [
        (record(name="string", total="double"), 64),
        ({"type": "array", "items": record(sku="string", quantity="int", price="double")}, 64),
        ({"type": "array", "items": "int"}, 32),
        ({"type": "array", "items": record(yes="boolean")}, 10),
        ({"type": "array", "items": ["null", record(yes="boolean")]}, 16),
        ({"type": "map", "values": logical("int", "date")}, 7),
        ({"type": "array", "items": "bytes"}, 4),
    ],
)
def test_what_is_large_depends_on_what_a_byte_may_be(schema, kib):
    """64 KiB of a record's fields are read in no time, of one-byte records in 60 ms."""
    codec = codec_of(schema)
    assert not codec.is_large(bytes(kib << 10))
    assert codec.is_large(bytes((kib + 1 << 10) + 1))


def test_a_number_beyond_a_float_is_refused():
    """Fastavro writes an infinity; a double takes it, and what is not a number has its name."""
    for number in (1e300, -3.5e38, 10**40):
        with pytest.raises(InvalidDocument, match="a number beyond its range, not float"):
            codec_of("float").encode(number)
    with pytest.raises(InvalidDocument, match="a number beyond its range, not double"):
        codec_of("double").encode(Decimal("1e400"))
    assert codec_of("float").decode(codec_of("float").encode(3.4e38)) == pytest.approx(3.4e38)
    assert codec_of("double").decode(codec_of("double").encode(1e300)) == 1e300
    assert codec_of(["float", "double"]).decode(codec_of(["float", "double"]).encode(1e300)) == 1e300
    assert codec_of("float").decode(codec_of("float").encode("-Infinity")) == "-Infinity"
