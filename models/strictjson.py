"""Strict JSON (RFC 8259, I-JSON of RFC 7493): UTF-8, no NaN or Infinity, no duplicate
keys, no lone surrogates, bounded nesting. `loads` reports what is invalid; `dumps` writes compact UTF-8.

A number becomes a double. Where its digits matter, `loads(exact=True)` returns a `Number` for one that a double would
change: a float that `str`, `dumps(exact=True)` and `canonical` write with its original digits.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import accumulate
from typing import Any, NoReturn, Self

MAX_DEPTH = 64
"""Levels of objects and arrays that a value may nest."""

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
"""Any escape; the group is a surrogate without its other half."""


# Marks a string that stands for a number which the encoder cannot write; random, so that no input contains it.
_MARK = f"number {secrets.token_hex(8)} "
_MARKED = re.compile(f'"{_MARK}([-+.0-9Ee]+)"')
_RAW_MARK = f"raw {secrets.token_hex(8)} "
_MARKED_RAW = re.compile(f'"{_RAW_MARK}([0-9]+)"'.encode())
_SCALARS = frozenset({str, int, float, bool, type(None)})
_BLANKS = b" \t\r\n"
# One of these is in any JSON text with blanks between its tokens. They may be in strings too, which is harmless.
_SPREAD = (b", ", b": ", b"\n", b"\r", b"\t", b"[ ", b"{ ", b" ]", b" }", b" ,", b" :")
BOM = b"\xef\xbb\xbf"


class Number(float):
    """A number with its original digits, which a double would lose: 1.10, 0.29999999999999998."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Parse a number. Raises ValueError."""
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.text,)


class NegativeZero(int):
    """`-0`, which Python's int cannot represent."""

    text = "-0"

    def __str__(self) -> str:
        return self.text


class Raw:
    """A value parsed elsewhere, as text: `dumps` writes the text, `canonical` its digest."""

    __slots__ = ("digest", "kind", "text")

    def __init__(self, value: Any, kind: str) -> None:
        self.text = dumps(value, exact=True)
        self.digest = hashlib.blake2b(canonical(value), digest_size=20).hexdigest()
        self.kind = kind

    @classmethod
    def of_text(cls, text: bytes) -> Self:
        """Return a value whose text is known, to be written and not compared."""
        raw = cls.__new__(cls)
        raw.text, raw.digest, raw.kind = text, "", "a value"
        return raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raw) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def read(self) -> Any:
        """Return the value."""
        return loads(self.text, exact=True)


class NotUtf8(ValueError):
    """The bytes are not UTF-8."""


def loads(data: bytes, *, max_depth: int = MAX_DEPTH, exact: bool = False, quick: bool = False) -> Any:
    """Parse one JSON value. Raises ValueError with the reason.

    `exact`: numbers that a double would change are `Number`s. `quick`: a number may be infinite, at less than half of
    the cost; for one who looks at the value and passes the text on.
    """
    if deeper_than(data, max_depth):
        raise ValueError(_too_deep(max_depth))
    return _loads(data, _decode_exact if exact else _decode_quick if quick else _decode)


def loads_in_steps(data: bytes) -> Any:
    """Do what `loads(exact=True)` does, for a thread beside the event loop: other threads have their turns in between,
    where `loads` keeps them waiting 20 to 200 ms for each megabyte. Takes some ten times as long.
    """
    value = _loads(data, _decode_in_steps)
    refuse_depth(value)
    return value


def refuse_depth(value: Any) -> None:
    """Raise ValueError for a value that nests deeper than MAX_DEPTH, if JSON text is not what it was made of."""
    level, depth = [value], 0
    while level := [inner for each in level if isinstance(each, dict | list)
                    for inner in (each.values() if isinstance(each, dict) else each)]:  # fmt: skip
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(_too_deep(MAX_DEPTH))


def _too_deep(limit: int) -> str:
    return f"nested deeper than {limit} levels"


def _loads(data: bytes, decode: Callable[[str], Any]) -> Any:
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as exc:
        msg = f"not UTF-8 at byte {exc.start}"
        raise NotUtf8(msg) from None
    try:
        value = decode(text)
    except RecursionError:
        msg = "nested too deep"
        raise ValueError(msg) from None
    except json.JSONDecodeError as exc:
        msg = f"not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
        raise ValueError(msg) from None
    except ValueError as exc:
        if "int_max_str_digits" in str(exc):  # CPython's limit against quadratic time (CVE-2020-10735)
            msg = "a number of more than 4300 digits"
            raise ValueError(msg) from None
        raise
    if b"\\u" in data and _SURROGATE_ESCAPE.search(data) is not None:
        _refuse_lone_surrogates(value)
    return value


def dumps_spaced(value: Any) -> bytes:
    """Do what `dumps` does with `exact`, with a blank behind each comma and colon between tokens."""
    return _unmarked(_encode_spaced(_marked(value, []))).encode()


def indented(value: Any) -> str:
    """Return what `dumps` writes with `exact`, as text with indentation, for people."""
    return _unmarked(_encode_indented(_marked(value, [])))


def dumps(value: Any, *, exact: bool = False) -> bytes:
    """Encode compactly as UTF-8. Raises ValueError for values that JSON cannot represent (NaN, lone surrogates).

    A Decimal is written with its digits; a `Number` too if `exact`, which visits every value.
    """
    raw: list[bytes] = []
    text = _encode(_marked(value, raw) if exact else value)
    data = _unmarked(text).encode()
    return _MARKED_RAW.sub(lambda found: raw[int(found[1])], data) if raw else data


def dumps_in_steps(value: Any, limit: int) -> bytes:
    """Do what `dumps` does with `exact`, for a thread beside the event loop: other threads have their turns in between,
    where `dumps` keeps them waiting 10 ms for each megabyte. Stops with OverflowError after `limit` bytes.
    """
    data = bytearray()
    for token in _tokens(value):
        data += _unmarked(token).encode()
        if len(data) > limit:
            raise OverflowError
    return bytes(data)


def canonical(value: Any) -> bytes:
    """Encode with the keys of every object sorted, digits as they are: the same bytes for the same value."""
    return _unmarked(_encode(_ordered(value))).encode()


def compact(data: bytes) -> bytes:
    """Return a JSON text, which must be valid, without blanks between its tokens.

    Takes two thirds of the time of encoding the value again. A valid text has no control characters: two of them
    temporarily replace the escapes that would hide the end of a string.
    """
    data = data.removeprefix(BOM).strip(_BLANKS)
    if not any(map(data.__contains__, _SPREAD)):
        return data
    escapes = b"\\" in data
    if escapes:
        data = data.replace(b"\\\\", b"\x00").replace(b'\\"', b"\x01")
    parts = data.split(b'"')
    parts[::2] = b'"'.join(parts[::2]).translate(None, _BLANKS).split(b'"')  # those outside of strings
    data = b'"'.join(parts)
    return data.replace(b"\x00", b"\\\\").replace(b"\x01", b'\\"') if escapes else data


def quote(text: str) -> bytes:
    """Encode one string as a JSON string in UTF-8."""
    return _quote(text).encode()


def _ordered(value: Any) -> Any:
    """Return a value with sorted keys, each `Raw` as its digest, and each `Number` as the text that `dumps` knows."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return [_ordered(item) for item in value]
    if kind is dict or isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, Raw):
        return f"{_MARK}+{int(value.digest or '0', 16)}"  # no number of JSON begins with a plus
    if isinstance(value, Number | NegativeZero):
        return _MARK + value.text
    return [_ordered(item) for item in value] if isinstance(value, list | tuple) else value


def _marked(value: Any, raw: list[bytes]) -> Any:
    """Replace every `Number` by a marked string that `dumps` turns back into a number, and every `Raw` by one that
    refers to `raw`.
    """
    match value:
        case Number() | NegativeZero():
            return _MARK + value.text
        case Mapping():
            return {key: _marked(each, raw) for key, each in value.items()}
        case list() | tuple():
            return [_marked(each, raw) for each in value]
        case Raw():
            raw.append(value.text)
            return f"{_RAW_MARK}{len(raw) - 1}"
    return value


def _unmarked(text: str) -> str:
    """Return JSON text with the numbers that marked strings stand for."""
    return _MARKED.sub(r"\1", text) if _MARK in text else text


def _default(value: Any) -> str:
    if isinstance(value, Decimal):
        if value.is_finite():
            return f"{_MARK}{value}"
        msg = f"{value} is not a JSON number"
        raise ValueError(msg)
    msg = f"{type(value).__name__} is not JSON serializable"
    raise TypeError(msg)


def _tokens(value: Any) -> Iterable[str]:
    """Yield what `JSONEncoder.iterencode` does. That writes each float by `float.__repr__`; the generator that it makes
    takes functions for numbers, at no cost.
    """
    make: Any = json.encoder._make_iterencode  # type: ignore[attr-defined]
    tokens: Iterable[str] = make(
        {}, _default, _quote, None, _digits, ":", ",", _sort_keys=False, _skipkeys=False, _one_shot=False,
        _intstr=_int_digits,
    )(value, 0)  # fmt: skip
    return tokens


def _digits(number: float) -> str:
    if isinstance(number, Number):
        return number.text
    if math.isfinite(number):
        return float.__repr__(number)
    msg = f"{number} is not a JSON number"
    raise ValueError(msg)


def _int_digits(number: int) -> str:
    return number.text if isinstance(number, NegativeZero) else int.__repr__(number)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        msg = f"duplicate key {name!r}"
        raise ValueError(msg)
    return members


def _constant(name: str) -> NoReturn:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        msg = f"number out of range: {digits[:40]}"
        raise ValueError(msg)
    return number


def as_written(digits: str) -> float:
    """Return a number, as a `Number` if a double would change its digits. Raises ValueError for one out of range."""
    number = _float(digits)
    return number if repr(number) == digits else Number(digits)


def int_as_written(digits: str) -> int:
    """Return a whole number; -0 has a sign that Python's does not have."""
    return NegativeZero() if digits == "-0" else int(digits)


def _decoder(**options: Any) -> Callable[[str], Any]:
    """Return a `JSONDecoder`'s `decode`, without the two searches for blanks that no text has which a program wrote."""
    decoder: Any = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, **options)
    scan, decode = decoder.scan_once, decoder.decode

    def quick(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except StopIteration:  # it begins with a blank, or there is no value
            return decode(text)
        return value if end == len(text) or not text[end:].strip(" \t\r\n") else decode(text)

    return quick


_decode = _decoder(parse_float=_float)
_decode_quick = _decoder()
_decode_exact = _decoder(parse_float=as_written, parse_int=int_as_written)
_stepping: Any = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=as_written, parse_int=int_as_written
)
_stepping.scan_once = json.scanner.py_make_scanner(_stepping)  # type: ignore[attr-defined]  # in Python
_decode_in_steps = _stepping.decode
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default)
_encode = _encoder.encode
_encode_spaced = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_encode_indented = json.JSONEncoder(ensure_ascii=False, indent=2).encode
_quote = json.encoder.encode_basestring


def deeper_than(data: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest deeper than `limit`; their count alone decides nearly every case."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    # Up to the first syntax error, where parsing stops, backslashes occur in strings only.
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    steps = memoryview(outside.translate(_STEPS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0) > limit


def well_formed(data: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each surrogate that stands alone, as JavaScript's `toWellFormed` does."""
    if b"\\u" not in data or _SURROGATE_ESCAPE.search(data) is None:
        return data
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data)


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        msg = "a lone surrogate is not valid Unicode"
        raise ValueError(msg) from None
