"""Where a record says which schema it was written by: Confluent's wire format, in the value or in a header."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final
from uuid import UUID

VALUE_HEADER: Final = "__value_schema_id"
KEY_HEADER: Final = "__key_schema_id"
"""Headers that have the schema of the value and of the key, instead of a prefix (Confluent 8)."""

SchemaId = int | UUID
"""How a record names a schema: the registry's number, or a GUID."""

Headers = Iterable[tuple[str, bytes | None]]

_BY_ID, _BY_GUID = 0, 1
_ID = struct.Struct(">BI")
_GUID_END = 17
_MAX_ID = (1 << 31) - 1


def locate(data: bytes, headers: Headers, *, key: bool) -> tuple[SchemaId, bytes]:
    """Return the schema's id and what it describes. Raises ValueError saying what to change.

    Protobuf's indexes of the message come first in what is described, wherever they stand.
    """
    wanted = KEY_HEADER if key else VALUE_HEADER
    for name, content in headers:
        if name == wanted and content is not None:
            number, rest = _read(content, f"the header {wanted}")
            return number, rest + data if rest else data
    return _read(data, "it")


def framed(number: int) -> bytes:
    """Return the prefix that names a schema."""
    return _ID.pack(_BY_ID, number)


def _read(data: bytes, what: str) -> tuple[SchemaId, bytes]:
    magic = data[0] if data else -1
    if magic == _BY_ID and len(data) >= _ID.size:
        number: int = _ID.unpack_from(data)[1]
        if not number:
            msg = (
                f"{what} names schema id 0, which no registry assigns: Apicurio's own serializers write ids of 8 bytes "
                "unless apicurio.registry.as-confluent is true"
            )
            raise ValueError(msg)
        if number > _MAX_ID:
            msg = f"{what} names schema id {number}, which registries do not assign"
            raise ValueError(msg)
        return number, data[_ID.size :]
    if magic == _BY_GUID and len(data) >= _GUID_END:
        return UUID(bytes=data[1:_GUID_END]), data[_GUID_END:]
    begin = f"begins with byte 0x{magic:02x}" if data else "is empty"
    msg = (
        f"{what} {begin} and has {len(data)} bytes, not 0x00 and a schema id of 4 bytes, nor 0x01 and a GUID: write it "
        "with a serializer of the schema registry, or give the route another format"
    )
    raise ValueError(msg)
