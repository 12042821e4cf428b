"""A document as a route uses it: its JSON as it came, parsed only where somebody looks inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models import strictjson
from models.documents import UNREAD
from models.errors import InvalidDocument
from models.kept import Kept
from models.result import document_and_checks, read_document

KEPT_BYTES = 4 << 20
"""Bytes of answers whose values are kept, in each of two generations."""


class Value:
    """A JSON value: `text` is its JSON. `loaded` is parsed on first use, its numbers with all of their digits."""

    __slots__ = ("_loaded", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._loaded: Any = UNREAD

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
        if self._loaded is UNREAD:
            self._loaded = read_document(self.text)
        return self._loaded


NULL = Value(b"null")


class Answered:
    """What a source answered: its document (null without one), and the results of checks as JSON items.

    `picked` are the parts of a large document that another process found, by expression.
    """

    __slots__ = ("checks", "document", "picked")

    def __init__(self, shared: bytes) -> None:
        """Take an `ok` answer's shared part apart."""
        document, checks = document_and_checks(shared)
        self.document = NULL if document is None else Value(document)
        self.checks = NULL if checks is None else Value(checks)
        self.picked: dict[str, Value | InvalidDocument | None] = {}


class AnsweredCache(Kept[bytes, Answered]):
    """Answers taken apart, by their bytes: an answer that is cached is taken apart once."""

    def __init__(self) -> None:
        super().__init__(KEPT_BYTES)

    def of(self, shared: bytes) -> Answered:
        """Return an `ok` answer, taken apart."""
        found = self.young.get(shared) or self.get(shared, len(shared))
        if found is None:
            found = Answered(shared)
            self.put(shared, found, len(shared))
        return found
