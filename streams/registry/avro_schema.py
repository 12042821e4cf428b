"""An Avro schema made ready: with logical types of ours, and looked through for what hostile bytes could do with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import fastavro

from streams.registry.avro_types import PREFIX, TYPES, BinaryDefault

_SIZES: Final = {"null": 0, "float": 4, "double": 8}
"""Bytes of a value of a primitive type; all others take one at least."""
_FLOATS: Final = frozenset({"float", "double"})
_BINARY: Final = frozenset({"bytes", "fixed"})
# Microseconds of fastavro's compiled reader, for a value; what is converted in Python costs more.
_SCALAR_TIME, _RECORD_TIME, _ARRAY_TIME, _PYTHON_TIME = 0.3, 0.6, 0.6, 2.0
_MARKS: Final = ("__fastavro_parsed", "__named_schemas")
"""What fastavro adds to a schema that is parsed: that it is, and the named types that it knows."""
_INVALID: Final = (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType)


def parse(text: str, references: Mapping[str, str], *, numbers: bool) -> tuple[Any, dict[str, Any]]:
    """Return a schema for fastavro, and its named types. `numbers`: NaN and infinities become text.

    Raises ValueError.
    """
    named: dict[str, Any] = {}
    try:
        for each in references.values():
            fastavro.parse_schema(_ready(_read(each), numbers=numbers), named)
        schema = fastavro.parse_schema(_ready(_read(text), numbers=numbers), named)
        return _with_names(schema, named), named
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, *_INVALID) as exc:
        msg = f"not an Avro schema: {type(exc).__name__}: {exc}"
        raise ValueError(msg) from None


def _with_names(schema: Any, named: Mapping[str, Any]) -> Any:
    """Return a schema that knows what it refers to, as fastavro has it of a record alone: a union at the top, an array
    or a map may be of types that others define. fastavro parses a union with each value, so that has them in it.
    """
    if isinstance(schema, list):
        return _whole(schema, named, set())
    whole = named.get(schema) if isinstance(schema, str) else schema
    return schema if whole is None else {**whole, **dict(zip(_MARKS, (True, named), strict=True))}


def _whole(schema: Any, named: Mapping[str, Any], seen: set[str]) -> Any:
    """Return a parsed schema with each named type in place of the first mention of its name."""
    if isinstance(schema, list):
        return [_whole(each, named, seen) for each in schema]
    if isinstance(schema, str):
        return schema if schema in seen or schema not in named else _whole(named[schema], named, seen)
    seen.add(schema.get("name", ""))
    whole = {name: value for name, value in schema.items() if name not in _MARKS}
    if "fields" in schema:
        whole["fields"] = [{**each, "type": _whole(each["type"], named, seen)} for each in schema["fields"]]
    for inner in ("items", "values"):
        if inner in schema:
            whole[inner] = _whole(schema[inner], named, seen)
    return whole


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
    elif isinstance(first, dict) and first["type"] in _FLOATS and type(field.get("default")) is int:
        ready["default"] = float(field["default"])  # fastavro takes 0 for a plain double, not for a logical type
    return ready


class _Cost(NamedTuple):
    """The least bytes that a value takes; and of the values that take most time a byte, bytes and microseconds."""

    least: int
    size: int
    time: float


class Survey:
    """What a schema allows: `recursive`, values nested as deep as a record's bytes say; `endless`, arrays of items that
    take no bytes; `floats`. `dearest`: the most microseconds that one byte of arrays and maps takes to be read.
    """

    def __init__(self, schema: Any, named: Mapping[str, Any]) -> None:
        self.recursive = self.endless = self.floats = False
        self.dearest = 0.0
        self._named = named
        self._records: dict[str, _Cost | None] = {}
        self._cost(schema)

    def _cost(self, schema: Any) -> _Cost:
        if isinstance(schema, list):
            return self._union(schema)
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in self._named:
            schema, kind = self._named[kind], self._named[kind]["type"]
        self.floats |= kind in _FLOATS
        if kind in ("record", "error"):
            return self._record(schema)
        if kind in ("array", "map"):
            self._repeat(self._cost(schema["items" if kind == "array" else "values"]), is_map=kind == "map")
            return _Cost(1, 1, _ARRAY_TIME)
        size = int(schema["size"]) if kind == "fixed" else _SIZES.get(kind, 1)
        converted = isinstance(schema, dict) and "logicalType" in schema
        return _Cost(size, size, _SCALAR_TIME + (_PYTHON_TIME if converted else 0))

    def _repeat(self, item: _Cost, *, is_map: bool) -> None:
        self.endless |= item.least == 0 and not is_map
        key = 1 if is_map else 0
        self.dearest = max(self.dearest, (item.time + key * _SCALAR_TIME) / max(item.size + key, 1))

    def _union(self, branches: list[Any]) -> _Cost:
        costs = [self._cost(each) for each in branches] or [_Cost(0, 0, 0)]
        worst = max(costs, key=lambda each: (each.time + _SCALAR_TIME) / (each.size + 1))
        return _Cost(1 + min(each.least for each in costs), 1 + worst.size, _SCALAR_TIME + worst.time)

    def _record(self, schema: Mapping[str, Any]) -> _Cost:
        name = schema["name"]
        if name not in self._records:
            self._records[name] = None
            fields = [self._cost(field["type"]) for field in schema["fields"]]
            self._records[name] = _Cost(
                sum(each.least for each in fields),
                sum(each.size for each in fields),
                _RECORD_TIME + sum(each.time for each in fields),
            )
        cost = self._records[name]
        self.recursive |= cost is None
        return _Cost(1, 1, _RECORD_TIME) if cost is None else cost
