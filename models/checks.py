"""CPU checks on a loaded document: their registry, the built-in ones, and what a pool child runs.

A check is a plain function of the value (the whole document, or the field that the request names) and its
arguments. What it returns becomes the `value` of the check's result; False is an answer, raising is an error.

    @check
    def is_even(value: int) -> bool:
        return value % 2 == 0
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

from marshmallow import ValidationError

from models import strictjson
from models.schema import kind

Check = Callable[..., Any]

MAX_VALUE_BYTES = 65_536
"""Bytes of JSON that one check may return."""


@dataclass(frozen=True, slots=True)
class Call:
    """A check to run: its name, the dotted path of the field it looks at (None: the whole document), its arguments."""

    name: str
    field: str | None = None
    args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one call: `value`, or `error` saying why there is none. `elapsed` is in seconds."""

    value: Any = None
    error: str | None = None
    elapsed: float = 0.0


_REGISTRY: dict[str, Check] = {}


@overload
def check(target: Check, /) -> Check: ...
@overload
def check(target: str, /) -> Callable[[Check], Check]: ...
def check(target: Check | str, /) -> Check | Callable[[Check], Check]:
    """Register a function as a check, under its own name or the one given. Raises ValueError if taken."""
    if isinstance(target, str):
        return lambda function: _register(target, function)
    return _register(target.__name__, target)


def _register(name: str, function: Check) -> Check:
    known = _REGISTRY.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
        msg = f"the check name {name!r} is taken"
        raise ValueError(msg)
    _REGISTRY[name] = function
    return function


def names() -> list[str]:
    """Return every check name a request may give."""
    return sorted(_REGISTRY)


def check_known(name: str) -> None:
    """Raise ValidationError, naming the known ones, if no check has this name."""
    if name not in _REGISTRY:
        msg = f"no check {name[:60]!r}; known: {', '.join(names())}"
        raise ValidationError(msg)


def select(document: Any, path: str | None) -> Any:
    """Return what a dotted path names in a document; numbers index arrays. Raises ValueError if it is not there."""
    value = document
    for step in path.split(".") if path else ():
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            msg = f"the document has no field {path!r}"
            raise ValueError(msg)
    return value


def run(name: str, value: Any, args: Mapping[str, Any]) -> Verdict:
    """Run one check here and now; whatever it raises becomes the verdict's error."""
    started = time.perf_counter()
    try:
        answer = _REGISTRY[name](value, **args)
        encoded = strictjson.dumps(answer)
        if strictjson.deeper_than(encoded, strictjson.MAX_DEPTH):
            msg = f"returned a value nested deeper than {strictjson.MAX_DEPTH} levels"
            raise ValueError(msg)  # noqa: TRY301
        if len(encoded) > MAX_VALUE_BYTES:
            msg = f"returned more than {MAX_VALUE_BYTES} bytes of JSON"
            raise ValueError(msg)  # noqa: TRY301  one place turns every failure into a verdict
    except Exception as exc:  # noqa: BLE001  a check is foreign code
        reason = f"{type(exc).__name__}: {exc}"[:400].encode(errors="backslashreplace").decode()[:400]
        return Verdict(error=reason, elapsed=time.perf_counter() - started)
    return Verdict(value=answer, elapsed=time.perf_counter() - started)


def run_batch(calls: Sequence[tuple[str, Any, Mapping[str, Any]]]) -> list[Verdict]:
    """Run several checks in order: what one submission to a pool child does."""
    return [run(name, value, args) for name, value, args in calls]


def prepare_child(modules: Sequence[str]) -> None:
    """Import the plugins in a fresh pool child, so that their checks are registered there too."""
    for module in modules:
        importlib.import_module(module)


# The first thirteen primes decide every number below this bound (Sorenson and Webster, 2015).
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
_WITNESS_BOUND = 3_317_044_064_679_887_385_961_981


@check
def is_prime(value: int) -> bool:
    """Whether an integer is prime, by deterministic Miller-Rabin.

    Proven below 3.3e24; above, every base up to 2·ln(n)² is tried, which is a proof under the generalised
    Riemann hypothesis (Bach, 1990). Takes an integer, or a string of decimal digits; raises TypeError otherwise.
    """
    number = _integer(value)
    if number < _WITNESSES[-1] + 1:
        return number in _WITNESSES
    if any(number % prime == 0 for prime in _WITNESSES):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    bases = _WITNESSES if number < _WITNESS_BOUND else range(2, int(2 * math.log(number) ** 2) + 1)
    return not any(_composite_by(base, number, odd, twos) for base in bases)


def _composite_by(base: int, number: int, odd: int, twos: int) -> bool:
    power = pow(base, odd, number)
    if power in (1, number - 1):
        return False
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return False
    return True


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii():
        return int(value)
    msg = f"takes an integer, not {kind(value)}"
    raise TypeError(msg)


@check
def sha256(value: Any) -> str:
    """Return the SHA-256 digest, in hex, of a string's UTF-8, or of any other value's compact JSON, keys sorted."""
    data = value.encode() if isinstance(value, str) else strictjson.canonical(value)
    return hashlib.sha256(data).hexdigest()


@check
def json_schema(value: Any, schema: Any) -> bool:
    """Whether a value fits a JSON Schema (draft 2020-12 unless `$schema` says otherwise). Raises on a bad schema."""
    return bool(_validator(strictjson.dumps(schema)).is_valid(value))


@lru_cache(maxsize=32)
def _validator(schema: bytes) -> Any:
    import jsonschema  # noqa: PLC0415  40 ms that only the children which meet this check should pay
    from referencing import Registry  # noqa: PLC0415

    parsed = strictjson.loads(schema)
    validator = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft202012Validator)
    validator.check_schema(parsed)
    return validator(parsed, registry=Registry())  # an empty registry: a $ref never fetches
