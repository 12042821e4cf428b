"""Reads the type hints of a check's value and arguments, as JSON types that a request's sender knows."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from models.schema import kind

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of JSON value: its name for one and for many, and whether a value is one."""

    one: str
    many: str
    fits: Callable[[Any], bool]

    def problem(self, value: Any) -> str:
        """Return what is wrong with a value that does not fit."""
        return f"{self.one}, not {_described(value, self.one)}"


@dataclass(frozen=True, slots=True)
class Argument:
    """A named argument: its shape, and its default unless it is `required`."""

    shape: Shape
    required: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a check takes: a value, arguments by name, and `others` or not."""

    value: Shape
    arguments: Mapping[str, Argument]
    others: bool
    required: frozenset[str]
    unannotated: str | None = None
    """The name of the value's parameter, which `others` excludes."""

    def problems(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the problem of each invalid argument, by name."""
        wrong = dict.fromkeys(sorted(self.required - given.keys()), "missing")
        for name, value in given.items():
            argument = self.arguments.get(name)
            if argument is None:
                if not self.others or name == self.unannotated:
                    wrong[name] = f"no such argument; known: {', '.join(self.arguments) or 'none'}"
            elif not argument.shape.fits(value):
                wrong[name] = f"must be {argument.shape.problem(value)}"
        return wrong


MAX_SHOWN = 40
"""Characters of a value in a message."""
_MANY = {"null": "nulls", "a boolean": "booleans", "a number": "numbers", "a string": "strings",
         "an array": "arrays", "an object": "objects"}  # fmt: skip


def _described(value: Any, wanted: str) -> str:
    """Describe a value precisely enough to show how it differs from the wanted type."""
    name = kind(value)
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        kinds = dict.fromkeys(_MANY[kind(each)] for each in inner) if f"{name} of " in wanted else ()
        return f"{name} of {' and '.join(kinds)}" if kinds else name
    return json.dumps(value, ensure_ascii=False)[:MAX_SHOWN] if "one of " in wanted else name


ANYTHING = Shape("anything", "anything", lambda _: True)
_PLAIN: dict[Any, Shape] = {
    Any: ANYTHING,
    object: ANYTHING,
    inspect.Parameter.empty: ANYTHING,
    bool: Shape("a boolean", "booleans", lambda value: isinstance(value, bool)),
    int: Shape("an integer", "integers", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: Shape("a number", "numbers", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    str: Shape("a string", "strings", lambda value: isinstance(value, str)),
    None: Shape("null", "nulls", lambda value: value is None),
    types.NoneType: Shape("null", "nulls", lambda value: value is None),
    list: Shape("an array", "arrays", lambda value: isinstance(value, list)),
    dict: Shape("an object", "objects", lambda value: isinstance(value, dict)),
}


def signature_of(function: Callable[..., Any]) -> Signature:
    """Read a check's signature. Raises ValueError for a parameter that no request can give."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in POSITIONAL:
        msg = "it has no parameter for the value: the first one is the value to check"
        raise ValueError(msg)
    first, *rest = parameters
    arguments = {each.name: _argument(function, each) for each in rest if each.kind in NAMED}
    for each in rest:
        if each.kind not in (*NAMED, inspect.Parameter.VAR_KEYWORD):
            msg = f"its parameter {each.name!r} is positional-only: requests give arguments by name"
            raise ValueError(msg)
    return Signature(
        _shape(function, first),
        arguments,
        others=any(each.kind is inspect.Parameter.VAR_KEYWORD for each in rest),
        required=frozenset(name for name, argument in arguments.items() if argument.required),
        unannotated=first.name if first.kind in NAMED else None,
    )


def _argument(function: Callable[..., Any], parameter: inspect.Parameter) -> Argument:
    required = parameter.default is inspect.Parameter.empty
    return Argument(_shape(function, parameter), required, None if required else parameter.default)


def _shape(function: Callable[..., Any], parameter: inspect.Parameter) -> Shape:
    holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        # Names in hints belong to the module that wrote them, not to that of a decorator around the function.
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        return shape_of(typing.get_type_hints(holder, namespace)["it"])
    except Exception as exc:  # evaluating a plugin's hint may raise anything
        msg = f"the type hint of {parameter.name!r}, {parameter.annotation}, is not a JSON type: {exc}"
        raise ValueError(msg) from exc


def shape_of(hint: Any) -> Shape:
    """Return the JSON values that a type hint allows. Raises ValueError if it allows none."""
    try:
        if hint in _PLAIN:
            return _PLAIN[hint]
    except TypeError:  # a Literal of a list cannot be hashed
        pass
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _either([shape_of(part) for part in parts])
    if origin is Literal and all(part is None or isinstance(part, bool | int | float | str) for part in parts):
        choices = ", ".join(json.dumps(part, ensure_ascii=False) for part in parts)
        return Shape(f"one of {choices}", f"any of {choices}", lambda value: any(_is(value, part) for part in parts))
    if (origin or hint) in (list, Sequence):
        return _array(shape_of(parts[0]) if parts else ANYTHING)
    if (origin or hint) in (dict, Mapping) and parts[:1] in ((), (str,)):
        return _object(shape_of(parts[1]) if parts else ANYTHING)
    msg = "use bool, int, float, str, None, list, dict, Literal, unions of these, or Any"
    raise ValueError(msg)


def _either(shapes: list[Shape]) -> Shape:
    return Shape(
        " or ".join(shape.one for shape in shapes),
        " or ".join(shape.many for shape in shapes),
        lambda value: any(shape.fits(value) for shape in shapes),
    )


def _array(item: Shape) -> Shape:
    of = "" if item is ANYTHING else f" of {item.many}"
    return Shape(f"an array{of}", f"arrays{of}", lambda value: isinstance(value, list) and all(map(item.fits, value)))


def _object(member: Shape) -> Shape:
    of = "" if member is ANYTHING else f" of {member.many}"
    return Shape(
        f"an object{of}",
        f"objects{of}",
        lambda value: isinstance(value, dict) and all(map(member.fits, value.values())),
    )


def _is(value: Any, part: Any) -> bool:
    return type(value) is type(part) and bool(value == part)
