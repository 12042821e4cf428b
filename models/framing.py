"""Recognises formats that surround or replace a request, so that the error tells what to change at the producer.
Nothing is unwrapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

SCHEMA_ID_HEADER = "__value_schema_id"
"""Header in which Schema Registry's serializers name the schema by a GUID, instead of a prefix (Confluent 8)."""

_PLAIN = "send JSON text in UTF-8 with a serializer for strings or bytes"
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe", "UTF-16 or UTF-32 text: send UTF-8"),
    (b"\xfe\xff", "UTF-16 text: send UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text: send UTF-8"),
    (b"{\x00", "UTF-16 or UTF-32 text: send UTF-8"),
    (b"\x00{", "UTF-16 text: send UTF-8"),
    (b"\x00\x00\x00{", "UTF-32 text: send UTF-8"),
    (b"\x03\x00", f"framed by AWS Glue's schema registry: {_PLAIN}"),
    (b"\x03\x05", f"framed by AWS Glue's schema registry: {_PLAIN}"),
    (b"\x1f\x8b", "compressed with gzip: set the producer's compression.type instead"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: set the producer's compression.type instead"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: set the producer's compression.type instead"),
    (b"\x82SNAPPY\x00", "compressed with snappy: set the producer's compression.type instead"),
    (b"\xac\xed\x00\x05", f"a serialized Java object: {_PLAIN}"),
    (b"Obj\x01", f"an Avro file: {_PLAIN}"),
)
"""First bytes of a format, and what to do about it."""
_MAGIC, _ID = 0, struct.Struct(">BI")
_ENVELOPE = {"schema", "payload"}
_CHANGE = {"before", "after", "op"}
_EVENT = {"specversion", "type", "source"}


def framing(value: bytes) -> str | None:
    """Return what bytes that are not JSON seem to be, with advice; None if they are not recognised."""
    if not value:
        return "not JSON: the value is empty"
    for start, what in _STARTS:
        if value.startswith(start):
            return f"the value is {what}"
    if value[0] == _MAGIC and len(value) >= _ID.size:
        _, number = _ID.unpack_from(value)
        return f"the value is framed by a Schema Registry serializer (0x00, then schema id {number}): {_PLAIN}"
    return None


def schema_by_header(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """Return that a serializer wrote the value, with advice, if a header shows it; else None."""
    if any(name == SCHEMA_ID_HEADER for name, _ in headers):
        return f"a Schema Registry serializer wrote it (header {SCHEMA_ID_HEADER}): {_PLAIN}"
    return None


def envelope(members: Any) -> str | None:
    """Return what JSON that is not a request seems to be, with advice; None if it is not recognised."""
    if isinstance(members, str) and members.lstrip().startswith("{"):
        return "the value is a JSON string that holds JSON: it was encoded twice"
    if not isinstance(members, dict):
        return None
    if set(members) == _ENVELOPE and not isinstance(members["schema"], str):
        return (
            "the value is a Connect envelope, {schema, payload}: set value.converter.schemas.enable=false, so that the "
            "payload alone is sent"
        )
    if set(members) >= _CHANGE:
        return "the value is a Debezium change event: unwrap it (ExtractNewRecordState)"
    if set(members) >= _EVENT:
        return "the value is a CloudEvent in structured mode: send its data as the value, its attributes as ce_ headers"
    return None
