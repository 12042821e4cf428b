"""Where a record says which schema it was written by."""

from __future__ import annotations

from uuid import UUID

import pytest

from streams.registry.framing import framed, locate

GUID = UUID("5f0b1b3c-0000-4000-8000-000000000001")


def test_the_id_is_read_from_the_value():
    """0x00 and four bytes, in network order, and what follows is the value."""
    assert locate(b"\x00\x00\x00\x01\x02rest", [], key=False) == (258, b"rest")
    assert locate(framed(7) + b"x", [("other", b"\x01")], key=False) == (7, b"x")


def test_a_guid_is_read_from_the_value_or_its_header():
    """0x01 and sixteen bytes; a header goes first, and that of the key is not the value's."""
    framing = b"\x01" + GUID.bytes
    assert locate(framing + b"rest", [], key=False) == (GUID, b"rest")
    assert locate(b"rest", [("__value_schema_id", framing)], key=False) == (GUID, b"rest")
    assert locate(b"rest", [("__key_schema_id", framing)], key=True) == (GUID, b"rest")
    assert locate(framed(7) + b"x", [("__key_schema_id", framing)], key=False) == (7, b"x")


def test_indexes_in_the_header_come_before_the_value():
    """Protobuf's serializer writes the indexes of the message behind the GUID."""
    assert locate(b"rest", [("__value_schema_id", b"\x01" + GUID.bytes + b"\x02\x02")], key=False)[1] == b"\x02\x02rest"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b'{"id": 1}', "begins with byte 0x7b"),
        (b"\x00\x00\x00\x01", "has 4 bytes"),
        (b"\x01" + b"x" * 15, "0x01"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x05x", "apicurio.registry.as-confluent"),
        (b"\x00\xff\xff\xff\xffx", "schema id 4294967295"),
    ],
)
def test_what_names_no_schema_is_refused_with_advice(data, reason):
    """The reason says what is there, and what to change."""
    with pytest.raises(ValueError, match=reason):
        locate(data, [], key=False)


def test_a_header_that_names_no_schema_is_refused():
    """A header that is cut short is named; one without a value counts as none."""
    with pytest.raises(ValueError, match="the header __value_schema_id begins with byte 0x01 and has 3 bytes"):
        locate(b"x", [("__value_schema_id", b"\x01ab")], key=False)
    assert locate(framed(7), [("__value_schema_id", None)], key=False) == (7, b"")
