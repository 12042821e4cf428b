"""Single values of Protobuf's types in the form in which `json_format` loses nothing of them, or refused.

Each function takes a value and its path, and raises ValueError with the path of what does not fit. Null stays null.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from models import strictjson
from models.strictjson import NegativeZero

Fit = Callable[[Any, str], Any]
"""Returns a value as `json_format` is to have it. Raises ValueError with the path of what does not fit."""

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")
_DIGITS: Final = 20
"""Digits of the largest integer, 2^64 - 1."""
_ENUM: Final = 1 << 31
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*+={0,2}")
"""Of either alphabet, padded or not (RFC 4648, sections 4 and 5)."""
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
SHOWN: Final = 40
"""Characters of a value or a key that an error shows."""


def boolean(value: Any, _: str) -> Any:
    """Return it: `json_format` takes nothing but true and false, and of a map's keys their text."""
    return value


def string(value: Any, path: str) -> Any:
    """Return text."""
    if value is not None and not isinstance(value, str):
        raise misfit(path, value, "a string")
    return value


def binary(value: Any, path: str) -> Any:
    """Return text that is base64."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise misfit(path, value, "bytes in base64")
    digits = len(value.rstrip("="))
    if not _BASE64.fullmatch(value) or digits % 4 == 1 or (digits < len(value) and len(value) % 4):
        msg = f"{path}: not base64"
        raise ValueError(msg)
    return value


def enum(value: Any, path: str, names: frozenset[str], kind: str) -> Any:
    """Return a value's name, one of `names`, or its number."""
    if value is None or (isinstance(value, str) and value in names):
        return value
    if value is True or value is False or (isinstance(value, str) and not _INTEGER.fullmatch(value)):
        raise misfit(path, value, f"a value of {kind}")
    number: int = integer(value, path)
    if not -_ENUM <= number < _ENUM:
        raise _beyond(path, value, "an enum")
    return number


def integer(value: Any, path: str) -> Any:
    """Return an integer; `json_format` judges its range."""
    if value is None or type(value) is int:
        return value
    if value is True or value is False or not isinstance(value, (str, int, float, Decimal)):
        raise misfit(path, value, "an integer")
    try:
        number = Decimal(_text(value, path))
    except ArithmeticError:  # an exponent of twenty digits
        raise _beyond(path, value, "an integer") from None
    if number and number.adjusted() >= _DIGITS:
        raise _beyond(path, value, "an integer")
    if number != number.to_integral_value():
        raise misfit(path, value, "an integer")
    return int(number)


def double(value: Any, path: str) -> Any:
    """Return a finite number, or the name of one that is not."""
    if value is None or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, str) and value in _NOT_FINITE:
        return value
    if value is True or value is False or not isinstance(value, (str, int, float, Decimal)):
        raise misfit(path, value, "a number")
    if isinstance(value, NegativeZero):
        return -0.0
    try:
        number = float(value if isinstance(value, (int, float)) else _text(value, path))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _beyond(path, value, "a double")
    return number


def single(value: Any, path: str) -> Any:
    """Return a number as a float of 4 bytes has it."""
    number = double(value, path)
    if not isinstance(number, float):
        return number
    try:
        return struct.unpack("<f", struct.pack("<f", number))[0]  # rounded as C++ does it
    except OverflowError:
        raise _beyond(path, value, "a float") from None


def anything(value: Any, path: str, kind: type = object) -> Any:
    """Return a value of any JSON, whose numbers are doubles."""
    if value is not None and not isinstance(value, kind):
        raise misfit(path, value, "an object" if kind is dict else "a list")
    if isinstance(value, dict):
        return {name: anything(each, f"{path}.{name[:SHOWN]}") for name, each in value.items()}
    if isinstance(value, list):
        return [anything(each, f"{path}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, (bool, str)):
        return value
    return double(value, path)


def matching(value: Any, path: str, pattern: re.Pattern[str], kind: str) -> Any:
    """Return text that matches a pattern."""
    if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
        raise misfit(path, value, f"a {kind}")
    return value


def _text(value: Any, path: str) -> str:
    """Return a number's text, that of a `Number` being what was written."""
    text = str(value)
    if not _NUMBER.fullmatch(text):
        raise misfit(path, value, "a number")
    return text


def misfit(path: str, value: Any, kind: str) -> ValueError:
    """Return the error for a value of another type."""
    return ValueError(f"{path}: {_shown(value)}, not {kind}")


def _shown(value: Any) -> str:
    """Return a value as its sender wrote it, in JSON, or of which type it is."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return (str(value) if isinstance(value, Decimal) else strictjson.dumps(value, exact=True).decode())[:SHOWN]


def _beyond(path: str, value: Any, kind: str) -> ValueError:
    return ValueError(f"{path}: {str(value)[:SHOWN]} is beyond the range of {kind}")


FITS: Final[dict[int, Fit]] = {
    FieldDescriptor.TYPE_BOOL: boolean,
    FieldDescriptor.TYPE_STRING: string,
    FieldDescriptor.TYPE_BYTES: binary,
    FieldDescriptor.TYPE_DOUBLE: double,
    FieldDescriptor.TYPE_FLOAT: single,
}
"""By field types; the others are integers."""
