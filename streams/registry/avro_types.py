"""Avro's logical types to text and back. fastavro calls what is registered here, while it reads and writes.

A schema is made ready to name these (`avro_schema.py`): Avro's own names stay as fastavro has them, for others who use
it in this process. What cannot be converted goes through as it is, so that a union tries its next branch.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final
from uuid import UUID

from fastavro.read import LOGICAL_READERS
from fastavro.write import LOGICAL_WRITERS

PREFIX: Final = "millrace-"
_DAY: Final = date(1970, 1, 1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_START: Final = _EPOCH.replace(tzinfo=None)
_PARTS: Final = {"millis": 3, "micros": 6, "nanos": 9}
"""Digits after the point, of a second."""
_SPARE: Final = 16
"""Bytes that an encoded decimal may have beyond those that its precision needs."""
_FLOAT_MAX: Final = 3.4028235677973366e38
"""The least number that rounds to infinity as a float of 4 bytes."""
_STEP: Final = 768 << 10
"""Bytes that are encoded at once: a thread keeps all others waiting meanwhile. A multiple of 3, as base64 needs."""
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
_CLOCK = re.compile(r"(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")


class BeyondFloat(str):
    """A number that no float of 4 bytes, or double, can be, as text, which none is made of."""

    __slots__ = ()


class BinaryDefault(str):
    """The default of a field of bytes, which a schema writes as characters of Latin-1."""

    __slots__ = ()


Convert = Callable[..., Any]
"""A value and its schema to a value; a reader is also given the reader's schema."""


def _to_base64(data: bytes, *_: Any) -> str:
    return "".join(base64.b64encode(data[at : at + _STEP]).decode() for at in range(0, len(data), _STEP))


def _from_base64(value: Any, _: Any) -> Any:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return value
    return value


def _to_number(value: float, *_: Any) -> float | str:
    """Return what JSON has no number for as text, as Protobuf's JSON does."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_number(value: Any, schema: Any) -> Any:
    """Return what fastavro writes; it would write an infinity for a number that is too large."""
    number = float(value) if value in ("NaN", "Infinity", "-Infinity") or isinstance(value, Decimal) else value
    if schema["type"] == "float" and isinstance(number, int | float) and _FLOAT_MAX <= abs(number) < math.inf:
        return BeyondFloat(value)
    if isinstance(value, Decimal) and value.is_finite() and math.isinf(number):
        return BeyondFloat(value)
    return number


def _to_date(days: int, *_: Any) -> str | int:
    try:
        return (_DAY + timedelta(days)).isoformat()
    except OverflowError:
        return days


def _from_date(value: Any, _: Any) -> Any:
    try:
        return (date.fromisoformat(value) - _DAY).days if isinstance(value, str) else value
    except ValueError:
        return value


def _to_time(digits: int) -> Convert:
    second = 10**digits

    def convert(value: int, *_: Any) -> str | int:
        seconds, rest = divmod(value, second)
        if not 0 <= seconds < 86_400:  # noqa: PLR2004  a day
            return value
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:0{digits}}"

    return convert


def _from_time(digits: int) -> Convert:
    def convert(value: Any, _: Any) -> Any:
        found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            return value
        try:
            clock = time.fromisoformat(found[1])
        except ValueError:
            return value
        seconds = clock.hour * 3600 + clock.minute * 60 + clock.second
        return _whole(value, seconds, found[2], digits)

    return convert


def _to_stamp(digits: int, zone: str) -> Convert:
    second = 10**digits

    def convert(value: int, *_: Any) -> str | int:
        seconds, rest = divmod(value, second)
        try:
            moment = _START + timedelta(seconds=seconds)
        except OverflowError:
            return value
        return f"{moment.isoformat()}.{rest:0{digits}}{zone}"

    return convert


def _from_stamp(digits: int) -> Convert:
    def convert(value: Any, _: Any) -> Any:
        found = _STAMP.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            return value
        try:
            moment = datetime.fromisoformat(found[1] + (found[3] or "Z"))
        except ValueError:
            return value
        return _whole(value, round((moment - _EPOCH).total_seconds()), found[2], digits)

    return convert


def _whole(value: Any, seconds: int, fraction: str | None, digits: int) -> Any:
    """Return a number of units of which a second has 10**digits; the value itself if it is finer than that."""
    fraction = (fraction or "").rstrip("0")
    return value if len(fraction) > digits else seconds * 10**digits + int(fraction.ljust(digits, "0"))


def _to_decimal(data: bytes, schema: Any, *_: Any) -> Decimal:
    precision = schema["precision"]
    if len(data) > precision // 2 + _SPARE:  # a decimal digit takes 0.42 bytes; more takes quadratic time
        msg = f"a decimal of {len(data)} bytes, of a precision of {precision} digits"
        raise ValueError(msg)
    unscaled = Decimal(int.from_bytes(data, signed=True))
    return unscaled.scaleb(-schema.get("scale", 0), Context(prec=precision + 3 * _SPARE))


def _from_decimal(value: Any, schema: Any) -> Any:
    if isinstance(value, bytes | bool) or not isinstance(value, int | float | str | Decimal):
        return value
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # Python's own digits
        return value
    scale, precision = schema.get("scale", 0), schema["precision"]
    try:
        exact = Context(prec=precision, traps=[Inexact, InvalidOperation])
        scaled = Decimal(str(value)).scaleb(scale, exact)
        if scaled and scaled.adjusted() >= precision:  # 1E+1000000 is no integer to be made
            return value
        unscaled = int(scaled.to_integral_exact(context=exact))
        size = (unscaled.bit_length() + 8) // 8
        return unscaled.to_bytes(schema["size"] if schema["type"] == "fixed" else size, signed=True)
    except (ArithmeticError, ValueError):
        return value


def _to_uuid(data: bytes, *_: Any) -> str:
    return str(UUID(bytes=data))


def _from_uuid(value: Any, _: Any) -> Any:
    try:
        return UUID(value).bytes if isinstance(value, str) else value
    except ValueError:
        return value


TYPES: dict[tuple[str, str], tuple[Convert, Convert]] = {
    ("bytes", "base64"): (_to_base64, _from_base64),
    ("fixed", "base64"): (_to_base64, _from_base64),
    ("float", "number"): (_to_number, _from_number),
    ("double", "number"): (_to_number, _from_number),
    ("int", "date"): (_to_date, _from_date),
    ("int", "time-millis"): (_to_time(3), _from_time(3)),
    ("long", "time-micros"): (_to_time(6), _from_time(6)),
    ("bytes", "decimal"): (_to_decimal, _from_decimal),
    ("fixed", "decimal"): (_to_decimal, _from_decimal),
    ("fixed", "uuid"): (_to_uuid, _from_uuid),
    **{
        ("long", f"{local}timestamp-{part}"): (_to_stamp(digits, zone), _from_stamp(digits))
        for part, digits in _PARTS.items()
        for local, zone in (("", "Z"), ("local-", ""))
    },
}
"""By an Avro type and its logical type, what reads and what writes it; `base64` and `number` are ours."""


def _register(name: str, read: Convert, write: Convert) -> None:
    def written(value: Any, schema: Any) -> Any:
        return value.encode("latin-1") if type(value) is BinaryDefault else write(value, schema)

    LOGICAL_READERS[name] = read
    LOGICAL_WRITERS[name] = written


for (_kind, _logical), _ways in TYPES.items():
    _register(f"{_kind}-{PREFIX}{_logical}", *_ways)
