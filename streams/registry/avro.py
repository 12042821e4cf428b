"""Values by an Avro schema, by fastavro: at its full speed, except where a record's bytes could do harm.

Its compiled reader ends the process on some 10 kB of bytes that nest deeper than the stack (fastavro 1.13.1), and holds
up every other thread while it works. A recursive schema, and a large value, are read by its reader in Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from io import BytesIO
from itertools import repeat
from typing import Any, Final

import fastavro
from fastavro import _read_py, _validation_py, _write_py
from fastavro.io.binary_decoder import BinaryDecoder
from fastavro.validation import ValidationError, validate

from models import strictjson
from models.errors import InvalidDocument
from models.large import LARGE
from models.strictjson import NegativeZero, Number
from streams.registry.avro_schema import Survey, parse
from streams.registry.avro_types import PREFIX, BeyondFloat
from streams.registry.client import Registered

MAX_ITEMS: Final = 1_000_000
"""Items of arrays and maps that one value may have."""
MAX_TIME: Final = 10_000.0
"""Microseconds that a value may take to be read before it is left to a thread."""
PYTHON_FACTOR: Final = 2.5
"""How much longer fastavro's reader in Python takes."""
MAX_REASONS: Final = 3
"""Reasons given for a value that does not fit."""
# The last two bytes of an infinity or NaN, float or double: its exponent has all bits set.
_NOT_FINITE = re.compile(rb"[\x80-\xff][\x7f\xff]")
_NAMES = {
    bool: "a boolean", int: "an integer", float: "a number", Decimal: "a number", str: "a string",
    Number: "a number", NegativeZero: "an integer", BeyondFloat: "a number beyond its range",
    list: "an array", dict: "an object", type(None): "null or missing",
}  # fmt: skip


class _Decoder(BinaryDecoder):  # type: ignore[misc]
    """Reads numbers of ten bytes at most, as fastavro's own takes hours for a megabyte of 0xff, and a bounded number of
    items, each of which may take a byte here and 200 in memory.
    """

    _items = 0

    def read_long(self) -> int:
        read, number = self.fo.read, 0
        for shift in range(0, 70, 7):
            byte = read(1)
            if not byte:
                raise EOFError
            each: int = byte[0]
            number |= (each & 0x7F) << shift
            if each < 0x80:  # noqa: PLR2004  the last byte
                return (number >> 1) ^ -(number & 1)
        msg = "a number of more than ten bytes"
        raise ValueError(msg)

    def iter_array(self) -> Iterator[None]:
        """Yield once for each item of the blocks that follow."""
        count: int
        while count := self._block_count:
            if count < 0:
                self.read_long()  # the block's size
            self._items += abs(count)
            if self._items > MAX_ITEMS:
                msg = f"it has more than {MAX_ITEMS} items in arrays and maps"
                raise ValueError(msg)
            yield from repeat(None, abs(count))
            self._block_count: int = self.read_long()

    read_int = read_index = read_enum = read_long
    iter_map = iter_array


class AvroCodec:
    """Reads and writes values by one schema. Raises ValueError for a schema that cannot be used."""

    parts = 10_000
    """Parts of a value from which writing it takes some milliseconds."""

    def __init__(self, schema: Registered) -> None:
        self.number = schema.number
        self._schema, self._named = parse(schema.text, schema.references, numbers=False)
        survey = Survey(self._schema, self._named)
        if survey.endless:
            msg = "it has an array whose items take no bytes, which may be of any length"
            raise ValueError(msg)
        self._exact, self._exactly_named = self._schema, self._named
        if survey.floats:
            self._exact, self._exactly_named = parse(schema.text, schema.references, numbers=True)
        self._recursive, self._floats = survey.recursive, survey.floats
        dearest = survey.dearest * (PYTHON_FACTOR if survey.recursive else 1)
        self._large = min(LARGE, int(MAX_TIME / dearest)) if dearest else LARGE
        # Top-level bytes are written as they are, without their length, by Confluent's serializers.
        self._raw = schema.text.strip() in ("bytes", '"bytes"', '{"type":"bytes"}', '{"type": "bytes"}')

    def is_large(self, data: bytes) -> bool:
        """Whether it may take more than some milliseconds to read a value: by what its bytes could be at worst."""
        return len(data) > self._large

    def decode(self, data: bytes) -> Any:
        """Return the value. Raises ValueError."""
        return self._decode(data, in_steps=self._recursive)

    def decode_in_steps(self, data: bytes) -> Any:
        """Do what `decode` does, for a thread: other threads have their turns in between."""
        return self._decode(data, in_steps=True)

    def _decode(self, data: bytes, *, in_steps: bool) -> Any:
        if self._raw:
            data = _length(len(data)) + data
        exactly = self._floats and _may_hold_nan(data)
        schema = self._exact if exactly else self._schema
        stream = BytesIO(data)
        try:
            if in_steps:
                named = {"writer": self._exactly_named if exactly else self._named, "reader": {}}
                value = _read_py.read_data(_Decoder(stream), schema, named, None, {})
            else:
                value = fastavro.schemaless_reader(stream, schema, None)
        except EOFError:
            msg = "it ends too early"
            raise ValueError(msg) from None
        except RecursionError:
            msg = "it nests too deep"
            raise ValueError(msg) from None
        except Exception as exc:  # noqa: BLE001  whatever fastavro meets in bytes that are none of this schema's
            msg = f"{type(exc).__name__}: {exc}"
            raise ValueError(msg) from None
        if left := len(data) - stream.tell():
            msg = f"{left} bytes are left over"
            raise ValueError(msg)
        if self._recursive:
            strictjson.refuse_depth(value)
        return value

    def encode(self, value: Any) -> bytes:
        """Return a value's bytes. Raises InvalidDocument naming the fields that do not fit."""
        return self._encode(value, validate, fastavro.schemaless_writer)

    def encode_in_steps(self, value: Any) -> bytes:
        """Do what `encode` does, for a thread."""
        return self._encode(value, _validation_py.validate, _write_py.schemaless_writer)

    def _encode(self, value: Any, check: Callable[..., Any], write: Callable[..., None]) -> bytes:
        stream = BytesIO()
        try:
            # The writer alone would make 1 of 1.5 and of true.
            check(value, self._exact, raise_errors=True, disable_tuple_notation=True)
            write(stream, self._exact, value, strict_allow_default=True, disable_tuple_notation=True)
        except ValidationError as exc:
            reasons = [f"{each.field or 'the value'}: {_name(each.datum)}, not {_type(each.schema)}"
                       for each in exc.errors[:MAX_REASONS]]  # fmt: skip
            raise InvalidDocument("; ".join(dict.fromkeys(reasons))) from None
        except Exception as exc:  # noqa: BLE001  fastavro raises what it meets
            msg = f"{type(exc).__name__}: {exc}"
            raise InvalidDocument(msg) from None
        data = stream.getvalue()
        return data[len(_length(_size_in(data))) :] if self._raw else data


def _may_hold_nan(data: bytes) -> bool:
    return (b"\x7f" in data or b"\xff" in data) and _NOT_FINITE.search(data) is not None


def _name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _type(schema: Any) -> str:
    if isinstance(schema, list):
        return " or ".join(map(_type, schema))
    if isinstance(schema, str):
        return schema
    logical = schema.get("logicalType", "").removeprefix(PREFIX)
    if logical == "decimal":
        return f"decimal({schema['precision']},{schema.get('scale', 0)})"
    kind = f"{schema['type']} {schema['name']}" if "name" in schema else str(schema["type"])
    return f"{kind} ({logical})" if logical and logical != "number" else kind


def _length(size: int) -> bytes:
    """Return a length as Avro writes it."""
    number, data = size << 1, bytearray()
    while number > 0x7F:  # noqa: PLR2004  seven bits a byte
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def _size_in(data: bytes) -> int:
    """Return the length with which Avro bytes begin."""
    number = shift = 0
    for each in data:
        number |= (each & 0x7F) << shift
        shift += 7
        if each < 0x80:  # noqa: PLR2004  the last byte
            break
    return number >> 1
