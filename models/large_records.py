"""Work on large records of routes and on large documents, done in a process of the pool: see `models/large.py`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from models import strictjson
from models.errors import InvalidDocument, InvalidRequest
from models.expression import LOOKUPS, Expression, Path, document_expression, put_all
from models.framing import framing
from models.result import read_document
from models.route import MAX_VALUES, too_many
from models.schema import kind
from models.strictjson import Raw

SMALL = 16 << 10
"""Bytes of a record up to which it is no large one."""
LARGE_RECORD = 1 << 20
"""Bytes of a record from which on it is, however few values it has."""
MANY = 4_000
"""Values of a record, each of which takes microseconds, from which on it is."""


def text_of(value: Any) -> Any:
    """Return a nested value as text, any other as it is; an empty list or object too, which `when` takes for false."""
    return Raw(value, kind(value)) if value and isinstance(value, list | dict) else value


def is_large_record(value: bytes) -> bool:
    """Whether to read a record of a route in another process: it has many values, each of which takes microseconds."""
    if len(value) < SMALL:
        return False
    return len(value) > LARGE_RECORD or sum(map(value.count, (b",", b"[", b"{"))) > MANY


def is_large_value(value: Any) -> bool:
    """Whether a value that was no JSON has as many values in it."""
    waiting, count = [value], 0
    while waiting and count <= MANY:
        each = waiting.pop()
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        count += len(inner)
        waiting += [one for one in inner if isinstance(one, dict | list)]
    return count > MANY


def _record(value: bytes) -> Any:
    try:
        return strictjson.loads(value, exact=True)
    except ValueError as exc:
        msg = f"the value is not JSON: {framing(value) or exc}"
        raise InvalidRequest(msg) from None


def evaluate(
    value: bytes, texts: Sequence[tuple[str, bool]], seen: Mapping[str, Any], answers: Mapping[str, bytes],
    names: Sequence[str],
) -> bytes:  # fmt: skip
    """Evaluate expressions over a record; of those with true, each value of a list is requested.

    Returns, pickled, which of `names` the record has at its top, None if it is no object, and each value; nested ones
    are text. A ValueError stands for one that there is not.
    """
    members = _record(value)
    scope = {**seen, "value": members, LOOKUPS: {name: read_document(text) for name, text in answers.items()}}
    found: list[Any] = []
    for text, one_by_one in texts:
        try:
            each = _expression(text).evaluate(scope)
            found.append(_listed(each) if one_by_one and isinstance(each, list) else text_of(each))
        except ValueError as exc:
            found.append(ValueError(str(exc)))
    there = {name for name in names if name in members} if isinstance(members, dict) else None
    return pickle.dumps((there, found), pickle.HIGHEST_PROTOCOL)


@lru_cache(maxsize=512)
def _expression(text: str) -> Expression:
    return Expression(text)


def _listed(values: list[Any]) -> list[Any]:
    if len(values) > MAX_VALUES:
        raise ValueError(too_many(len(values)))
    return [text_of(each) for each in values]


def merge(value: bytes, answers: Sequence[tuple[str, bytes]]) -> bytes:
    """Put answers into their places in a record."""
    members = _record(value)
    if members is not None and not isinstance(members, dict):
        msg = f"the value is {kind(members)}, which cannot hold an answer"
        raise InvalidRequest(msg)
    places = [(Path(text), answer) for text, answer in answers]
    try:
        merged = put_all(members, places, lambda text, opened: read_document(text) if opened else Raw.of_text(text))
    except ValueError as exc:
        raise InvalidRequest(str(exc)) from None
    return strictjson.dumps(merged, exact=True)


def pick(document: bytes, text: str) -> bytes:
    """Return the part of a document that an expression finds, as JSON; nothing if it finds nothing."""
    try:
        picked = document_expression(text).evaluate(read_document(document))
    except ValueError as exc:
        raise InvalidDocument(str(exc)) from None
    return b"" if picked is None else strictjson.dumps(picked, exact=True)
