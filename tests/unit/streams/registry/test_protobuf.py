"""Protobuf's values as its JSON mapping has them."""

from __future__ import annotations

import base64
import contextlib
from decimal import Decimal

import pytest
from google.protobuf import any_pb2, descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidDocument
from streams.registry.client import Registered
from streams.registry.protobuf import ProtobufCodec
from tests.unit.streams.registry.messages import ADDRESS, DECODED, ORDER, Line, Order, Other, order


def text_of(file):
    return base64.standard_b64encode(file.SerializeToString()).decode()


def codec_of(file=ORDER, **references):
    refers = {"common/address.proto": text_of(ADDRESS)} | references
    return ProtobufCodec(Registered(7, "PROTOBUF", text_of(file), refers))


CODEC = codec_of()


def test_a_message_is_what_its_json_mapping_says():
    """Under the names of the .proto file; what is not set has its default, unless it may be absent."""
    assert CODEC.decode(b"\x00" + order().SerializeToString()) == DECODED
    empty = {"order_id": "", "cents": "0", "price": 0.0, "count": 0, "tags": [], "photo": ""}
    assert CODEC.decode(b"\x00") == empty


def test_the_indexes_choose_the_message():
    """Of a file's messages, and of those within them; the long way to say the first is read too."""
    assert CODEC.decode(b"\x02\x02" + Other(number=5).SerializeToString()) == {"number": 5}
    assert CODEC.decode(b"\x04\x00\x00" + Line(sku="s").SerializeToString()) == {"sku": "s"}
    assert CODEC.decode(b"\x02\x00" + Order(count=3).SerializeToString())["count"] == 3


def test_a_value_is_written_as_the_first_message():
    """What was read is written again; a Decimal, or a number as text, is a number too."""
    data = CODEC.encode(DECODED)
    assert data == CODEC.encode_in_steps(DECODED)
    assert Order.FromString(data[1:]) == order()
    assert Order.FromString(CODEC.encode({"price": Decimal("1.5"), "cents": 5, "count": "6"})[1:]).price == 1.5


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"nope": 1}, 'no field named "nope" at "Order"'),
        ({"address": {"zip": 1}}, 'no field named "zip" at "Order.address"'),
        ({"cents": "much"}, "cents"),
        ({"count": 2**40}, "count field: Value out of range"),
        ({"tags": "a"}, "tags"),
        ({"address": 5}, "address"),
        ({"photo": 5}, "photo"),
        ({"placed_at": "yesterday"}, "placed_at"),
        ([], "a list, not a shop.Order"),
    ],
)
def test_what_does_not_fit_is_named(value, reason):
    """The error names the field, and lists none that are there."""
    with pytest.raises(InvalidDocument, match=r"shop\.Order") as caught:
        CODEC.encode(value)
    assert reason in str(caught.value)
    assert "Available" not in str(caught.value)


def nested(depth):
    """Return an order in an order, and so on."""
    made = bytearray()
    for _ in range(depth):
        length, size = len(made), bytearray()
        while length > 0x7F:
            size.append(length & 0x7F | 0x80)
            length >>= 7
        made = bytearray(b"\x52") + size + bytes([length]) + made
    return bytes(made)


@pytest.mark.parametrize("depth", [70, 90, 5_000])
def test_messages_that_nest_too_deep_are_refused(depth):
    """By Protobuf's own limit, and by ours of JSON."""
    assert CODEC.decode(b"\x00" + nested(20))["parent"]["parent"] is not None
    with pytest.raises(ValueError, match=r"(?i)deep|depth"):
        CODEC.decode(b"\x00" + nested(depth))


def with_any(made):
    """Return an order that holds a value of any type."""
    found = Order()
    found.more.ParseFromString(made.SerializeToString())
    return b"\x00" + found.SerializeToString()


def test_messages_of_any_type_that_nest_too_deep_are_refused():
    """An Any holds an Any holds an Any."""
    made = any_pb2.Any()
    for _ in range(400):
        outer = any_pb2.Any()
        outer.Pack(made)
        made = outer
    with pytest.raises(ValueError, match="deep"):
        CODEC.decode(with_any(made))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not say which message"),
        (b"\xff\xff\xff\xff\xff\xff", "does not say which message"),
        (b"\x09", "by -5 indexes"),
        (b"\x90\x03", "by 200 indexes"),
        (b"\x02", "does not say which message"),
        (b"\x02\x08", "names message 4"),
        (b"\x02\x01", "names message -1"),
        (b"\x04\x00\x02", r"names message 0\.1"),
        (b"\x00\x0a\x05a", r"not a shop\.Order"),
        (b"\x00\x0a\x01\xff", r"not a shop\.Order"),
    ],
)
def test_bytes_of_another_schema_are_refused(data, reason):
    """Whatever they are."""
    with pytest.raises(ValueError, match=reason):
        CODEC.decode(data)


def test_an_unknown_type_in_any_is_refused():
    """Its fields are known to nobody."""
    made = any_pb2.Any(type_url="type.googleapis.com/un.Known", value=b"x")
    with pytest.raises(ValueError, match=r"not a shop\.Order"):
        CODEC.decode(with_any(made))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_value_or_refused(data):
    """Nothing but ValueError comes out."""
    with contextlib.suppress(ValueError):
        CODEC.decode(b"\x00" + data)


@pytest.mark.parametrize("text", ['syntax = "proto3"; message A { string x = 1; }', "ÄÖÜ", "AAA", "////"])
def test_a_schema_as_text_says_what_to_change(text, monkeypatch):
    """Registries that know no format=serialized return what was registered; without protoc it is of no use."""
    monkeypatch.setattr("streams.registry.protobuf.protoc", lambda: None)
    with pytest.raises(ValueError, match="format=serialized"):
        ProtobufCodec(Registered(7, "PROTOBUF", text, {}))


TEXT = """
syntax = "proto3";
package shop;
import "common/address.proto";
import "google/protobuf/timestamp.proto";
message Order {
  int64 count = 1;
  common.Address address = 2;
  google.protobuf.Timestamp at = 3;
  repeated Line lines = 4;
  message Line { string sku = 1; }
}
"""
COMMON = 'syntax = "proto3"; package common; message Address { string street = 1; }'


def test_a_schema_as_text_is_compiled_where_protoc_is():
    """As Java's serializers register them: with references, Google's own files, nested messages by index."""
    codec = ProtobufCodec(Registered(7, "PROTOBUF", TEXT, {"common/address.proto": COMMON}))
    order = {"count": "5", "address": {"street": "x"}, "at": "2026-01-01T00:00:00Z", "lines": [{"sku": "q"}]}
    assert codec.decode(codec.encode(order)) == order
    assert codec.decode(b"\x04\x00\x00\x0a\x01q") == {"sku": "q"}


@pytest.mark.parametrize(
    ("text", "references", "reason"),
    [
        ('syntax = "proto3"; message A { strin x = 1; }', {}, r'not a Protobuf schema: default:1:32: "strin" is not'),
        ('syntax = "proto3"; import "no.proto"; message A { }', {}, "no.proto: File not found"),
        ('syntax = "proto3"; message A { }', {"../x.proto": COMMON}, r"'\.\./x\.proto', which is no file's name"),
        ('syntax = "proto3"; message A { }', {"/x.proto": COMMON}, "which is no file's name"),
        ('syntax = "proto3"; message A { }', {"-I/x": COMMON}, "which is no file's name"),
    ],
)
def test_text_that_does_not_compile_is_refused(text, references, reason):
    """As protoc says; no reference is written elsewhere than where it is compiled."""
    with pytest.raises(ValueError, match=reason):
        ProtobufCodec(Registered(7, "PROTOBUF", text, references))


def test_a_schema_whose_imports_are_missing_is_refused():
    """It is named as such."""
    with pytest.raises(ValueError, match=r"not a Protobuf schema: .*common/address.proto"):
        ProtobufCodec(Registered(7, "PROTOBUF", text_of(ORDER), {}))


def test_a_file_of_googles_among_the_references_is_no_harm():
    """Some producers register those too; ours are used."""
    stamp = descriptor_pb2.FileDescriptorProto(name="google/protobuf/timestamp.proto")
    assert codec_of(**{"google/protobuf/timestamp.proto": text_of(stamp)}).decode(b"\x00")["count"] == 0
