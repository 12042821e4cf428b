"""An Avro schema made ready: with logical types of ours, and looked through for what hostile bytes could do with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import fastavro

from streams.registry.avro_types import PREFIX, TYPES, BinaryDefault

_SIZES: Final = {"null": 0, "float": 4, "double": 8}
"""Bytes of a value of a primitive type; all others take one at least."""
_FLOATS: Final = frozenset({"float", "double"})
_BINARY: Final = frozenset({"bytes", "fixed"})
_INVALID: Final = (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType)


def parse(text: str, references: Mapping[str, str], *, numbers: bool) -> tuple[Any, dict[str, Any]]:
    """Return a schema for fastavro, and its named types. `numbers`: NaN and infinities become text.

    Raises ValueError.
    """
    named: dict[str, Any] = {}
    try:
        for each in references.values():
            fastavro.parse_schema(_ready(_read(each), numbers=numbers), named)
        return fastavro.parse_schema(_ready(_read(text), numbers=numbers), named), named
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, *_INVALID) as exc:
        msg = f"not an Avro schema: {type(exc).__name__}: {exc}"
        raise ValueError(msg) from None


def _read(text: str) -> Any:
    return json.loads(text) if text.lstrip()[:1] in '{["' else text.strip()


def _ready(schema: Any, *, numbers: bool) -> Any:
    """Name our logical types in a schema."""
    if isinstance(schema, list):
        return [_ready(each, numbers=numbers) for each in schema]
    if isinstance(schema, str):
        schema = {"type": schema}
    kind = schema["type"]
    if not isinstance(kind, str):
        return _ready(kind, numbers=numbers)
    ready = {name: value for name, value in schema.items() if name != "logicalType"}
    if kind in ("record", "error"):
        ready["fields"] = [_field(each, numbers=numbers) for each in schema["fields"]]
    for inner in ("items", "values"):
        if inner in schema and kind in ("array", "map"):
            ready[inner] = _ready(schema[inner], numbers=numbers)
    logical = schema.get("logicalType")
    if (kind, logical) not in TYPES or (logical == "decimal" and not _is_decimal(schema)):
        logical = "base64" if kind in _BINARY else "number" if numbers and kind in _FLOATS else None
    if logical is not None:
        ready["logicalType"] = PREFIX + logical
    return ready if len(ready) > 1 else kind


def _is_decimal(schema: Mapping[str, Any]) -> bool:
    """Whether precision and scale are valid: else, says the specification, the value is no more than its bytes."""
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    return isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision > 0


def _field(field: Mapping[str, Any], *, numbers: bool) -> dict[str, Any]:
    ready = {**field, "type": _ready(field["type"], numbers=numbers)}
    kind = ready["type"]
    first = kind[0] if isinstance(kind, list) and kind else kind
    if isinstance(first, dict) and first["type"] in _BINARY and isinstance(field.get("default"), str):
        ready["default"] = BinaryDefault(field["default"])
    return ready


class Survey:
    """What a schema allows: `recursive`, values nested as deep as a record's bytes say; `endless`, arrays of items that
    take no bytes; `floats`; `slow`, values in arrays and maps that Python converts.
    """

    def __init__(self, schema: Any, named: Mapping[str, Any]) -> None:
        self.recursive = self.endless = self.floats = self.slow = False
        self._named = named
        self._sizes: dict[str, int | None] = {}
        self._repeated = 0
        self._size(schema)

    def _size(self, schema: Any) -> int:
        """Return the least bytes that a value takes."""
        if isinstance(schema, list):
            return 1 + min(map(self._size, schema), default=0)
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in self._named:
            schema, kind = self._named[kind], self._named[kind]["type"]
        self.floats |= kind in _FLOATS
        self.slow |= bool(self._repeated) and isinstance(schema, dict) and "logicalType" in schema
        if kind in ("record", "error"):
            return self._record(schema)
        if kind in ("array", "map"):
            self._repeated += 1
            size = self._size(schema["items" if kind == "array" else "values"])
            self._repeated -= 1
            self.endless |= kind == "array" and size == 0
            return 1
        return int(schema["size"]) if kind == "fixed" else _SIZES.get(kind, 1)

    def _record(self, schema: Mapping[str, Any]) -> int:
        name = schema["name"]
        if name not in self._sizes:
            self._sizes[name] = None
            self._sizes[name] = sum(self._size(field["type"]) for field in schema["fields"])
        size = self._sizes[name]
        self.recursive |= size is None
        return 1 if size is None else size
