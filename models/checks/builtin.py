"""The built-in checks except `is_prime`, which has its own module."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from models import strictjson
from models.checks.registry import check

SMALLEST = 1e-300
"""What is nearer to zero than that, and no zero, is a multiple of nothing."""
MAX_KEPT_SCHEMA = 64 << 10
"""Bytes of a JSON Schema whose validator is cached."""
MAX_PATTERN = 1_000
"""Characters of a regular expression."""
MAX_PATTERN_BYTES = 256 << 10
"""Bytes of memory for a compiled one, in the worker and in each child. The worst of 1,000 characters compiles in 2 ms
with this limit, and in 170 ms with RE2's default of 8 MiB.
"""

_DIALECT = re.compile(r"https?://json-schema\.org/(draft-0[3467]|draft/(?:2019-09|2020-12))/schema#?")
_LATEST = "draft/2020-12"
# Keywords of any dialect whose value is a schema or an array of them, and those whose members are schemas.
_SCHEMAS = frozenset(
    ("additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "contentSchema", "disallow", "else",
     "extends", "if", "items", "not", "oneOf", "prefixItems", "propertyNames", "then", "type", "unevaluatedItems",
     "unevaluatedProperties")
)  # fmt: skip
_NAMED_SCHEMAS = frozenset(
    ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
)


@check(inline=True)
def sha256(value: Any) -> str:
    """Return the SHA-256 digest, in hex, of a string's UTF-8, or of any other value's compact JSON, keys sorted."""
    data = value.encode() if isinstance(value, str) else strictjson.canonical(value)
    return hashlib.sha256(data).hexdigest()


def _dialect(schema: Any) -> str | None:
    """Return the dialect that a schema names, None if it names none. Raises ValueError for an unknown dialect."""
    named = schema.get("$schema") if isinstance(schema, Mapping) else None
    if named is None:
        return None
    found = _DIALECT.fullmatch(named) if isinstance(named, str) else None
    if found is None:
        msg = f"$schema: unknown dialect {str(named)[:80]!r}; known: draft-03, -04, -06, -07, 2019-09, 2020-12"
        raise ValueError(msg)
    return found[1]


def _subschemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for keyword, value in schema.items():
        found: Iterable[Any] = ()
        if keyword in _SCHEMAS:
            found = value if isinstance(value, list) else (value,)
        elif keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            found = value.values()
        yield from (each for each in found if isinstance(each, dict))


def _resources(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield the schemas in a schema that name a dialect, outer ones first."""
    if isinstance(schema, dict):
        if "$schema" in schema:
            yield schema
        for each in _subschemas(schema):
            yield from _resources(each)


def _has_known_dialects(args: Mapping[str, Any]) -> None:
    for each in _resources(args["schema"]):
        _dialect(each)


@check(judge=_has_known_dialects)
def json_schema(value: Any, schema: dict[str, Any] | bool) -> bool:  # noqa: FBT001  true and false are schemas too
    """Whether a value fits a JSON Schema (draft 2020-12 unless `$schema` says otherwise, of the whole or of an embedded
    resource; an unknown dialect makes the request invalid). `multipleOf` goes by the decimal digits: 19.99 is a
    multiple of 0.01.

    Raises SchemaError for an invalid schema, and Unresolvable for a `$ref` out of it: nothing is ever fetched.
    """
    return bool(_validator_of(strictjson.dumps(schema)).is_valid(value))


def _validator_of(schema: bytes) -> Any:
    """Return a schema's validator; that of a large schema, which takes some 20 times its bytes, is not cached."""
    return _validator(schema) if len(schema) <= MAX_KEPT_SCHEMA else _validator.__wrapped__(schema)


@lru_cache(maxsize=32)
def _validator(schema: bytes) -> Any:
    from referencing import Registry  # noqa: PLC0415

    _check(strictjson.loads(schema))
    parsed = strictjson.loads(schema)
    validator = _validator_class(_dialect(parsed) or _LATEST)
    if isinstance(parsed, dict):
        _name_dialects(parsed, _LATEST)
    return validator(parsed, registry=Registry())  # an empty registry: a $ref never fetches


def _check(schema: Any) -> None:
    """Check each resource by the meta-schema of its own dialect (JSON Schema 2020-12, section 9.3.3). Raises
    SchemaError. Empties the schema.
    """
    for each in reversed([*_resources(schema)]):
        _validator_class(_dialect(each) or _LATEST).check_schema(each)
        each.clear()  # the resource around it takes it for an empty schema
    _validator_class(_LATEST).check_schema(schema)


def _name_dialects(schema: dict[str, Any], inherited: str) -> None:
    """Write its dialect into each schema, so that one that a `$ref` leads to is judged by that of its resource."""
    dialect = _dialect(schema) or inherited
    meta_schema = _validator_class(dialect).META_SCHEMA
    schema["$schema"] = meta_schema.get("$id") or meta_schema["id"]
    for each in _subschemas(schema):
        _name_dialects(each, dialect)


@lru_cache
def _validator_class(dialect: str) -> Any:
    import jsonschema  # noqa: PLC0415  40 ms that only the children which meet this check should pay

    classes: dict[str, Any] = {
        "draft-03": jsonschema.Draft3Validator,
        "draft-04": jsonschema.Draft4Validator,
        "draft-06": jsonschema.Draft6Validator,
        "draft-07": jsonschema.Draft7Validator,
        "draft/2019-09": jsonschema.Draft201909Validator,
        _LATEST: jsonschema.Draft202012Validator,
    }
    extend: Any = jsonschema.validators.extend
    exact = extend(classes[dialect], {"multipleOf": _multiple_of, "divisibleBy": _multiple_of})
    exact.evolve = _evolve
    return exact


def _evolve(validator: Any, **changes: Any) -> Any:
    """Return a validator like this one with another schema. jsonschema's own method returns one of its stock classes
    for a schema that names a dialect, which know nothing of decimal digits.
    """
    dialect = _dialect(changes["schema"])
    new = _validator_class(dialect) if dialect else type(validator)
    return new(**{"registry": validator._registry, "_resolver": validator._resolver, **changes})


def _multiple_of(validator: Any, divisor: float, value: Any, _: Any) -> Iterator[Exception]:
    """Validate `multipleOf` as jsonschema does, but with the exact decimal digits instead of doubles."""
    if validator.is_type(value, "number") and not is_multiple(value, divisor):
        from jsonschema import ValidationError  # noqa: PLC0415

        yield ValidationError(f"{value} is not a multiple of {divisor}")


def is_multiple(value: float, divisor: float) -> bool:
    """Whether a number is a multiple of another by its decimal digits: 19.99 is one of 0.01."""
    if not value:  # as a double: 1e-999999999, which is no zero, would take hours below
        return not str(value).lower().partition("e")[0].strip("-0.")
    if abs(value) < SMALLEST:
        return False
    return (Fraction(str(value)) / Fraction(str(divisor))).denominator == 1


def _has_bounds(args: Mapping[str, Any]) -> None:
    low, high = args.get("low"), args.get("high")
    if low is None and high is None:
        msg = "give low, high or both"
        raise ValueError(msg)
    if low is not None and high is not None and low > high:
        msg = "low is above high: no value can match"
        raise ValueError(msg)


@check("range", inline=True, judge=_has_bounds)
def is_in_range(value: float, low: float | None = None, high: float | None = None, exclusive: bool = False) -> bool:  # noqa: FBT001, FBT002  a request's JSON boolean
    """Whether a number is from `low` to `high`, both included unless `exclusive`. Raises TypeError for other types."""
    if exclusive:
        return (low is None or low < value) and (high is None or value < high)
    return (low is None or low <= value) and (high is None or value <= high)


@check("one_of", inline=True)
def is_one_of(value: Any, values: list[Any]) -> bool:
    """Whether a value is among `values`, by JSON's equality: 1 equals 1.0, and neither equals true."""
    return any(_same(value, each) for each in values)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


@check("length", inline=True, judge=_has_bounds)
def length_is_within(value: str | list[Any] | dict[str, Any], low: int | None = None, high: int | None = None) -> bool:
    """Whether a string has `low` to `high` characters, an array as many items, an object as many members."""
    return (low is None or low <= len(value)) and (high is None or len(value) <= high)


def _is_pattern(args: Mapping[str, Any]) -> None:
    _pattern(args["pattern"], bool(args.get("ignore_case", False)))


@check("regex", judge=_is_pattern)
def matches(value: str, pattern: str, full: bool = False, ignore_case: bool = False) -> bool:  # noqa: FBT001, FBT002  a request's JSON booleans
    """Whether a string contains, or with `full` is, a match of a regular expression.

    The syntax is RE2's, whose time is linear in the string: no look-around, no back-references. A pattern that is
    invalid, too large, or longer than 1,000 characters makes the request invalid.
    """
    found = _pattern(pattern, ignore_case)
    return (found.fullmatch(value) if full else found.search(value)) is not None


@lru_cache(maxsize=128)
def _pattern(pattern: str, ignore_case: bool) -> Any:  # noqa: FBT001
    import re2  # noqa: PLC0415  15 ms that only processes which run this check should pay

    if len(pattern) > MAX_PATTERN:
        msg = f"a pattern of {len(pattern)} characters; at most {MAX_PATTERN} are allowed"
        raise ValueError(msg)
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_PATTERN_BYTES
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as exc:
        detail = exc.args[0]
        reason = detail.decode(errors="replace") if isinstance(detail, bytes) else str(exc)
        msg = f"pattern: {reason} (the syntax is RE2's)"
        raise ValueError(msg) from None
