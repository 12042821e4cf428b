"""Recognises formats that surround or replace a request, so that the error tells what to change at the producer.
Nothing is unwrapped; `models/cloudevent.py` does that for a CloudEvent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

SCHEMA_ID_HEADER = "__value_schema_id"
"""Header in which Schema Registry's serializers name the schema by a GUID, instead of a prefix (Confluent 8)."""

_PLAIN = "send JSON text in UTF-8 with a serializer for strings or bytes"
_CODEC = "set the producer's compression.type instead"
_UNKNOWN_CODEC = "send it as it is; gzip, snappy, lz4 and zstd can be set as the producer's compression.type"
_STARTS: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xfe|{\x00", "UTF-16 or UTF-32 text: send UTF-8"),
    (rb"\xfe\xff|\x00{", "UTF-16 text: send UTF-8"),
    (rb"\x00\x00\xfe\xff|\x00\x00\x00{", "UTF-32 text: send UTF-8"),
    (rb"\x00{5}(.{4})", f"framed by Apicurio Registry's serializer (0x00, then 8-byte schema id {{}}): {_PLAIN}"),
    (rb"\x00(.{4})", f"framed by a Schema Registry serializer (0x00, then schema id {{}}): {_PLAIN}"),
    (rb"\x01(.{16})", f"framed by a Schema Registry serializer (0x01, then schema GUID {{}}): {_PLAIN}"),
    (rb"\x03[\x00\x05]", f"framed by AWS Glue's schema registry: {_PLAIN}"),
    (rb"\xc3\x01(.{8})", f"in Avro's single-object encoding (0xC3 0x01, then schema fingerprint {{}}): {_PLAIN}"),
    (rb"Obj\x01", f"an Avro file: {_PLAIN}"),
    (rb"\xac\xed\x00\x05", f"a serialized Java object: {_PLAIN}"),
    (rb"\x1f\x8b", f"compressed with gzip: {_CODEC}"),
    (rb"\x28\xb5\x2f\xfd", f"compressed with zstd: {_CODEC}"),
    (rb"\x04\x22\x4d\x18", f"compressed with lz4: {_CODEC}"),
    (rb"\x82SNAPPY\x00", f"compressed with snappy: {_CODEC}"),
    (rb"x(?:[\x01\x9c\xda]|\^.{0,8}[^\t-~])", f"compressed with zlib: {_UNKNOWN_CODEC}"),
    (rb"BZh[1-9]1AY&SY", f"compressed with bzip2: {_UNKNOWN_CODEC}"),
    (rb"\xfd7zXZ\x00", f"compressed with xz: {_UNKNOWN_CODEC}"),
)
"""First bytes of a format, as a pattern, and what to do about it; {} is what the pattern captures."""
_PATTERNS = tuple((re.compile(start, re.DOTALL), what) for start, what in _STARTS)
_SHOWN: Mapping[int, Callable[[bytes], object]] = {4: int.from_bytes, 8: bytes.hex, 16: lambda guid: UUID(bytes=guid)}
"""How captured bytes are shown, by their number."""


def _has(members: Any, names: set[str]) -> bool:
    return isinstance(members, dict) and set(members) >= names


def _is_encoded(members: Any) -> bool:
    return isinstance(members, str) and members.lstrip().startswith("{")


def _is_connect(members: Any) -> bool:
    return _has(members, _CONNECT) and len(members) == len(_CONNECT) and not isinstance(members["schema"], str)


def _is_change(members: Any) -> bool:
    return _has(members, {"before", "after", "op"})


def _is_event(members: Any) -> bool:
    return _has(members, {"specversion", "type", "source"})


def _is_batch(members: Any) -> bool:
    return isinstance(members, list) and bool(members) and all(map(_is_event, members))


_CONNECT = {"schema", "payload"}
_ENVELOPES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (_is_encoded, "JSON string that holds JSON: it was encoded twice"),
    (_is_connect, "Connect envelope, {schema, payload}: set value.converter.schemas.enable=false to send the payload"),
    (_is_change, "Debezium change event: unwrap it (ExtractNewRecordState)"),
    (_is_batch, "batch of CloudEvents (application/cloudevents-batch+json): send a record for each event"),
)
"""What JSON may be in place of a request, and what to do about it."""


def framing(value: bytes) -> str | None:
    """Return what bytes that are not JSON seem to be, with advice; None if they are not recognised."""
    if not value:
        return "not JSON: the value is empty"
    for pattern, what in _PATTERNS:
        if found := pattern.match(value):
            return f"the value is {what.format(*(_SHOWN[len(each)](each) for each in found.groups()))}"
    return None


def schema_by_header(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """Return that a serializer wrote the value, with advice, if a header shows it; else None."""
    if any(name == SCHEMA_ID_HEADER for name, _ in headers):
        return f"a Schema Registry serializer wrote it (header {SCHEMA_ID_HEADER}): {_PLAIN}"
    return None


def envelope(members: Any) -> str | None:
    """Return what JSON that is not a request seems to be, with advice; None if it is not recognised."""
    for is_it, what in _ENVELOPES:
        if is_it(members):
            return f"the value is a {what}"
    return None
