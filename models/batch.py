"""Bulk lookups: how many keys are requested in one call, and how its answer is taken apart.

An item's JSON keeps the digits of its numbers; blanks and escapes are written anew.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from models import documents, strictjson
from models.documents import Body
from models.errors import InvalidDocument, InvalidRequest
from models.expression import WHOLE, Expression, document_expression
from models.schema import kind
from models.template import as_text

SIZE, WAIT = 50, 0.01
"""Keys a call, and seconds that the first of them waits for others, by default."""
MAX_SIZE, MAX_WAIT = 1_000, 10.0
"""The most of both."""
REFUSED = frozenset({400, 413, 414})
"""Statuses of a call that was refused as a whole: each half of its keys is requested by itself."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The keys are values of the parameter `param`. `items` finds an array in the answer, whose items have their keys
    at `key`; without `key` it finds an object that has them by their keys. A call has at most `size` keys, and its
    first one waits at most `wait` seconds for others. With a status of `split` it is refused as a whole.
    """

    param: str
    items: Expression
    key: Expression | None = None
    size: int = SIZE
    wait: float = WAIT
    split: frozenset[int] = REFUSED


class Items(NamedTuple):
    """The JSON of the items of an answer, by key, and the keys for which there are several that differ."""

    found: Mapping[str, bytes]
    ambiguous: frozenset[str] = frozenset()


def take_apart(body: Body, batch: Batch, wanted: Collection[str]) -> Items:
    """Return the items of an answer for the `wanted` keys. Raises InvalidDocument for an answer that has none to find.

    Items that nobody wanted are left out, and so are null, and items without a key, unless all are.
    """
    value = documents.read_json(body)
    try:
        items = batch.items.evaluate(value) if batch.items.text != WHOLE else value
        pairs = list(_pairs(items, batch))
    except ValueError as exc:
        msg = f"batch.items ({batch.items.text}): {exc}"
        raise InvalidDocument(msg) from None
    found: dict[str, bytes] = {}
    ambiguous: set[str] = set()
    for key, item in pairs:
        if key in wanted:
            text = strictjson.dumps(item, exact=True)
            if found.setdefault(key, text) != text:
                ambiguous.add(key)
    return Items(found, frozenset(ambiguous))


def take_apart_large(
    content: bytes, media_type: str, charset: str | None, texts: tuple[str, str | None], wanted: Collection[str]
) -> bytes:
    """Do the same in a process of the pool, by the `texts` of `items` and `key`; returns the items pickled."""
    items, key = texts
    batch = Batch("", document_expression(items), None if key is None else document_expression(key))
    return pickle.dumps(tuple(take_apart(Body(content, media_type, charset), batch, wanted)), pickle.HIGHEST_PROTOCOL)


def _pairs(items: Any, batch: Batch) -> Iterable[tuple[str, Any]]:
    """Yield each item with its key. Raises ValueError for what has no items."""
    if batch.key is None:
        if not isinstance(items, dict):
            msg = f"finds {kind(items)}, not an object of items by their keys; with batch.key it may be an array"
            raise ValueError(msg)
        return ((key, item) for key, item in items.items() if item is not None)
    if not isinstance(items, list):
        msg = f"finds {kind(items)}, not an array"
        raise ValueError(msg)  # noqa: TRY004  it is about the answer
    keyed = [(_key(item, batch.key), item) for item in items if item is not None]
    pairs = [(key, item) for key, item in keyed if key is not None]
    if keyed and not pairs:
        msg = f"finds {len(keyed)} items, none with a key at batch.key ({batch.key.text})"
        raise ValueError(msg)
    return pairs


def _key(item: Any, key: Expression) -> str | None:
    """Return an item's key as a template would write it, None if it has none."""
    if key.path is not None and not isinstance(item, dict):
        return None
    try:
        found = key.evaluate(item)
        return None if found is None else as_text("key", found)
    except (ValueError, InvalidRequest):
        return None
