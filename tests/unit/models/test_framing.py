"""What stands around a request, or in its place, is named in the refusal, with what to send instead."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib

import pytest

from models.errors import InvalidRequest
from models.framing import schema_by_header
from models.request import parse

JSON = b'{"url":"http://example.org/"}'


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "the value is empty"),
        (
            b"\x00\x00\x00\x00\x2a" + JSON,
            "Schema Registry serializer (0x00, then schema id 42): send JSON text",
        ),
        (b"\x00\x00\x01\x00\x00\x0c\x02ab", "then schema id 65536"),
        (
            b"\x00" + bytes(7) + b"\x2a" + JSON,
            "Apicurio Registry's serializer (0x00, then 8-byte schema id 42): send JSON",
        ),
        (
            b"\x01" + bytes(range(16)) + JSON,
            "Schema Registry serializer (0x01, then schema GUID 00010203-0405-0607-0809-0a0b0c0d0e0f): send JSON text",
        ),
        (
            b"\xc3\x01" + bytes(range(8)) + b"\x02a",
            "Avro's single-object encoding (0xC3 0x01, then schema fingerprint 0001020304050607): send JSON text",
        ),
        (b"\x03\x00" + bytes(16) + JSON, "AWS Glue"),
        (b"\x03\x05" + bytes(16) + JSON, "AWS Glue"),
        (JSON.decode().encode("utf-16"), "UTF-16 or UTF-32 text: send UTF-8"),
        (JSON.decode().encode("utf-16-le"), "UTF-16 or UTF-32 text: send UTF-8"),
        (JSON.decode().encode("utf-16-be"), "UTF-16 text: send UTF-8"),
        (JSON.decode().encode("utf-32"), "UTF-16 or UTF-32 text: send UTF-8"),
        (JSON.decode().encode("utf-32-be"), "UTF-32 text: send UTF-8"),
        (gzip.compress(JSON, mtime=0), "compressed with gzip: set the producer's compression.type"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
        (b"\x04\x22\x4d\x18\x00", "compressed with lz4"),
        (b"\x82SNAPPY\x00\x00", "compressed with snappy"),
        *((zlib.compress(JSON, level), "compressed with zlib: send it as it is") for level in range(10)),
        *((bz2.compress(JSON, level), "compressed with bzip2: send it as it is") for level in (1, 9)),
        (lzma.compress(JSON), "compressed with xz: send it as it is"),
        (b"\xac\xed\x00\x05t\x00", "a serialized Java object"),
        (b"Obj\x01\x04", "an Avro file"),
        (b'{"schema":null,"payload":%b}' % JSON, "a Connect envelope, {schema, payload}: set value.converter.schemas"),
        (b'{"schema":{"type":"string","optional":false},"payload":"x"}', "a Connect envelope"),
        (b'{"before":null,"after":{},"op":"c","ts_ms":1}', "a Debezium change event"),
        (
            b'{"specversion":"1.0","type":"t","source":"s","id":"1","data":{"before":1,"after":2,"op":"c"}}',
            "a Debezium",
        ),
        (
            b'[{"specversion":"1.0","type":"t","source":"s","id":"1"},{"specversion":"1.0","type":"t","source":"s"}]',
            "a batch of CloudEvents (application/cloudevents-batch+json): send a record for each event",
        ),
        (json.dumps(JSON.decode()).encode(), "encoded twice"),
    ],
)
def test_a_framing_is_named(value, reason):
    """Serializers, encodings, compressions and envelopes that are not the contract's."""
    with pytest.raises(InvalidRequest, match="the value is") as caught:
        parse(value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "not JSON"), (b"\x00", "not JSON"), (b"\xff", "not UTF-8"), (b'"a"', "JSON object"),
        (b"[]", "JSON object"), (b"[{}]", "JSON object"), (b"x^2", "not JSON"), (b"BZh91", "not JSON"),
        (b"\x01a", "not JSON"), (b"\xc3\x01a", "not UTF-8"), (b'{"schema":"json","payload":1}', "payload"),
        (b'{"payload":1}', "payload"),
    ],
)  # fmt: skip
def test_what_looks_like_nothing_known_has_the_usual_reason(value, reason):
    """No framing is claimed where there may be none."""
    with pytest.raises(InvalidRequest, match=reason):
        parse(value)


def test_a_byte_order_mark_is_read_over():
    """Windows writes one before UTF-8; RFC 8259, section 8.1 lets a reader ignore it."""
    assert parse(b"\xef\xbb\xbf" + JSON) == parse(JSON)


def test_a_schema_in_a_header_is_named():
    """Serializers of Confluent 8 name the schema in a header, in front of the value stands nothing."""
    assert "Schema Registry" in (schema_by_header([("a", b"b"), ("__value_schema_id", b"\x01" + bytes(16))]) or "")
    assert schema_by_header([("a", b"b")]) is None
