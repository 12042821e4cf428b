"""JSON as the contract reads it (RFC 8259, I-JSON of RFC 7493): UTF-8, no NaN or Infinity, no duplicate
keys, no lone surrogates, bounded nesting. `loads` refuses, saying why; `dumps` writes compact UTF-8.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Levels of objects and arrays that a value may nest."""

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse one JSON value. Raises ValueError with a reason a person can act on."""
    if deeper_than(data, max_depth):
        msg = f"nested deeper than {max_depth} levels"
        raise ValueError(msg)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        msg = f"not UTF-8 at byte {exc.start}"
        raise ValueError(msg) from None
    try:
        value = _decode(text)
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
    if _SURROGATE_ESCAPE.search(data) is not None:
        _refuse_lone_surrogates(value)
    return value


def dumps(value: Any) -> bytes:
    """Encode compactly as UTF-8. Raises ValueError for what JSON cannot say (NaN, lone surrogates)."""
    return _encode(value).encode()


def canonical(value: Any) -> bytes:
    """Encode with the keys of every object sorted: the same bytes for the same value."""
    return _encode(_ordered(value)).encode()


def quote(text: str) -> bytes:
    """Encode one string as a JSON string in UTF-8."""
    return _quote(text).encode()


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list | tuple) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        msg = f"duplicate key {name!r}"
        raise ValueError(msg)
    return members


def _constant(name: str) -> NoReturn:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        msg = f"number out of range: {digits[:40]}"
        raise ValueError(msg)
    return number


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float).decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_quote = json.JSONEncoder(ensure_ascii=False).encode


def deeper_than(data: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest deeper; the counts alone settle nearly every case."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    # Up to the first fault in the JSON, beyond which nobody reads, a backslash stands in strings only.
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    steps = memoryview(outside.translate(_STEPS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0) > limit


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        msg = "a lone surrogate is no Unicode text"
        raise ValueError(msg) from None
