"""Parses result records for the tables: what is counted, and the beginning of the row.

The topic may hold anything: a record that is not a result is counted as unreadable, and cannot end the worker. The part
that all results of the same request share (models/result.py) is parsed once: it is recognised by its bytes, between the
id before it and the members after it, so that a result costs the same whatever the size of its document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from models.errors import OUTCOMES
from models.request import MAX_CHECKS
from models.result import CACHE_STATES, RESULT_DEPTH, around_document, cut
from models.strictjson import deeper_than
from streams.http.limits import host_name

MAX_ID = 512
"""Bytes of an id, as JSON, that are kept; a result of ours has no longer one."""
MAX_URL, MAX_MESSAGE, MAX_NAME = 2_048, 500, 200
"""Characters of a URL, an error's message, a host's or a check's name that are kept in rows."""
MAX_MS = 1e12
"""Milliseconds beyond which a duration is taken for 0."""
MEMO_BYTES, MEMO_ENTRIES = 16 << 20, 20_000
"""Bytes and number of shared parts that are kept."""
MEMO_LARGEST = 64 << 10
"""Bytes of a shared part beyond which it is not kept."""
DEFAULT_PORTS = {"http": 80, "https": 443}

_encode = json.JSONEncoder(separators=(",", ":")).encode


class InvalidResult(ValueError):
    """A record that is not a result."""


class CheckRun(NamedTuple):
    """One check of a result: `micros` is what it took, in microseconds."""

    name: str
    failed: bool
    micros: int


class Shared(NamedTuple):
    """What results for the same request share. `place` is its outcome and the key of its row among the hosts, `head`
    its part of an answer's row, encoded, with a comma before. `interim`: its request is tried again later, so it is no
    answer yet.
    """

    place: tuple[str, str | None]
    error: dict[str, Any] | None
    checks: tuple[CheckRun, ...]
    head: bytes
    interim: bool = False


class ParsedResult(NamedTuple):
    """One result. `id` is an encoded JSON string, `micros` the elapsed time in microseconds."""

    id: bytes
    shared: Shared
    cache: str | None
    micros: int


class ResultParser:
    """Parses results; keeps shared parts, within bounds. `apart`: sources with a row of their own among the hosts."""

    def __init__(self, apart: frozenset[str] = frozenset()) -> None:
        self._apart = apart
        self._shared: dict[bytes, Shared] = {}
        self._bytes = 0

    def parse(self, value: bytes | None) -> ParsedResult:
        """Parse one record's value. Raises InvalidResult."""
        if value is None:
            msg = "a tombstone"
            raise InvalidResult(msg)
        parts = cut(value)
        if parts is None:
            return _read_any(value, self._apart)
        request_id, middle, cache, elapsed_ms = parts
        shared = self._shared.get(middle)
        if shared is None:
            # Members that are whole between braces are whole here: then so is the result around them.
            around = _around(middle) if len(middle) > MEMO_LARGEST else None
            shared = _shared(_parse(b"{%b}" % middle) if around is None else around, self._apart)
            if not shared.interim:  # each is another
                self._remember(middle, shared)
        return ParsedResult(request_id, shared, cache, int(elapsed_ms * 1000 + 0.5))

    def _remember(self, middle: bytes, shared: Shared) -> None:
        if len(middle) > MEMO_LARGEST:
            return
        self._bytes += len(middle)
        if self._bytes > MEMO_BYTES or len(self._shared) >= MEMO_ENTRIES:
            self._shared.clear()
            self._bytes = len(middle)
        self._shared[middle] = shared


def _around(middle: bytes) -> dict[str, Any] | None:
    """Return the members around a large document without parsing it, which would hold up the event loop; None for a
    shared part in another form than ours.
    """
    parts = around_document(middle)
    if parts is None:
        return None
    head, tail, check_lists = parts
    if len(head) > MEMO_LARGEST or len(tail) >= MEMO_LARGEST:
        return None
    members = {**_parse(b"{%b}" % head), **_parse(b"{%b}" % tail)}
    for each in check_lists:
        try:
            checks = _decode(each.decode())
        except ValueError:
            continue
        if isinstance(checks, list):
            return {**members, "checks": checks}
    return members


def _parse(value: bytes) -> Mapping[str, Any]:
    try:
        if deeper_than(value, RESULT_DEPTH):
            msg = "nested too deep"
            raise InvalidResult(msg)
        result = _decode(value.decode())
    except ValueError as exc:
        raise InvalidResult(str(exc)) from None
    if not isinstance(result, dict):
        msg = "not a JSON object"
        raise InvalidResult(msg)
    return result


def _refuse(name: str) -> NoReturn:
    msg = f"{name} is not a JSON number"
    raise InvalidResult(msg)


# Half the cost of strictjson, which also looks for duplicate keys: they do not matter here.
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _read_any(value: bytes, apart: frozenset[str]) -> ParsedResult:
    """Parse a result in another form than ours."""
    result = _parse(value)
    found = result.get("id")
    encoded = _encode(found).encode() if isinstance(found, str) and found else b""
    if not 0 < len(encoded) <= MAX_ID:
        msg = "no valid id"
        raise InvalidResult(msg)
    cache = result.get("cache")
    return ParsedResult(
        encoded, _shared(result, apart), cache if cache in CACHE_STATES else None, _micros(result.get("elapsed_ms"))
    )


def _shared(result: Mapping[str, Any], apart: frozenset[str]) -> Shared:
    outcome = result.get("outcome")
    if not isinstance(outcome, str) or outcome not in OUTCOMES:
        msg = "no valid outcome"
        raise InvalidResult(msg)
    request = result.get("request")
    url = _text(request, "url", MAX_URL)
    host = _host(url[: url.find("/", len("https://")) + 1] or url) if url else None
    error = _error(result.get("error"))
    members: dict[str, Any] = {"outcome": outcome}
    if (status := _whole(result.get("status"))) is not None:
        members["status"] = status
    if url is not None:
        members["url"] = url
    if (source := _text(request, "source", MAX_NAME)) is not None:
        members["source"] = source
    if host is not None:
        members["host"] = host
    if (fetched_at := _text(result, "fetched_at", MAX_NAME)) is not None:
        members["fetched_at"] = fetched_at
    if (attempts := _whole(result.get("attempts"))) is not None:
        members["attempts"] = attempts
    if error is not None:
        members["error"] = error
    head = _encode(members)
    if source in apart:
        host = row_of(source, host)
    runs, interim = _runs(result.get("checks")), outcome != "ok" and isinstance(result.get("retry_at"), str)
    return Shared((outcome, host), error, runs, b"," + head[1:-1].encode(), interim)


def _text(owner: Any, name: str, most: int) -> str | None:
    value = owner.get(name) if isinstance(owner, dict) else None
    return value[:most] if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 53 else None


def row_of(source: str, host: str | None) -> str:
    """Return the key of a source's own row among the hosts; a function has no host."""
    return f"source {source}" if host is None else host_name(host, source)


@lru_cache(maxsize=4096)
def _host(url: str) -> str | None:
    try:
        url.encode()  # a lone surrogate is no key
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not host or len(host) > MAX_NAME or port is None:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _error(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return {
        "type": _text(value, "type", MAX_NAME) or "",
        "message": _text(value, "message", MAX_MESSAGE) or "",
        "retryable": value.get("retryable") is True,
    }


def _runs(value: Any) -> tuple[CheckRun, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        CheckRun(check["name"], "error" in check, _micros(check.get("elapsed_ms")))
        for check in value[:MAX_CHECKS]
        if isinstance(check, dict) and isinstance(check.get("name"), str) and _is_name(check["name"])
    )


def _is_name(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= MAX_NAME
    except UnicodeEncodeError:  # a lone surrogate is no key
        return False


def _micros(milliseconds: Any) -> int:
    if type(milliseconds) in (int, float) and 0 <= milliseconds < MAX_MS:
        return int(milliseconds * 1000 + 0.5)
    return 0


__all__ = ["CheckRun", "InvalidResult", "ParsedResult", "ResultParser", "Shared"]
