"""Values by a JSON Schema. What is read is JSON; what is written must fit the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urljoin

import jsonschema
import re2
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT7

from models import strictjson
from models.checks.builtin import is_multiple
from models.errors import InvalidDocument
from models.large import is_large
from streams.registry.client import Registered

MAX_BYTES: Final = 1 << 30
"""No limit of ours on what is written: the topic has one."""
MAX_SHOWN: Final = 100
"""Characters of a keyword's value that are shown."""


def _places(name: str, base: Any) -> set[str]:
    """Return by what a $ref may mean a reference: its name, and that relative to the `$id` of who refers to it."""
    return {name, urljoin(base, name)} if isinstance(base, str) else {name}


class JsonCodec:
    """Reads and writes values by one schema. Raises ValueError for a schema that cannot be used."""

    parts = 500
    """Parts of a value from which the check by its schema takes some milliseconds."""

    def __init__(self, schema: Registered) -> None:
        self.number = schema.number
        try:
            parsed = json.loads(schema.text)
            kind: Any = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft7Validator)
            kind.check_schema(parsed, format_checker=None)  # its patterns need not be Python's: \p{L} is none
            base = parsed.get("$id") if isinstance(parsed, dict) else None
            resources = [(place, Resource.from_contents(json.loads(text), default_specification=DRAFT7))
                         for name, text in schema.references.items() for place in _places(name, base)]  # fmt: skip
        except jsonschema.SchemaError as exc:
            msg = f"not a JSON Schema: {exc.message} at {exc.json_path}"
            raise ValueError(msg) from None
        except RecursionError:
            msg = "not a JSON Schema: it nests too deep"
            raise ValueError(msg) from None
        # A registry of what is referred to: a $ref never fetches.
        self._validator = _exact(kind)(parsed, registry=Registry().with_resources(resources))

    def is_large(self, data: bytes) -> bool:
        """Whether it takes more than some milliseconds to read a value."""
        return is_large(data)

    def decode(self, data: bytes) -> Any:
        """Return the value, whether it fits the schema or not, as Confluent's readers do. Raises ValueError."""
        return strictjson.loads(data, exact=True)

    def decode_in_steps(self, data: bytes) -> Any:
        """Do what `decode` does, for a thread: other threads have their turns in between."""
        return strictjson.loads_in_steps(data)

    def encode(self, value: Any) -> bytes:
        """Return a value's bytes. Raises InvalidDocument naming the field that does not fit."""
        self._check(value)
        return _dumped(lambda: strictjson.dumps(value, exact=True))

    def encode_in_steps(self, value: Any) -> bytes:
        """Do what `encode` does, for a thread."""
        self._check(value)
        return _dumped(lambda: strictjson.dumps_in_steps(value, MAX_BYTES))

    def _check(self, value: Any) -> None:
        try:
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as exc:
            msg = f"its schema refers to {exc.ref!r}, which is not among its references"
            raise InvalidDocument(msg) from None
        except RecursionError:
            msg = "it, or its schema, nests too deep"
            raise InvalidDocument(msg) from None
        except (
            ValueError,
            ArithmeticError,
            re.error,
        ) as exc:  # a number of 5,000 decimals, a pattern that nobody knows
            msg = f"it cannot be judged by its schema: {exc}"
            raise InvalidDocument(msg) from None
        if error is not None:
            wanted = json.dumps(error.validator_value, default=str)[:MAX_SHOWN]
            msg = f"{error.json_path}: does not fit {error.validator}: {wanted}"
            raise InvalidDocument(msg)


@lru_cache
def _exact(kind: Any) -> Any:
    """Return a class of validators with keywords of ours."""
    extend: Any = jsonschema.validators.extend
    exact = extend(kind, {"pattern": _matches, "multipleOf": _multiple_of, "divisibleBy": _multiple_of,
                          "uniqueItems": _unique})  # fmt: skip
    exact.evolve = _evolve
    return exact


def _evolve(validator: Any, **changes: Any) -> Any:
    """Return a validator like this one with another schema; jsonschema's own method returns one of its stock classes
    for a schema that names a dialect.
    """
    kind: Any = jsonschema.validators.validator_for(changes["schema"], default=type(validator))
    new = kind if kind is type(validator) else _exact(kind)
    return new(**{"registry": validator._registry, "_resolver": validator._resolver, **changes})


def _multiple_of(validator: Any, divisor: float, value: Any, _: Any) -> Iterator[jsonschema.ValidationError]:
    """Validate `multipleOf` by decimal digits."""
    if validator.is_type(value, "number") and not is_multiple(value, divisor):
        yield jsonschema.ValidationError("is not a multiple")


def _unique(validator: Any, wanted: Any, value: Any, _: Any) -> Iterator[jsonschema.ValidationError]:
    """Validate `uniqueItems` in linear time: jsonschema compares each item with all others."""
    if wanted is True and validator.is_type(value, "array") and len({_identity(each) for each in value}) < len(value):
        yield jsonschema.ValidationError("has an item twice")


def _identity(value: Any) -> Any:
    """Return what two values have in common if they are the same to JSON Schema: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return frozenset((name, _identity(each)) for name, each in value.items())
    if isinstance(value, list):
        return tuple(map(_identity, value))
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return type(value), value
    sign, digits, exponent = Decimal(str(value)).as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    return (sign, short, int(exponent) + len(text) - len(short)) if short else 0


def _dumped(dump: Any) -> bytes:
    try:
        data: bytes = dump()
    except ValueError as exc:
        raise InvalidDocument(str(exc)) from None
    return data


def _matches(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[jsonschema.ValidationError]:
    """Validate `pattern` in linear time where RE2 knows its syntax."""
    if not validator.is_type(value, "string"):
        return
    compiled = _compiled(pattern)
    if compiled is None:
        yield from jsonschema.Draft7Validator.VALIDATORS["pattern"](validator, pattern, value, _)
    elif compiled.search(value) is None:
        yield jsonschema.ValidationError("does not match")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    """Return a pattern by RE2; None if that does not know its syntax."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError):
        return None
