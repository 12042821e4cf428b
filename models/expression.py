"""Expressions over a record, in JMESPath, compiled once. A plain path such as `value.customer.id`, which most are, is
followed by hand, at a tenth of the cost.

The names at the beginning: `value`, `key`, `headers`, `topic`, `partition`, `offset`, `timestamp` (milliseconds since
the epoch), and `lookups.NAME`, the document that another lookup of the same record has brought.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

from models import strictjson

RECORD_NAMES = ("value", "key", "headers", "topic", "partition", "offset", "timestamp")
"""Names of a record's parts."""
LOOKUPS = "lookups"
"""The name under which the documents of other lookups are."""
T = TypeVar("T")
WHOLE = "@"
"""The expression of the whole."""
MAX_EXPRESSION = 1_000
"""Characters of an expression."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_OF_ELEMENTS = {"projection": 1, "value_projection": 1, "filter_projection": 1, "pipe": 1, "subexpression": 1,
                "index_expression": 1, "expref": 0}  # fmt: skip
"""Nodes whose children, from this one on, speak of what the first one found, and not of the record."""


class Expression:
    """An expression and the `lookups` that it uses. Raises ValueError, with what is wrong, for an invalid one.

    `exact`: it makes something of numbers, whose digits must all be there.
    `document`: it speaks of a document, any names are allowed and there are no lookups.
    """

    def __init__(self, text: str, *, document: bool = False) -> None:
        self.text = text
        self.path = tuple(text.split(".")) if _PLAIN.fullmatch(text) else None
        if len(text) > MAX_EXPRESSION:
            msg = f"has {len(text)} characters; at most {MAX_EXPRESSION} are allowed"
            raise ValueError(msg)
        self._tree = None if self.path is not None else _compile(text)
        self.lookups = frozenset[str]() if document else frozenset(_lookups(self._tree or _path_tree(self.path)))
        self.exact = self._tree is not None and _needs_digits(self._tree)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """Return the value, None where there is none. Raises ValueError for a value of a wrong type."""
        if self.path is not None:
            found: Any = scope
            for name in self.path:
                if type(found) is not dict and not isinstance(found, Mapping):
                    return None
                found = found.get(name)
            return found
        assert self._tree is not None
        from models import jmes  # noqa: PLC0415  loaded by now

        try:
            return jmes.search(self._tree, scope)
        except (ValueError, RecursionError, TypeError, ArithmeticError) as exc:  # JMESPath's own are ValueErrors
            raise ValueError(str(exc) or type(exc).__name__) from None


@lru_cache(maxsize=512)
def document_expression(text: str) -> Expression:
    """Return an expression over a document, made once: work on large ones gets its text. Raises ValueError."""
    return Expression(text, document=True)


def _compile(text: str) -> Mapping[str, Any]:
    from models import jmes  # noqa: PLC0415  most need no more than a path

    try:
        return jmes.compiled(text)
    except (ValueError, RecursionError) as exc:
        msg = f"is not a JMESPath expression: {str(exc).splitlines()[0] if str(exc) else type(exc).__name__}"
        raise ValueError(msg) from None


def _needs_digits(tree: Mapping[str, Any]) -> bool:
    from models import jmes  # noqa: PLC0415  loaded by now

    return not jmes.OF_DIGITS.isdisjoint(jmes.functions_of(tree))


def _path_tree(path: tuple[str, ...] | None) -> Mapping[str, Any]:
    """Return what JMESPath would make of a path."""
    steps = [{"type": "field", "children": [], "value": name} for name in path or ()]
    return steps[0] if len(steps) == 1 else {"type": "subexpression", "children": steps}


def is_true(value: Any) -> bool:
    """Whether a value is true as JMESPath has it: not null, false, or empty. Zero is true."""
    return value is not None and value is not False and value not in ("", [], {})


def _lookups(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of lookups that an expression uses. Raises ValueError for names that there are not."""
    kind, children = node["type"], node["children"]
    if kind == "current":
        msg = f"@ is the whole record: name the part of it ({', '.join(RECORD_NAMES)})"
        raise ValueError(msg)
    if kind == "field":
        if node["value"] == LOOKUPS:
            msg = f"say which lookup: {LOOKUPS}.NAME"
            raise ValueError(msg)
        if node["value"] not in RECORD_NAMES:
            msg = f"no {node['value']!r} in a record; known: {', '.join((*RECORD_NAMES, f'{LOOKUPS}.NAME'))}"
            raise ValueError(msg)
    named = kind == "subexpression" and children[0]["type"] == "field" and children[0]["value"] == LOOKUPS
    if named:
        yield from _names_of(children[1])
        return
    for child in children[: _OF_ELEMENTS.get(kind)]:
        yield from _lookups(child)


def _names_of(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the first names of what follows `lookups`: `lookups.{a: risk, b: prices}` has two."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield str(node["value"])
    elif kind in ("multi_select_dict", "multi_select_list"):
        for child in children:
            yield from _names_of(child)
    elif children:
        yield from _names_of(children[0])
    else:
        msg = f"say which lookup: {LOOKUPS}.NAME"
        raise ValueError(msg)


class Path:
    """A place in a record's value, `risk` or `customer.risk`. Raises ValueError for what is none.

    `quoted` is the first of its `steps` as JSON.
    """

    def __init__(self, text: str) -> None:
        if not _PLAIN.fullmatch(text) or len(text) > MAX_EXPRESSION:
            msg = "is not a path: give names separated by dots, such as customer.risk"
            raise ValueError(msg)
        self.text = text
        self.steps = tuple(text.split("."))
        self.quoted = strictjson.quote(self.steps[0])

    def __repr__(self) -> str:
        return f"Path({self.text!r})"

    def put(self, members: dict[str, Any], value: Any) -> None:
        """Put a value into its place; objects around it are made, and copied, as others may hold them too.

        Raises ValueError where the record has something else than an object on the way.
        """
        *parents, last = self.steps
        for name in parents:
            inner = members.get(name)
            if inner is not None and not isinstance(inner, dict):
                msg = f"{name!r} on the way to {self.text!r} is not an object"
                raise ValueError(msg)
            members[name] = members = dict(inner or {})
        members[last] = value


def put_all(
    members: Mapping[str, Any] | None, answers: Sequence[tuple[Path, T]], made_of: Callable[[T, bool], Any]
) -> dict[str, Any]:
    """Return an object with answers in their places; `made_of` returns an answer's value, as an object of its own where
    another answer goes into it. Raises ValueError where a place cannot be had.
    """
    result: dict[str, Any] = dict(members or {})
    for path, answer in answers:
        size = len(path.steps)
        opened = any(len(other.steps) > size and other.steps[:size] == path.steps for other, _ in answers)
        path.put(result, made_of(answer, opened))
    return result


def may_lack_digits(value: Any) -> bool:
    """Whether a value has numbers that a double may have changed: a quick reading of JSON makes doubles."""
    match value:
        case bool() | str() | None:
            return False
        case int():
            return value == 0  # -0
        case dict():
            return any(map(may_lack_digits, value.values()))
        case list():
            return any(map(may_lack_digits, value))
    return not isinstance(value, strictjson.Number)


def plain(value: Any) -> Any:
    """Return a decoded value with every Decimal as a number that keeps its digits and that expressions can compare."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case Decimal():  # a whole number may be an identifier of more digits than a double has
            return int(value) if value.as_tuple().exponent == 0 else strictjson.Number(str(value))
    return value
