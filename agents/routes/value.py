"""A document as a route uses it: its JSON as it came, parsed only where somebody looks inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from models import strictjson
from models.result import RESULT_DEPTH

_DOCUMENT = b',"document":'
_CHECKS = b',"checks":['
_scan = json.JSONDecoder().raw_decode

KEPT_BYTES = 4 << 20
"""Bytes of answers whose values are kept, in each of two generations."""


class Value:
    """A JSON value: `text` is its JSON. `loaded` is parsed on first use, its numbers with all of their digits."""

    __slots__ = ("_loaded", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._loaded: Any = _scan  # nothing that JSON has

    @classmethod
    def of(cls, loaded: Any) -> Value:
        """Return a value of what is parsed already."""
        value = cls(strictjson.dumps(loaded, exact=True))
        value._loaded = loaded
        return value

    @classmethod
    def array(cls, values: Sequence[Value]) -> Value:
        """Return an array of values."""
        return cls(b"[%b]" % b",".join(value.text for value in values))

    @property
    def loaded(self) -> Any:
        """Return the parsed value; others hold it too, so it must not be changed."""
        if self._loaded is _scan:
            self._loaded = strictjson.loads(self.text, max_depth=RESULT_DEPTH, exact=True)
        return self._loaded


NULL = Value(b"null")


class Answered:
    """What a source answered: its document (null without one), and the results of checks as JSON items."""

    __slots__ = ("checks", "document")

    def __init__(self, shared: bytes) -> None:
        """Take an `ok` answer apart, see `models.result.encode_answer`: no string in it can contain these marks."""
        begin = shared.find(_DOCUMENT)
        rest = shared
        self.document = NULL
        if begin >= 0:
            rest = shared[begin + len(_DOCUMENT) :]
            text = rest.decode()
            end = len(text[: _scan(text)[1]].encode()) if not rest.isascii() else _scan(text)[1]
            self.document, rest = Value(rest[:end]), rest[end:]
        at = rest.find(_CHECKS)
        self.checks = NULL
        if at >= 0:
            text = rest[at + len(_CHECKS) - 1 :].decode()
            self.checks = Value(text[: _scan(text)[1]].encode())


class AnsweredCache:
    """Answers taken apart, by their bytes: an answer that is cached is taken apart once. Bounded."""

    def __init__(self) -> None:
        self._young: dict[bytes, Answered] = {}
        self._old: dict[bytes, Answered] = {}
        self._bytes = 0

    def of(self, shared: bytes) -> Answered:
        """Return an `ok` answer, taken apart."""
        found = self._young.get(shared) or self._old.get(shared)
        if found is None:
            found = Answered(shared)
        elif shared in self._young:
            return found
        if self._bytes + len(shared) > KEPT_BYTES:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._young[shared] = found
        self._bytes += len(shared)
        return found
