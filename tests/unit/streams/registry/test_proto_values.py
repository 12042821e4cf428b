"""What Protobuf's JSON mapping would lose of a value is refused, or written exactly."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal

import pytest

from models import strictjson
from models.errors import InvalidDocument
from streams.registry.client import Registered
from streams.registry.protobuf import ProtobufCodec

SCHEMA = """
syntax = "proto3";
package shop;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Item {
  int64 cents = 1;
  repeated uint64 codes = 2;
  map<string, int32> stock = 3;
  double weight = 4;
  float size = 5;
  bytes photo = 6;
  Color color = 7;
  Item part = 8;
  google.protobuf.Int64Value most = 9;
  google.protobuf.Struct extra = 10;
  bool sold = 11;
  string name_of_it = 12;
  map<int64, int32> by_number = 13;
  oneof paid { string by_card = 14; int32 in_cash = 15; google.protobuf.Value anyhow = 16; }
  google.protobuf.Duration lasts = 17;
  google.protobuf.Timestamp at = 18;
  google.protobuf.Any more = 19;
  map<bool, string> answers = 20;
  map<string, google.protobuf.Value> notes = 21;
  repeated google.protobuf.Value list = 22;
}
enum Color { NONE = 0; RED = 1; }
"""
CODEC = ProtobufCodec(Registered(7, "PROTOBUF", SCHEMA, {}))
PAST_DOUBLES = 2**53 + 1


def back(value):
    """Return what a value is once it was written and read, without what was not set."""
    return {name: each for name, each in CODEC.decode(CODEC.encode(value)).items() if name in value}


@pytest.mark.parametrize(
    "number",
    [
        PAST_DOUBLES,
        str(PAST_DOUBLES),
        f"{PAST_DOUBLES}.0",
        f"{PAST_DOUBLES}e0",
        Decimal(f"{PAST_DOUBLES}.00"),
        strictjson.loads(b"9007199254740993.0", exact=True),
    ],
)
@pytest.mark.parametrize(
    "place",
    [lambda n: {"cents": n}, lambda n: {"codes": [n]}, lambda n: {"part": {"cents": n}}, lambda n: {"most": n}],
)
def test_whole_numbers_keep_their_digits(number, place):
    """With a point or an exponent, as number or as text, in lists, messages and wrappers."""
    assert str(PAST_DOUBLES) in str(back(place(number)))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"photo": "YWJj!"}, "photo: not base64"),
        ({"photo": "YQ==YWJj"}, "photo: not base64"),
        ({"photo": "YWJj YWJj"}, "photo: not base64"),
        ({"photo": "YWJj===="}, "photo: not base64"),
        ({"photo": "YWI=="}, "photo: not base64"),
        ({"photo": "Y"}, "photo: not base64"),
        ({"photo": 5}, "photo: 5, not bytes in base64"),
        ({"part": {"color": True}}, "Item.part.color: true, not a value of shop.Color"),
        ({"color": "BLUE"}, 'color: "BLUE", not a value of shop.Color'),
        ({"color": "1_0"}, 'color: "1_0", not a value of shop.Color'),
        ({"color": "RED\0"}, "not a value of shop.Color"),
        ({"color": 1.5}, "color: 1.5, not an integer"),
        ({"color": 2**40}, "color: 1099511627776 is beyond the range of an enum"),
        ({"weight": True}, "weight: true, not a number"),
        ({"size": False}, "size: false, not a number"),
        ({"weight": "1e400"}, "weight: 1e400 is beyond the range of a double"),
        ({"weight": Decimal("1e400")}, "weight: 1E+400 is beyond the range of a double"),
        ({"weight": 10**400}, "is beyond the range of a double"),
        ({"size": "1e39"}, "size: 1e39 is beyond the range of a float"),
        ({"size": Decimal("1e39")}, "size: 1E+39 is beyond the range of a float"),
        ({"size": 10**39}, "is beyond the range of a float"),
        ({"weight": "inf"}, 'weight: "inf", not a number'),
        ({"weight": "1_000"}, 'weight: "1_000", not a number'),
        ({"cents": "1_000"}, 'cents: "1_000", not a number'),
        ({"cents": "\N{ARABIC-INDIC DIGIT ONE}"}, "not a number"),
        ({"cents": Decimal("1.5")}, "cents: 1.5, not an integer"),
        ({"cents": "1e999"}, "cents: 1e999 is beyond the range of an integer"),
        ({"cents": f"1e{10**19}"}, "cents: 1e10000000000000000000 is beyond the range of an integer"),
        ({"cents": strictjson.loads(b"1e-%d" % 10**19, exact=True)}, "is beyond the range of an integer"),
        ({"stock": {"a": f"1e-{10**19}"}}, 'stock["a"]: 1e-10000000000000000000 is beyond'),
        ({"cents": 2**63}, "cents"),
        ({"cents": True}, "cents: true, not an integer"),
        ({"codes": [1, 2.5]}, "codes[1]: 2.5, not an integer"),
        ({"codes": 5}, "codes: 5, not a list"),
        ({"stock": {"a": "1.5"}}, 'stock["a"]: "1.5", not an integer'),
        ({"stock": {"a": None}}, 'stock["a"]: null'),
        ({"stock": []}, "stock: a list, not a map"),
        ({"by_number": {"1": 1, "01": 2}}, "the key 1 is there twice"),
        ({"by_number": {"1": 1, "1.0": 2}}, "the key 1 is there twice"),
        ({"by_number": {"1_0": 1}}, 'by_number["1_0"]: "1_0", not a number'),
        ({"sold": 1}, "sold"),
        ({"most": True}, "most: true, not an integer"),
        ({"part": []}, "part: a list, not shop.Item"),
        ({"part": {"nope": 1}}, 'no field named "nope" at "Item.part"'),
        ({"sold\0": True}, "no field named"),
        ({"name_of_it": "a", "nameOfIt": "b"}, '"name_of_it" and "nameOfIt" exclude each other'),
        ({"by_card": "a", "in_cash": 1}, '"by_card" and "in_cash" exclude each other'),
        ({"by_card": "a", "anyhow": None}, '"by_card" and "anyhow" exclude each other'),
        ({"extra": {"a": Decimal("1e400")}}, "extra.a: 1E+400 is beyond the range of a double"),
        ({"extra": []}, "extra: a list, not an object"),
        ({"lasts": "1_0s"}, "not a google.protobuf.Duration"),
        ({"lasts": "1.0000000001s"}, "not a google.protobuf.Duration"),
        ({"at": "2020-01-01T00:00:00+01:99999"}, "not a google.protobuf.Timestamp"),
        ({"more": {"@type": "x/shop.Item", "photo": "Y!!Q"}}, "more.photo: not base64"),
        ({"more": {"@type": "x/google.protobuf.Int64Value", "value": "5", "left": 1}}, "and nothing else"),
        ({"more": {"@type": "x/shop.Nothing"}}, "no message x/shop.Nothing"),
        ({"more": {"photo": ""}}, 'more: an object, not an object with "@type"'),
    ],
)
def test_what_would_become_another_value_is_refused(value, reason):
    """The error names the field."""
    with pytest.raises(InvalidDocument) as caught:
        CODEC.encode(value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"photo": "_-8"}, {"photo": "/+8="}),
        ({"photo": "YWI="}, {"photo": "YWI="}),
        ({"photo": ""}, {"photo": ""}),
        ({"color": "RED", "sold": True}, {"color": "RED", "sold": True}),
        ({"color": 7}, {"color": 7}),
        ({"weight": "NaN"}, {"weight": "NaN"}),
        ({"weight": "-1.5e3"}, {"weight": -1500.0}),
        ({"size": Decimal("0.5"), "weight": 3}, {"size": 0.5, "weight": 3.0}),
        ({"stock": {"a": 1.0, "b": "2"}}, {"stock": {"a": 1, "b": 2}}),
        ({"extra": {"a": [Decimal("1.5"), True, "1_000"]}}, {"extra": {"a": [1.5, True, "1_000"]}}),
        ({"cents": None, "part": None, "codes": None}, {"cents": "0", "codes": []}),
        ({"cents": "0e30"}, {"cents": "0"}),
        ({"size": "3.4028235e38"}, {"size": 3.4028235e38}),
        ({"weight": strictjson.NegativeZero()}, {"weight": -0.0}),
        ({"by_number": {"9007199254740993.0": 1}}, {"by_number": {"9007199254740993": 1}}),
        ({"answers": {"true": "a", "false": "b"}}, {"answers": {"true": "a", "false": "b"}}),
        ({"anyhow": None}, {"anyhow": None}),
        ({"notes": {"a": None, "b": [1]}, "list": [None, 1]}, {"notes": {"a": None, "b": [1.0]}, "list": [None, 1.0]}),
        ({"by_card": "a", "in_cash": None}, {"by_card": "a"}),
        ({"lasts": "1.5s", "at": "2020-01-01T01:00:00+01:00"}, {"lasts": "1.500s", "at": "2020-01-01T00:00:00Z"}),
        (
            {"more": {"@type": "x/google.protobuf.Int64Value", "value": 5}},
            {"more": {"@type": "x/google.protobuf.Int64Value", "value": "5"}},
        ),
    ],
)
def test_what_the_mapping_allows_is_written(value, read):
    """Either alphabet of base64, enums by number, numbers as text, a Struct's own numbers, null for what is not set."""
    assert back(value) == read


def test_names_as_json_has_them_are_fields_too():
    """Protobuf's JSON mapping takes both."""
    assert CODEC.encode({"nameOfIt": "x"}) == CODEC.encode({"name_of_it": "x"})


PROTO2 = """
syntax = "proto2";
package old;
message Item { required int32 count = 1; extensions 100 to 199; }
extend Item { optional bytes picture = 100; }
"""


def test_messages_of_the_older_syntax_are_checked_alike():
    """A required field that is missing is named; an extension's value is looked at as any other's."""
    codec = ProtobufCodec(Registered(7, "PROTOBUF", PROTO2, {}))
    with pytest.raises(InvalidDocument, match="count"):
        codec.encode({})
    with pytest.raises(InvalidDocument, match="not base64"):
        codec.encode({"count": 1, "[old.picture]": "Y!!Q"})
    value = {"count": 1, "[old.picture]": "YQ=="}
    assert codec.decode(codec.encode(value)) == value


def test_long_base64_is_judged_at_once():
    """It takes no memory of its own: 8 MiB, once with something else at its end."""
    text = "A" * (8 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDocument, match="not base64"):
            CODEC.encode({"photo": text + "!"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
